"""What the commands share: their options, the settings made of them, and words to stderr.

Heavy imports stay inside, so that `--help` answers at once.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from vzvideo.errors import SettingsError, VideoError

if TYPE_CHECKING:
    from vzvideo.config import Settings
    from vzvideo.qa.encoding import Progress
    from vzvideo.qa.video_qa import VideoQA

# What `--help` lists the options under.
LOOK, COMPRESS, ANSWER, RUN = (
    "What to look at", "How to compress", "How to answer", "Where to run",
)  # fmt: skip
Options = dict[str, tuple[Any, Any]]  # name -> annotation and default


def _option(panel: str, kind: Any, about: str, *flags: str, **more: Any) -> tuple[Any, Any]:
    """An option that says nothing unless it is given: the settings know the defaults."""
    return Annotated[
        kind | None, typer.Option(*flags, help=about, rich_help_panel=panel, **more)
    ], None


def _switch(panel: str, flag: str, about: str) -> tuple[Any, Any]:
    return Annotated[bool, typer.Option(flag, help=about, rich_help_panel=panel)], False


def _unlisted(annotation: Any, default: Any) -> tuple[Any, Any]:
    """An option as it is, but for `--help`, which does not list it."""
    kind, option = get_args(annotation)
    option = copy(option)
    option.hidden = True
    return Annotated[kind, option], default


_TIME = "seconds, or as in 1:23.5"
_SHARED: Options = {
    "frames": _option(LOOK, int, "Frames to look at, at most. (8)", "--frames", "-n"),
    "start": _option(
        LOOK, str, f"Look from here on: {_TIME}. (0)", "--start", "-s", metavar="TIME"
    ),
    "end": _option(
        LOOK, str, f"Look up to here: {_TIME}. (the end)", "--end", "-e", metavar="TIME"
    ),
    "fps": _option(LOOK, float, "Look at so many frames a second, instead of --frames."),
    "sampling": _option(
        LOOK, str, "How frames are chosen: uniform, fps, keyframes or scenes. (uniform)"
    ),
    "fit": _option(
        LOOK, str, "Frames that are no square: crop, pad or squash. (as the model was trained)"
    ),
    "decoder": _option(LOOK, str, "What decodes: pyav or decord. (pyav)"),
    "no_deinterlace": _switch(LOOK, "--no-deinterlace", "Show interlaced video as it is coded."),
    "no_tone_map": _switch(LOOK, "--no-tone-map", "Show PQ and HLG as they are coded."),
    "tokens_per_frame": _option(
        COMPRESS, int, "Visual tokens kept of each frame. (17)", "--tokens-per-frame", "-t"
    ),
    "dominant": _option(
        COMPRESS, int, "Of these, how many stand as they are, the CLS counted. (14)"
    ),
    "contextual": _option(COMPRESS, int, "And how many the others are merged into. (3)"),
    "keep": _option(
        COMPRESS, float, "In their place, a share of a frame's tokens, as 0.1, for any model."
    ),
    "merge": _option(
        COMPRESS, str, "How: reference (target + mean, as the authors) or mean. (by model)"
    ),
    "timestamps": _switch(
        ANSWER, "--timestamps", "Tell the model when each frame is, where it is not told anyway."
    ),
    "temporal": _option(
        COMPRESS, str, "Merge what stands still across frames: off, on or auto. (off)"
    ),
    "no_compress": _switch(COMPRESS, "--no-compress", "Keep every token of a frame."),
}
_RUNNING: Options = {
    "model": _option(
        RUN, str, "Name of `vzvideo models`, hub id, folder, or auto. (auto)", "--model", "-m"
    ),
    "device": _option(RUN, str, "auto, cpu, cuda or mps. (auto)"),
    "dtype": _option(RUN, str, "Precision: auto, float32, float16 or bfloat16. (auto)"),
    "quantize": _option(RUN, str, "Smaller weights on a GPU: 4bit or 8bit. (neither)"),
    "hwaccel": _option(RUN, str, "Decode on a device, such as cuda. (the processor)"),
    "no_cache": _switch(RUN, "--no-cache", "Neither read nor keep visual tokens."),
    "config": _option(RUN, Path, "YAML file with settings; options win over it.", "--config", "-c"),
}
ANSWERING: Options = {
    "max_new_tokens": _option(ANSWER, int, "Longest answer, in tokens. (128)"),
    "temperature": _option(ANSWER, float, "0 gives the same answer each time. (0)"),
    "num_beams": _option(ANSWER, int, "Beam search: better words, as much slower. (1)"),
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


def with_settings(
    *, unlisted: Collection[str] = (), **more: tuple[Any, Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the shared options and hands it `settings` made of them.

    unlisted: those that say nothing to this command: `--help` leaves them out, and the command
        says why where one is given.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        shared = _SHARED | more | _RUNNING
        shared |= {name: _unlisted(*shared[name]) for name in unlisted}
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
    start_s, end_s = (None if end is None else words.parse_time(end) for end in ends)
    if said.pop("no_compress"):
        said["compress"] = False
    if not said["timestamps"]:
        del said["timestamps"]
    for name in ("cache", "deinterlace", "tone_map"):
        if said.pop(f"no_{name}"):
            said[name] = False
    return config.load(said.pop("config"), **said, start_s=start_s, end_s=end_s)


def _check_consistent(said: dict[str, Any]) -> None:
    """Of options that say two things of one, none is silently left out."""
    each, *split = (said[name] for name in ("tokens_per_frame", "dominant", "contextual"))
    if said["no_compress"] and any(value is not None for value in (each, *split)):
        raise SettingsError("--no-compress keeps every token: leave out how many are kept")
    if said["keep"] is not None and (
        said["no_compress"] or any(value is not None for value in (each, *split))
    ):
        raise SettingsError("--keep is a share of the tokens: leave out how many are kept")
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
    from vzvideo.types import is_token_file

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
        *columns, console=console, transient=True, disable=_quiet or not console.is_terminal
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total or None)

        yield show


def check(video: str, settings: Settings | None = None) -> None:
    """Says at once, before a model is loaded, what is no video, or has no such part."""
    from vzvideo.types import is_token_file
    from vzvideo.video.base import check_file
    from vzvideo.video.sampling import check_frames

    if not video.strip():
        raise VideoError("the video's name is empty: give a file or a URL", code="not_found")
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
    if "://" not in video:
        check_file(Path(video))
        if settings is not None and not is_token_file(Path(video)):
            _check_readable(video, settings)


def _check_readable(video: str, settings: Settings) -> None:
    """Opens a file, which takes a tenth of a second where a model takes several."""
    from vzvideo.video import open_video, sampling

    with open_video(
        video, decoder="pyav", size=32, deadline_s=settings.deadline_s, threads=1
    ) as opened:
        if settings.start_s is not None:
            sampling.clip(opened.info.duration_s, settings.start_s, settings.end_s)


def load(settings: Settings) -> VideoQA:
    """The model of these settings; a download shows how far it is."""
    with progress_bars() as progress:
        progress("loading", 0, 0)
        from vzvideo.qa import loading

        return loading.load(settings=settings, progress=progress, say=say)


_quiet = False


def be_quiet(quiet: bool) -> None:
    """Whether `say` and progress bars hold their tongue, for this process."""
    global _quiet
    _quiet = quiet


def say(line: str) -> None:
    """A line for a person, on stderr, unless --quiet."""
    if not _quiet:
        typer.echo(line, err=True)


def echo_json(content: Any, *, err: bool = False) -> None:
    """One JSON object on a line of stdout. Names of files may hold bytes that are no UTF-8: those
    are escaped, as JSON escapes them, and read back as the same name."""
    line = json.dumps(content, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(content)
    typer.echo(line, err=err)


def echo_path(path: object, *, err: bool = False) -> None:
    """A path on a line of stdout, byte for byte as the system has it."""
    typer.echo(os.fsencode(str(path)), err=err)
