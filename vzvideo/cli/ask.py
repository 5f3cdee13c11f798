"""`vzvideo ask`, `chat` and `encode`: words in, words out. The work is done by `qa`."""

from __future__ import annotations

import dataclasses
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vzvideo.cli.options import (
    ANSWERING,
    Json,
    check,
    echo_json,
    echo_path,
    load,
    progress_bars,
    say,
    with_settings,
)
from vzvideo.errors import SettingsError, VideoError, VzVideoError
from vzvideo.words import pluralize

if TYPE_CHECKING:
    from vzvideo.qa.asking import AnswerStream
    from vzvideo.qa.encoding import Encoded
    from vzvideo.qa.evidence import Evidence
    from vzvideo.types import Answer


@with_settings(**ANSWERING)
def ask(
    video: Annotated[str, typer.Argument(help="File, URL, or what `encode` wrote.")],
    questions: Annotated[list[str], typer.Argument(metavar="QUESTION", help="One or more.")],
    settings: Any,
    evidence: Annotated[
        bool, typer.Option("--evidence", help="Also the times that an answer was drawn from.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask a video one or more questions."""
    stage = "load"
    try:
        check(video, settings)
        _check_questions(questions)
        qa = load(settings)
        stage = "encode"
        if len(questions) > 1:
            with progress_bars() as progress:
                encoded = qa.encode_timed(
                    video, question=qa.longest_question(questions), progress=progress
                )
                answers = qa.ask_many(encoded, questions)
            for answer in answers:
                drawn = qa.evidence(encoded, answer) if evidence else None
                _print(answer, as_json, labelled=True, evidence=drawn)
            _facts(answers[0], encoded)
        else:
            with progress_bars() as progress:
                asking = qa.start(video, questions[0], progress=progress)
            stage = "generate"
            _relay(asking, as_json, evidence)
            _facts(asking.result, asking.encoded)
    except VzVideoError as error:
        if as_json:
            for question in questions:
                _print_failure(video, question, stage, error)
        raise


@with_settings(**ANSWERING)
def chat(
    video: Annotated[str, typer.Argument(help="File, URL, or what `encode` wrote.")],
    settings: Any,
    as_json: Json = False,
) -> None:
    """Talk about a video; every question after the first costs only itself."""
    check(video, settings)
    qa = load(settings)
    with progress_bars() as progress:
        talk = qa.chat(video, progress=progress)
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    if interactive:
        with suppress(ImportError):
            import readline  # noqa: F401  # gives `input` its editing and history
        say("Ask away; Ctrl-C ends an answer, an empty line or Ctrl-D the conversation.")
    status = 0
    while question := _next_line(interactive):
        try:
            asking = talk.start(question)
            _relay(asking, as_json)
            _facts(asking.result, asking.encoded)
        except KeyboardInterrupt:  # of a person who has heard enough of this answer
            if not interactive:
                raise
            typer.echo()
        except VzVideoError as error:  # one bad question ends no conversation
            if as_json:
                _print_failure(video, question, "generate", error)
            say(f"vzvideo: {error}")
            status = 1
    raise typer.Exit(status)


@with_settings()
def encode(
    video: Annotated[str, typer.Argument(help="File or URL.")],
    settings: Any,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File to write.")] = None,
) -> None:
    """Compress a video once; `ask` and `chat` take the file in its place."""
    from vzvideo.corpus.manifest import ENDINGS
    from vzvideo.qa import store

    target = out or Path(Path(video.split("?")[0]).stem + ".vz.safetensors")
    if not target.parent.is_dir():
        raise SettingsError(f"{target}: there is no folder {target.parent}")
    if target.exists() and not store.is_own_file(target):
        raise SettingsError(f"{target}: is there, and no file of visual tokens; give another name")
    if target.suffix.lower() in ENDINGS:
        raise SettingsError(f"{target}: is a video's name, and tokens are no video")
    check(video, settings)
    if "://" not in video and store.is_token_file(Path(video)):
        raise SettingsError(f"{video}: holds visual tokens already; `ask` and `chat` take it")
    qa = load(settings)
    with progress_bars() as progress:
        encoded = qa.encode_timed(video, progress=progress)
    store.save(encoded.tokens, target)
    tokens = encoded.tokens
    echo_path(target)
    say(
        f"{pluralize(tokens.frames, 'frame')}, {tokens.tokens_before} -> {len(tokens)} tokens, "
        f"{target.stat().st_size / 1024:.0f} KB{_gaps(encoded)}"
    )


# -- words out


def _relay(asking: AnswerStream, as_json: bool, evidence: bool = False) -> None:
    piece = ""
    for piece in asking:
        if not as_json:
            typer.echo(piece, nl=False)
            sys.stdout.flush()
    drawn = asking.evidence() if evidence else None
    if as_json:
        _print(asking.result, as_json, evidence=drawn)
    else:
        blank = "" if piece.endswith((" ", "\n")) else " "
        typer.echo(f"{blank}[{drawn}]" if drawn else "")


def _print(
    answer: Answer, as_json: bool, *, labelled: bool = False, evidence: Evidence | None = None
) -> None:
    if as_json:
        about = dataclasses.asdict(answer) | (evidence.about() if evidence else {})
        echo_json({"answer": about.pop("text"), **about})
    else:
        text = f"{answer.text} [{evidence}]" if evidence else answer.text
        typer.echo(f"{answer.question}\n  {text}" if labelled else text)


def _print_failure(video: str, question: str, stage: str, error: VzVideoError) -> None:
    from vzvideo.types import Failure

    if isinstance(error, VideoError):
        stage = "decode"
    failure = Failure(question, video, stage, error.code, str(error))
    echo_json(dataclasses.asdict(failure))


def _check_questions(questions: list[str]) -> None:
    """Says at once, before a model is loaded, what cannot be asked."""
    from vzvideo.corpus.manifest import ENDINGS
    from vzvideo.qa.asking import validate_question

    for question in map(validate_question, questions):
        if question.lower().endswith(ENDINGS) and os.path.isfile(question):
            raise SettingsError(f"{question}: is a file, no question; `ask` takes one video")


def _facts(answer: Answer, encoded: Encoded | None = None) -> None:
    times = answer.frame_times_s
    seconds = ", ".join(f"{stage} {s:.2f} s" for stage, s in answer.seconds.items())
    origin = "from the cache, " if answer.cached else ""
    say(
        f"[{answer.model}] {pluralize(len(times), 'frame')} ({times[0]:.1f}-{times[-1]:.1f} s), "
        f"{answer.tokens_before} -> {answer.tokens} tokens, {origin}{seconds}"
        f"{_gaps(encoded) if encoded else ''}"
    )


def _gaps(encoded: Encoded) -> str:
    """What a user should know of frames that were asked for and are not there."""
    frames = encoded.tokens.frames
    words = []
    if encoded.asked > frames:
        words.append(f"{encoded.asked} frames asked for, different ones in the video: {frames}")
    if encoded.lost:
        words.append(f"damaged packets or frames passed over: {encoded.lost}")
    return "".join(f"; {word}" for word in words)


def _next_line(interactive: bool) -> str:
    """The next question, or an empty text where there is no more."""
    if interactive:
        try:
            line = input("> ").strip()
        except EOFError:
            return ""
        return "" if line.lower() in ("exit", "quit") else line
    return next((line.strip() for line in sys.stdin if line.strip()), "")
