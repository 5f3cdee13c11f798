"""What the commands share: their options, the settings made of them, and words to stderr.

Heavy imports stay inside, so that `--help` answers at once.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from vzvideo.errors import SettingsError, VideoError

if TYPE_CHECKING:
    from vzvideo.config import Settings
    from vzvideo.qa.encoding import Progress
    from vzvideo.qa.video_qa import VideoQA

Config = Annotated[Path | None, typer.Option("--config", help="YAML file with settings.")]
Seconds = Annotated[str | None, typer.Option(metavar="TIME", help="Seconds, or as in 1:23:45.")]
_SHARED: dict[str, tuple[Any, Any]] = {
    "config": (Config, None),
    "model": (
        Annotated[str | None, typer.Option(help="Name, hub id, folder, or auto.")],
        None,
    ),
    "frames": (Annotated[int | None, typer.Option(help="How many frames to look at (8).")], None),
    "tokens_per_frame": (
        Annotated[int | None, typer.Option(help="Visual tokens kept of each frame (17).")],
        None,
    ),
    "dominant": (
        Annotated[int | None, typer.Option(help="Of these, how many as they are (with CLS).")],
        None,
    ),
    "contextual": (Annotated[int | None, typer.Option(help="And how many merged.")], None),
    "merge": (
        Annotated[
            str | None,
            typer.Option(help="Merged into: reference (target + mean, as the authors) or mean."),
        ],
        None,
    ),
    "no_compress": (
        Annotated[bool, typer.Option("--no-compress", help="Keep every token.")],
        False,
    ),
    "sampling": (
        Annotated[str | None, typer.Option(help="uniform, fps, keyframes or scenes.")],
        None,
    ),
    "fps": (Annotated[float | None, typer.Option(help="Frames a second; implies fps.")], None),
    "start": (Seconds, None),
    "end": (Seconds, None),
    "decoder": (Annotated[str | None, typer.Option(help="pyav or decord.")], None),
    "hwaccel": (Annotated[str | None, typer.Option(help="Decode on a device: cuda, ...")], None),
    "no_deinterlace": (
        Annotated[bool, typer.Option("--no-deinterlace", help="Interlaced video as it is coded.")],
        False,
    ),
    "no_tone_map": (
        Annotated[bool, typer.Option("--no-tone-map", help="PQ and HLG as they are coded.")],
        False,
    ),
    "device": (Annotated[str | None, typer.Option(help="auto, cpu, cuda, mps.")], None),
    "dtype": (
        Annotated[str | None, typer.Option(help="auto, float32, float16, bfloat16.")],
        None,
    ),
    "quantize": (Annotated[str | None, typer.Option(help="4bit or 8bit, on a GPU.")], None),
    "no_cache": (
        Annotated[bool, typer.Option("--no-cache", help="Neither read nor keep tokens.")],
        False,
    ),
}
ANSWERING: dict[str, tuple[Any, Any]] = {
    "max_new_tokens": (
        Annotated[int | None, typer.Option(help="Longest answer, in tokens (128).")],
        None,
    ),
    "temperature": (Annotated[float | None, typer.Option(help="0 is repeatable.")], None),
    "num_beams": (
        Annotated[int | None, typer.Option(help="Beam search: better words, as much slower (1).")],
        None,
    ),
}
# Settings that are called otherwise on the command line.
_CALLED = {
    "compress": "no_compress",
    "start_s": "start",
    "end_s": "end",
    "deinterlace": "no_deinterlace",
    "tone_map": "no_tone_map",
}
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")]


def with_settings(**more: tuple[Any, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the shared options and hands it `settings` made of them."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        shared = _SHARED | more
        kind = inspect.Parameter.KEYWORD_ONLY
        hints = get_type_hints(command, include_extras=True)
        parameters = [
            parameter.replace(kind=kind, annotation=hints[name])
            for name, parameter in inspect.signature(command).parameters.items()
            if name != "settings"
        ]
        parameters += [
            inspect.Parameter(name, kind, default=default, annotation=annotation)
            for name, (annotation, default) in shared.items()
        ]

        @functools.wraps(command)
        def wrapper(**values: Any) -> None:
            said = {name: values.pop(name) for name in shared}
            _check_consistent(said)
            _check_encoded(values.get("video"), said)
            command(**values, settings=_settings(said))

        # What typer reads: the signature, and the annotations by name.
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapper

    return decorate


def _settings(said: dict[str, Any]) -> Settings:
    from vzvideo import config, words

    ends = [said.pop("start"), said.pop("end")]
    start_s, end_s = (None if end is None else words.seconds(end) for end in ends)
    if said.pop("no_compress"):
        said["compress"] = False
    for name in ("cache", "deinterlace", "tone_map"):
        if said.pop(f"no_{name}"):
            said[name] = False
    return config.load(said.pop("config"), **said, start_s=start_s, end_s=end_s)


def _check_consistent(said: dict[str, Any]) -> None:
    """Of options that say two things of one, none is silently left out."""
    each, *split = (said[name] for name in ("tokens_per_frame", "dominant", "contextual"))
    if said["no_compress"] and any(value is not None for value in (each, *split)):
        raise SettingsError("--no-compress keeps every token: leave out how many are kept")
    if said["no_compress"] and said["merge"] is not None:
        raise SettingsError("--no-compress keeps every token: nothing is merged")
    if each is not None and None not in split and sum(split) != each:
        raise SettingsError(
            f"--dominant {split[0]} and --contextual {split[1]} are {sum(split)} tokens a frame, "
            f"--tokens-per-frame says {each}"
        )
    if said["fps"] is not None and said["sampling"] not in (None, "fps"):
        raise SettingsError(f"--fps is for sampling fps, not for {said['sampling']}")


def _check_encoded(video: Any, said: dict[str, Any]) -> None:
    """Settings that come too late are told, not left out."""
    from vzvideo.config import ENCODING

    options = {_CALLED.get(name, name) for name in ENCODING}
    given = [name for name in said if name in options and said[name] is not None]
    given = [name for name in given if said[name] is not False]
    if not given or not isinstance(video, str) or "://" in video:
        return
    from vzvideo.qa.store import is_token_file

    if is_token_file(Path(video)):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise SettingsError(
            f"{names}: the tokens in {video} are encoded already; give the video itself to encode "
            "it otherwise"
        )


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """A bar for each stage on stderr, where that is a terminal; gone afterwards."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total or None)

        yield show


def check(video: str, settings: Settings | None = None) -> None:
    """Says at once, before a model is loaded, that there is no such file, or no such part of it."""
    from vzvideo.video.base import check_file
    from vzvideo.video.sampling import check_frames

    if "://" not in video:
        check_file(Path(video))
    if settings is not None:
        if settings.frames is not None:
            check_frames(settings.frames)
        start_s, end_s = settings.start_s or 0.0, settings.end_s
        if end_s is not None and end_s <= start_s:
            raise VideoError(
                f"the clip from {start_s:g} s to {end_s:g} s holds nothing: choose an end after "
                "its start",
                code="clip",
            )


def load(settings: Settings) -> VideoQA:
    """The model of these settings; a download shows how far it is."""
    with progress_bars() as progress:
        progress("loading", 0, 0)
        from vzvideo.qa import video_qa as qa

        return qa.load(settings=settings, progress=progress, say=say)


def say(line: str) -> None:
    typer.echo(line, err=True)
