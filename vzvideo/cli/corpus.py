"""The commands for whole corpora: words in, words out. The work is done by `corpus`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vzvideo.cli.options import ANSWERING, Json, echo_json, echo_path, say, with_settings
from vzvideo.errors import SettingsError
from vzvideo.words import format_duration, pluralize

if TYPE_CHECKING:
    from vzvideo.corpus.manifest import Task
    from vzvideo.corpus.progress import Progress, Summary

_TOLD_S = 30.0  # between two lines of progress where there is no terminal
_Videos = Annotated[
    list[str] | None,
    typer.Option(
        "--videos", metavar="PATTERN", help="Files, a folder, 'clips/**/*.mp4', s3://bucket/raw/."
    ),
]
_Deadline = Annotated[float, typer.Option(min=1, help="Seconds that decoding a video may take.")]
_Memory = Annotated[float, typer.Option(min=1, help="GiB that decoding a video may take.")]
_Tries = Annotated[int, typer.Option(min=1, help="Tries of a video that kills its decoder.")]
_Retry = Annotated[bool, typer.Option("--retry-failed", help="Try again what failed before.")]
_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what all of it would take, by headers and a trial.")
]


@with_settings(**ANSWERING)
def batch(
    settings: Any,
    given: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MANIFEST",
            help="JSONL, CSV or Parquet with id, video, question. After --videos: more videos.",
        ),
    ] = None,
    out: Annotated[str | None, typer.Option("-o", "--out", help="Folder or URI for rows.")] = None,
    videos: _Videos = None,
    questions: Annotated[
        list[str] | None,
        typer.Option(
            "--ask",
            metavar="QUESTION",
            help="What to ask of all --videos, or of all in --tokens; --ask again for more.",
        ),
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
    from vzvideo.corpus import manifest as manifests
    from vzvideo.corpus.results import check_format
    from vzvideo.video.guarded import Guard

    given = given or []
    if videos:
        videos += _more_videos(given)
        if not questions:
            raise SettingsError("--videos: what to ask of them? Give --ask")
    elif questions and given:
        raise SettingsError(
            f"--ask: {given[0]} was taken for a manifest, which brings its own questions; videos "
            "follow --videos"
        )
    elif questions and not tokens:
        raise SettingsError("--ask: of which videos? Give --videos, or --tokens for all in it")
    elif len(given) > 1:
        raise SettingsError(f"one manifest at a time: {len(given)} were given")
    elif not (given or questions):
        raise SettingsError("what to ask: give a manifest, or --ask with --videos or --tokens")
    if dry_run and tokens:
        raise SettingsError("--dry-run: says what decoding would take, and --tokens needs none")
    if out is None and not dry_run:
        raise SettingsError("--out: say where the answers go, a folder or a URI")
    check_format(file_format)
    if videos:
        tasks = manifests.tasks_from_videos(videos, questions or (), say)
    elif given:
        tasks = manifests.read(given[0])
    else:
        from vzvideo.corpus import planning

        if (settings.start_s, settings.end_s) != (None, None):
            raise SettingsError("--start, --end: an index has parts of its own, or whole videos")
        tasks = planning.tasks_from_index(str(tokens), questions or (), say)
    guard = Guard(video_deadline, decode_gib, tries)
    if dry_run:
        _estimate(tasks, settings, guard, as_json)
        return
    from vzvideo.corpus import job as corpus

    with _job() as show:
        summary = corpus.ask(
            tasks, str(out), settings, tokens=tokens, format=file_format,  # type: ignore[arg-type]
            guard=guard, retry_failed=retry_failed, progress=show, say=say,
        )  # fmt: skip
    _finish(summary, str(out), as_json)


@with_settings()
def index(
    settings: Any,
    given: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MANIFEST",
            help="Its videos and parts; its questions do not matter. After --videos: more videos.",
        ),
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
    from vzvideo.corpus import manifest as manifests
    from vzvideo.video.guarded import Guard

    if out is None and not dry_run:
        raise SettingsError("--out: say where the tokens go, a folder or a URI")
    given = given or []
    if videos:
        tasks = manifests.tasks_from_videos(videos + _more_videos(given), say=say)
    elif len(given) == 1:
        tasks = [replace(task, asked=()) for task in manifests.read(given[0])]
    else:
        raise SettingsError("which videos: give a manifest, or --videos with a folder or a pattern")
    guard = Guard(video_deadline, decode_gib, tries)
    if dry_run:
        _estimate(tasks, settings, guard, as_json)
        return
    from vzvideo.corpus import job as corpus

    with _job() as show:
        summary = corpus.index(
            tasks,
            str(out),
            settings,
            guard=guard,
            retry_failed=retry_failed,
            progress=show,
            say=say,
        )
    _finish(summary, str(out), as_json)


def _more_videos(given: list[str]) -> list[str]:
    """What a shell makes of `--videos *.mp4`, all but the first."""
    from vzvideo.corpus.manifest import MANIFESTS

    for name in given:
        if name.lower().endswith(MANIFESTS):
            raise SettingsError(f"--videos: {name} is a manifest, and names its own")
    return given


def _finish(summary: Summary, out: str, as_json: bool) -> None:
    failed = summary.failed.total()
    if as_json:
        about = vars(summary) | {"failed": dict(summary.failed), "out": out}
        echo_json(about)
    else:
        echo_path(out)
    for message in summary.messages:
        say(f"vzvideo: {message}")
    why = ", ".join(f"{code} {count}" for code, count in summary.failed.most_common())
    say(
        f"{pluralize(summary.rows, 'row')}: {summary.rows - failed} good, {failed} failed"
        f"{f' ({why})' if why else ''}; {summary.kept} were there before; {summary.seconds:.0f} s"
    )
    if failed:
        raise typer.Exit(1)


def _estimate(tasks: list[Task], settings: Any, guard: Any, as_json: bool) -> None:
    from vzvideo.corpus import estimate

    found = estimate.estimate(tasks, settings, guard, say=say)
    about = vars(found) | {"unreadable": dict(found.unreadable)}
    if as_json:
        echo_json(about)
    else:
        typer.echo(str(found))


@contextmanager
def _job() -> Iterator[Callable[[Progress], None]]:
    """As `_bar`, and whoever interrupts it is told that nothing is lost."""
    try:
        with _bar() as show:
            yield show
    except Exception:
        raise
    except BaseException:  # Ctrl-C and the like
        say("what was written stands, and the same command goes on from there")
        raise


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    """A line on stderr that says how far it is; where that is no terminal, one now and then."""
    from rich.console import Console
    from rich.live import Live

    begun = time.monotonic()
    last = "starting Ray, loading models"

    def line() -> str:
        return f"{last}, {format_duration(time.monotonic() - begun)}"

    def show(progress: Progress) -> None:
        nonlocal last
        failed = f", {progress.failed} failed" if progress.failed else ""
        rate = "" if progress.rate is None else f", {progress.rate:.2g} videos/s"
        left = "" if progress.left_s is None else f", {format_duration(progress.left_s)} left"
        last = f"{progress.rows}/{progress.total} rows{failed}{rate}{left}"

    console = Console(stderr=True)
    if console.is_terminal:
        with Live(get_renderable=line, console=console, transient=True):
            yield show
        return
    over = threading.Event()

    def tell() -> None:
        while not over.wait(_TOLD_S):  # also where nothing comes: somebody wonders why
            say(line())

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield show
    finally:
        over.set()
        teller.join()
