"""Answers and failures as people and programs read them."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING

import typer

from vzvideo.cli.options import echo_json, say
from vzvideo.errors import VideoError, VzVideoError
from vzvideo.words import describe_cropped, format_time, pluralize

if TYPE_CHECKING:
    from vzvideo.qa.asking import AnswerStream
    from vzvideo.qa.encoding import Encoded
    from vzvideo.qa.evidence import Evidence
    from vzvideo.types import Answer

_CUT_OFF = 0.02  # of what a header promises may be missing; they round


def print_stream(
    asking: AnswerStream,
    as_json: bool,
    evidence: bool = False,
    probability: bool = False,
    source: str = "",
) -> None:
    piece = ""
    for piece in asking:
        if not as_json:
            typer.echo(piece, nl=False)
            sys.stdout.flush()
    drawn = asking.evidence() if evidence else None
    if as_json:
        print_answer(asking.result, as_json, evidence=drawn, encoded=asking.encoded, source=source)
    else:
        beside = _beside(asking.result, drawn, probability)
        typer.echo(beside.lstrip() if piece.endswith((" ", "\n")) else beside)


def _beside(answer: Answer, evidence: Evidence | None, probability: bool) -> str:
    """What stands behind an answer."""
    words = ""
    if probability and answer.yes_probability is not None:
        words += f" ({answer.yes_probability:.2f})"
    return f"{words} [{evidence}]" if evidence else words


def print_answer(
    answer: Answer,
    as_json: bool,
    *,
    labelled: bool = False,
    evidence: Evidence | None = None,
    probability: bool = False,
    encoded: Encoded | None = None,
    source: str = "",
) -> None:
    """encoded: what was asked. source: what the user calls it, where it was read from standard
    input."""
    if as_json:
        answer = dataclasses.replace(answer, source="-") if source == "-" else answer
        about = dataclasses.asdict(answer)
        if encoded is not None:
            lengths = (encoded.tokens.settings.get(name) for name in ("duration_s", "promised_s"))
            about |= dict(zip(("duration_s", "promised_s"), lengths, strict=True))
            about |= {"asked": encoded.asked, "decoded": encoded.tokens.frames}
            about |= {"lost": encoded.lost}
            about |= {name: encoded.tokens.settings.get(name) for name in ("cropped", "static")}
        about |= evidence.about() if evidence else {}
        echo_json({"answer": about.pop("text"), **about})
    else:
        text = answer.text + _beside(answer, evidence, probability)
        typer.echo(f"{answer.question}\n  {text}" if labelled else text)


def print_failure(video: str, question: str, stage: str, error: VzVideoError) -> None:
    from vzvideo.types import Failure

    if isinstance(error, VideoError):
        stage = "decode"
    failure = Failure(question, video, stage, error.code, str(error))
    echo_json(dataclasses.asdict(failure))


def print_facts(answer: Answer, encoded: Encoded | None = None) -> None:
    times = answer.frame_times_s
    seconds = ", ".join(f"{stage} {s:.2f} s" for stage, s in answer.seconds.items())
    origin = "from the cache, " if answer.cached else ""
    say(
        f"[{answer.model}] {pluralize(len(times), 'frame')} ({times[0]:.1f}-{times[-1]:.1f} s), "
        f"{answer.tokens_before} -> {answer.tokens} tokens, {origin}{seconds}"
        f"{gaps(encoded) if encoded else ''}"
    )


def gaps(encoded: Encoded) -> str:
    """What a user should know of frames, or parts of them, that the model does not see."""
    frames = encoded.tokens.frames
    words = []
    settings = encoded.tokens.settings
    if (static := settings.get("static")) is not None:
        words.append(f"{100 * static:.0f} % of the places static")
    if encoded.asked > frames:
        words.append(f"{encoded.asked} frames asked for, different ones in the video: {frames}")
    duration_s, promised_s = (settings.get(name) for name in ("duration_s", "promised_s"))
    if duration_s and promised_s and promised_s - duration_s > max(1.0, _CUT_OFF * promised_s):
        read, whole = format_time(duration_s), format_time(promised_s)
        words.append(f"the video breaks off: {read} of {whole} could be read")
    if encoded.lost:
        words.append(f"damaged packets or frames passed over: {encoded.lost}")
    if cropped := describe_cropped(settings.get("cropped")):
        words.append(cropped)
    return "".join(f"; {word}" for word in words)
