"""`vzvideo bench`: words in, words out. The work is done by `bench`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vzvideo.cli.options import progress_bars, say
from vzvideo.errors import SettingsError


def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            help="encoder, prefill, sizes, decode, ask, questions, growth; all that is possible."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="JSON file for every number; parts are added to it.")
    ] = Path("bench.json"),
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Smaller and fewer of all; with no part named, in three minutes."
        ),
    ] = False,
    repeats: Annotated[
        int | None,
        typer.Option(
            min=1, help="At most, of everything (7; 3 with --quick, 2 where no part is named)."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Name, hub id or folder.")] = "mini",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    geometry: Annotated[
        str | None,
        typer.Option(help="Random weights of a shape instead: video-llava-7b or llava-next."),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(min=1, help="With --geometry: so many of its layers, for a trial.")
    ] = None,
    shared_layers: Annotated[
        bool,
        typer.Option(
            "--shared-layers",
            help="With --geometry: all layers read the weights of one, where memory is short.",
        ),
    ] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="The encoder through torch.compile as well.")
    ] = False,
    video: Annotated[
        Path | None, typer.Option(help="For ask and questions, in place of a clip made here.")
    ] = None,
    scratch: Annotated[Path, typer.Option(help="Folder for clips made here.")] = Path(
        ".cache/benchmark"
    ),
) -> None:
    """Measure speed and memory of every stage, against what others do and against the limit."""
    if (layers or shared_layers) and not geometry:
        option = "--layers" if layers else "--shared-layers"
        raise SettingsError(f"{option}: is for --geometry; a model has the layers that it has")
    from vzvideo.bench import run
    from vzvideo.bench.models import Setup
    from vzvideo.models import catalog, weights
    from vzvideo.video.base import check_file

    chosen = run.choose(parts or [], geometry, quick)
    if video:
        check_file(video)
    name = Path(model).name if Path(model).is_dir() else model
    if not geometry:
        card = catalog.find(model)
        folder = weights.locate(card)
        if folder is None:
            with progress_bars() as progress:
                folder = weights.pull(card, progress=progress)
        model = str(folder)
    # A published shape is measured whole, as its page shows it.
    brief = quick and not parts and not geometry
    setup = Setup(
        model=model,
        name=name,
        device=_device(device),
        geometry=geometry,
        layers=layers,
        shared_layers=shared_layers,
        repeats=repeats or (2 if brief else 3 if quick else 7),
        quick=quick,
        brief=brief,
        compiled=compiled,
        scratch=scratch,
        video=video,
    )
    command = ["vzvideo", *sys.argv[1:]]
    results = run.run(chosen, setup, out, command)
    _print_summary({part: results[part] for part in chosen})
    say(str(out))
    if failed := [part for part in chosen if "error" in results[part]]:
        say(f"failed: {', '.join(failed)}")
        raise typer.Exit(1)


def _print_summary(results: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from vzvideo.bench.summary import summary

    table = Table(box=None, pad_edge=False)
    for heading in ("", "vzvideo", "beside", ""):
        table.add_column(heading)
    for line in summary(results):
        table.add_row(*line)
    console = Console(highlight=False)
    console.print()
    console.print(table)


def _device(name: str) -> str:
    import torch

    here = torch.cuda.is_available()
    if name not in ("auto", "cpu", *(["cuda"] if here else [])):
        raise SettingsError(
            f"device {name!r}: choose auto or cpu"
            + (" or cuda; CUDA_VISIBLE_DEVICES says which" if here else "")
        )
    return ("cuda" if here else "cpu") if name == "auto" else name
