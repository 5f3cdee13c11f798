"""The commands for whole corpora: words in, words out. The work is done by `corpus`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vzvideo.cli_options import ANSWERING, Json, say, with_settings
from vzvideo.errors import SettingsError

if TYPE_CHECKING:
    from vzvideo.corpus import Progress, Summary
    from vzvideo.manifest import Task

_Videos = Annotated[
    list[str] | None,
    typer.Option("--videos", help="File, folder, 'clips/**/*.mp4' or s3://bucket/raw/; several."),
]
_Deadline = Annotated[float, typer.Option(min=1, help="Seconds that decoding a video may take.")]
_Memory = Annotated[float, typer.Option(min=1, help="GiB that decoding a video may take.")]
_Tries = Annotated[int, typer.Option(min=1, help="Tries of a video that kills its decoder.")]
_Retry = Annotated[bool, typer.Option("--retry-failed", help="Try again what failed before.")]
_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what it would take; read headers only.")
]


@with_settings(**ANSWERING)
def batch(
    settings: Any,
    manifest: Annotated[
        str | None, typer.Argument(help="JSONL, CSV or Parquet with id, video, question.")
    ] = None,
    out: Annotated[str | None, typer.Option("-o", "--out", help="Folder or URI for rows.")] = None,
    videos: _Videos = None,
    questions: Annotated[
        list[str] | None,
        typer.Option("--ask", help="What to ask of all --videos, or of all in --tokens; several."),
    ] = None,
    tokens: Annotated[
        str | None, typer.Option(help="Folder that `index` wrote, asked instead of the videos.")
    ] = None,
    file_format: Annotated[str, typer.Option("--format", help="parquet or jsonl.")] = "parquet",
    retry_failed: _Retry = False,
    video_deadline: _Deadline = 300.0,
    decode_gib: _Memory = 4.0,
    tries: _Tries = 2,
    dry_run: _DryRun = False,
    as_json: Json = False,
) -> None:
    """Ask a whole corpus; every question ends as a row, whatever dies on the way."""
    from vzvideo import manifest as manifests
    from vzvideo.video.guarded import Guard

    if (manifest is not None) == bool(questions):
        raise SettingsError("what to ask: give a manifest, or --ask with --videos or --tokens")
    if manifest is not None and videos:
        raise SettingsError("--videos: a manifest names its own")
    if questions and not videos and not tokens:
        raise SettingsError("--ask: of which videos? Give --videos, or --tokens for all in it")
    if dry_run and tokens:
        raise SettingsError("--dry-run: says what decoding would take, and --tokens needs none")
    if out is None and not dry_run:
        raise SettingsError("--out: say where the answers go, a folder or a URI")
    if manifest is not None:
        tasks = manifests.read(manifest)
    elif videos:
        tasks = manifests.find(videos, questions or ())
    else:
        from vzvideo import planning

        if (settings.start_s, settings.end_s) != (None, None):
            raise SettingsError("--start, --end: an index has parts of its own, or whole videos")
        tasks = planning.of_index(str(tokens), questions or (), say)
    guard = Guard(video_deadline, decode_gib, tries)
    if dry_run:
        _estimate(tasks, settings, guard, as_json)
        return
    from vzvideo import corpus

    with _bar() as show:
        summary = corpus.ask(
            tasks, str(out), settings, tokens=tokens, format=file_format,  # type: ignore[arg-type]
            guard=guard, retry_failed=retry_failed, progress=show, say=say,
        )  # fmt: skip
    _finish(summary, str(out), as_json)


@with_settings()
def index(
    settings: Any,
    manifest: Annotated[
        str | None, typer.Argument(help="Its videos and parts; its questions do not matter.")
    ] = None,
    videos: _Videos = None,
    out: Annotated[str | None, typer.Option("-o", "--out", help="Folder or URI.")] = None,
    retry_failed: _Retry = False,
    video_deadline: _Deadline = 300.0,
    decode_gib: _Memory = 4.0,
    tries: _Tries = 2,
    dry_run: _DryRun = False,
    as_json: Json = False,
) -> None:
    """Compress a corpus once; `batch --tokens` then asks it as often as you like."""
    from vzvideo import manifest as manifests
    from vzvideo.video.guarded import Guard

    if (manifest is None) == (videos is None):
        raise SettingsError("which videos: give a manifest, or --videos with a folder or a pattern")
    tasks = manifests.find(videos) if videos else manifests.read(str(manifest))
    guard = Guard(video_deadline, decode_gib, tries)
    if dry_run:
        _estimate(tasks, settings, guard, as_json)
        return
    if out is None:
        raise SettingsError("--out: say where the tokens go, a folder or a URI")
    from vzvideo import corpus

    with _bar() as show:
        summary = corpus.index(
            tasks, out, settings, guard=guard, retry_failed=retry_failed, progress=show, say=say
        )
    _finish(summary, out, as_json)


def _finish(summary: Summary, out: str, as_json: bool) -> None:
    failed = summary.failed.total()
    if as_json:
        about = vars(summary) | {"failed": dict(summary.failed), "out": out}
        typer.echo(json.dumps(about))
    else:
        typer.echo(out)
    why = ", ".join(f"{code} {count}" for code, count in summary.failed.most_common())
    say(
        f"{summary.rows} rows: {summary.rows - failed} good, {failed} failed"
        f"{f' ({why})' if why else ''}; {summary.kept} were there before; {summary.seconds:.0f} s"
    )
    if failed:
        raise typer.Exit(1)


def _estimate(tasks: list[Task], settings: Any, guard: Any, as_json: bool) -> None:
    from vzvideo import estimate

    found = estimate.estimate(tasks, settings, guard, say=say)
    about = vars(found) | {"unreadable": dict(found.unreadable)}
    typer.echo(json.dumps(about) if as_json else str(found))


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    """A line on stderr that says how far it is; where that is no terminal, one now and then."""
    import time

    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True)
    told = time.monotonic()

    def line(progress: Progress) -> str:
        left = "" if progress.left_s is None else f", {_span(progress.left_s)} left"
        failed = f", {progress.failed} failed" if progress.failed else ""
        return f"{progress.rows}/{progress.total} rows{failed}, {progress.rate:.2f} videos/s{left}"

    if console.is_terminal:
        with Live(Text("starting"), console=console, transient=True) as live:
            yield lambda progress: live.update(Text(line(progress)))
        return

    def now_and_then(progress: Progress) -> None:
        nonlocal told
        if time.monotonic() - told > 30:
            told = time.monotonic()
            say(line(progress))

    yield now_and_then


def _span(seconds: float) -> str:
    """3700 -> '1 h 02 min'."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
