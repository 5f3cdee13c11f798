"""The command for live video: words in, words out. The work is done by `stream`."""

from __future__ import annotations

import dataclasses
import math
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vzvideo.cli.options import ANSWERING, Json, echo_json, load, say, with_settings
from vzvideo.errors import SettingsError, VideoError, VzVideoError
from vzvideo.words import describe_cropped, format_time, pluralize

if TYPE_CHECKING:
    from vzvideo.config import Settings
    from vzvideo.live.every import Every
    from vzvideo.live.stream import Stream
    from vzvideo.types import Answer

_SAVE_S = 60.0  # how often the state is saved
# Options for which frames of a file to look at, and how to read it.
_OF_FILES = ("frames", "start", "end", "sampling", "decoder", "hwaccel", "temporal", "no_cache")


@with_settings(unlisted=_OF_FILES, **ANSWERING)
def watch(
    source: Annotated[
        str, typer.Argument(help="rtsp, http, udp or tcp URL, file, /dev/video0, or - for stdin.")
    ],
    settings: Any,
    questions: Annotated[
        list[str] | None, typer.Option("--ask", help="What to ask again and again; several.")
    ] = None,
    every: Annotated[
        float, typer.Option(min=0.1, help="Seconds of the video between answers.")
    ] = 10.0,
    since: Annotated[
        float | None, typer.Option(help="Look at the last SECONDS; 0 for all (as --every).")
    ] = None,
    speed: Annotated[str, typer.Option(help="Of a file: realtime, max, or a factor.")] = "realtime",
    budget: Annotated[int | None, typer.Option(help="Tokens to remember (2048).")] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="With too many frames: block, drop_oldest, drop_newest."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="Frames that differ less are not encoded.")
    ] = 0.04,
    state: Annotated[
        Path | None, typer.Option(help="File to keep what is remembered in, and to go on from.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Watch live video, asking it again and again, or whatever is typed meanwhile."""
    from vzvideo.live.ingest import check_policy
    from vzvideo.live.sources import LiveSource
    from vzvideo.qa.asking import validate_question

    factor = _speed(speed)
    if source == "-" and not questions:
        raise SettingsError("- takes the video from standard input: give what to ask with --ask")
    if since is not None and not since >= 0:
        raise SettingsError(f"since: {since:g} given, seconds are needed")
    if state is not None and not state.parent.is_dir():
        raise SettingsError(f"{state}: there is no folder {state.parent}")
    # A camera does not wait, a file played as fast as it goes does.
    policy = policy or ("block" if factor is None else "drop_oldest")
    check_policy(policy)
    _check_settings(settings)
    LiveSource(source)  # says at once, before a model is loaded, that there is no such file
    questions = [validate_question(question) for question in questions or []]
    model = load(settings)
    restore = state if state is not None and state.exists() else None
    stream = model.stream(
        budget=budget, policy=policy, tolerance=tolerance, restore=restore,  # type: ignore[arg-type]
    )  # fmt: skip
    with stream, _stopping():
        try:
            with _saving(stream, state):
                if questions:
                    since_s = -every if since is None else (-since or -math.inf)  # 0: all there is
                    # Before anything is read: a file then waits for its answers.
                    again = stream.every(every, questions[0], since_s=since_s)
                    stream.attach(source, speed=factor)
                    _ask_again(stream, again, questions, since_s, as_json)
                else:
                    stream.attach(source, speed=factor)
                    _ask_what_is_typed(stream, as_json)
        except KeyboardInterrupt:  # how one stops watching
            say("")
        finally:
            stream.close()
            _summary(stream)
            if not stream.ended and sys.exc_info()[0] is None:  # nobody waits for a dead camera
                sys.stdout.flush()
                os._exit(0)


def _check_settings(settings: Settings) -> None:
    """What says which frames of a file to look at says nothing of a stream."""
    from vzvideo.config import Settings
    from vzvideo.live.stream import OF_FILES

    usual = Settings()
    wrong = [n for n in sorted(OF_FILES) if getattr(settings, n) != getattr(usual, n)]
    for name in wrong:
        if name != "cache" and (name, settings.sampling) != ("sampling", "fps"):
            option = name.removesuffix("_s").replace("_", "-")
            raise SettingsError(f"--{option}: not for `watch`; --fps says how often to look")


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    if text == "realtime":
        return 1.0
    with suppress(ValueError):
        if 0 < (factor := float(text)) < float("inf"):
            return factor
    raise SettingsError(f"speed: {text!r} given, choose realtime, max, or a factor such as 2")


def _ask_again(
    stream: Stream, again: Every, questions: list[str], since_s: float, as_json: bool
) -> None:
    _, *others = questions
    for answer in again:
        _print(stream, answer, again.at_s, as_json, labelled=bool(others))
        for question in others:
            at_s = stream.memory.end_s
            answer = stream.ask(question, since_s=since_s)
            _print(stream, answer, at_s, as_json, labelled=True)
    if again.skipped:
        say(f"answers took longer than their time: {pluralize(again.skipped, 'time')} not asked")


def _ask_what_is_typed(stream: Stream, as_json: bool) -> None:
    """Answers questions from standard input as they come, until it ends; where none came, as for a
    service, until the video ends."""
    asked = False
    typed: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            typed.put(line.strip())
        typed.put(None)

    if sys.stdin.isatty():
        say("Ask away while it plays; Ctrl-D or Ctrl-C ends.")
    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            question = typed.get(timeout=0.2)
        except queue.Empty:
            stream.wait(0)  # raises what has gone wrong
            continue
        if question is None and not asked:
            stream.wait()
        if question is None:
            return
        if question:
            asked = True
            try:
                answer = stream.ask(question)
                _print(stream, answer, stream.memory.end_s, as_json)
            except VideoError:  # the video's own
                raise
            except VzVideoError as error:  # one bad question ends nothing
                say(f"vzvideo: {error}")


def _print(
    stream: Stream, answer: Answer, at_s: float, as_json: bool, *, labelled: bool = False
) -> None:
    if as_json:
        about = dataclasses.asdict(answer)
        about |= {"time_s": round(at_s, 3), "cropped": stream.cropped}
        about |= {"stats": dataclasses.asdict(stream.stats)}
        echo_json({"answer": about.pop("text"), **about})
    else:
        said = f"{answer.question} {answer.text}" if labelled else answer.text
        typer.echo(f"[{format_time(at_s)}] {said}")
    sys.stdout.flush()


def _summary(stream: Stream) -> None:
    s = stream.stats
    if not s.frames_in:
        return
    words = [f"{s.frames_in} frames in", f"{s.skipped} showed nothing new", f"{s.encoded} encoded"]
    words += [f"{s.dropped} dropped"] if s.dropped else []
    words += [f"{s.lost} damaged packets"] if s.lost else []
    words += [f"connected anew {s.reconnects} times"] if s.reconnects else []
    cropped = describe_cropped(stream.cropped)
    say(
        f"{', '.join(words)}; {s.tokens} tokens for {format_time(s.covered_s)}"
        f"{cropped and f'; {cropped}'}"
    )


@contextmanager
def _saving(stream: Stream, path: Path | None) -> Iterator[None]:
    """Keeps a stream's state in a file, once a minute and at the end."""
    over = threading.Event()

    def save() -> None:
        if path is not None and stream.memory.moments:
            try:
                stream.save(path)
            except VzVideoError as error:  # a full disk ends no watching
                say(f"vzvideo: {error}")

    def now_and_then() -> None:
        while not over.wait(_SAVE_S):
            save()

    saver = threading.Thread(target=now_and_then, daemon=True)
    saver.start()
    try:
        yield
    finally:
        over.set()
        saver.join()
        stream.close()  # nothing more comes in, and what is kept is all that was seen
        save()


@contextmanager
def _stopping() -> Iterator[None]:
    """What stops a service ends it as Ctrl-C does: with its state saved."""

    def stop(_signal: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
