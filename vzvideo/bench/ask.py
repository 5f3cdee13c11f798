"""Questions from end to end: against their stages alone, from the cache, and many at once.

The floor of a first question is what it could not beat with these stages: decoding and encoding
wholly at the same time, then reading and generating. The first token is there when the first piece
of text is, which takes a word.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from unittest import mock

from vzvideo.bench.clips import Clip, make
from vzvideo.bench.measure import (
    Columns,
    Numbers,
    error_line,
    ratio,
    rotate,
    spread,
    timed,
    without_warmup,
)
from vzvideo.bench.models import Setup
from vzvideo.errors import VzVideoError
from vzvideo.models import weights
from vzvideo.qa import loading
from vzvideo.qa.prefetch import Span, StageTimer
from vzvideo.qa.video_qa import VideoQA
from vzvideo.video.frames import frames_of

FRAMES = (8, 32)
NEW_TOKENS = 32
STAGES = ("decode", "encode", "prefill", "generate")
QUESTIONS = [
    *("What is happening?", "What is the man doing?", "What do the people wear?", "Who is there?"),
    *("What happens first?", "What comes last?", "Where is this?", "Is there an animal?"),
    *("What is in the background?", "What would be a good title?"),
]


def measure(setup: Setup) -> Numbers:
    path = _video(setup)
    found: Numbers = {"clip": path.name, "new_tokens": NEW_TOKENS, "cells": []}
    with load_qa(setup) as qa:
        counts = FRAMES[:1] if setup.brief else FRAMES
        taken: dict[int, Columns] = {frames: {} for frames in counts}
        errors: dict[int, Numbers] = {}
        for turn in range(setup.repeats + 1):
            for frames in rotate(counts, turn):
                if frames in errors:
                    continue
                try:
                    spans = _ask(qa, path, frames, taken[frames])
                except (VzVideoError, RuntimeError) as error:  # of PyTorch, where memory is short
                    errors[frames] = {"error": error_line(error)}
                    continue
                if frames == max(counts):
                    found["spans"] = [span._asdict() for span in spans]
    for frames in counts:
        cell: Numbers = {"frames": frames}
        found["cells"].append(
            cell | (errors.get(frames) or _compared(without_warmup(taken[frames])))
        )
    return found


def _ask(qa: VideoQA, path: Path, frames: int, taken: Columns) -> list[Span]:
    """Everything once, into `taken`; when the stages of a first token worked."""
    empty_cache(qa)
    with timed(taken, "first_s"):
        first = qa.ask(path, QUESTIONS[0], frames=frames, max_new_tokens=NEW_TOKENS)
    with timed(taken, "second_s"):
        second = qa.ask(path, QUESTIONS[0], frames=frames, max_new_tokens=NEW_TOKENS)
    text = _stages_alone(qa, path, frames, taken)
    if first.cached or not second.cached or {first.text, second.text} != {text}:
        raise RuntimeError(f"not the same question: {first}, {second}, {text!r}")
    empty_cache(qa)
    cold = first_token(qa, path, frames)
    qa.forget()  # what was read of it, too; the tokens alone are in the cache
    cached = first_token(qa, path, frames)
    overlapped = [span for span in cold if span.stage in ("decode", "encode")]
    for name, seconds in (
        ("first_token_cold_s", cold[-1].ended_s),
        ("first_token_cached_s", cached[-1].ended_s),
        ("overlapped_s", max(span.ended_s for span in overlapped) - overlapped[0].begun_s),
    ):
        taken.setdefault(name, []).append(seconds)
    return cold


def _stages_alone(qa: VideoQA, path: Path, frames: int, taken: Columns) -> str:
    """Runs a question's stages one after another, nothing beside them; the answer."""
    recipe = qa.recipe(QUESTIONS[0], frames=frames)
    opened = frames_of(str(path), recipe.settings, recipe.frames, recipe.size)
    with timed(taken, "decode_alone_s"), opened as frames_found:
        batches = list(frames_found.batches)
    with timed(taken, "encode_alone_s"):
        tokens = recipe.encoder.encode_clip(batches, recipe.compression)
    with timed(taken, "prefill_alone_s"):
        prefix = qa.language.prefill(tokens)
    with timed(taken, "generate_alone_s"):
        return qa.language.answer(prefix, QUESTIONS[0], max_new_tokens=NEW_TOKENS)


def _compared(taken: Columns) -> Numbers:
    alone = list(zip(*(taken[f"{stage}_alone_s"] for stage in STAGES), strict=True))
    slowest = [max(decode, encode) for decode, encode, *_ in alone]
    floor = [max(decode, encode) + sum(rest) for decode, encode, *rest in alone]
    return {name: spread(taken[name]) for name in taken} | {
        "floor_s": spread(floor),
        "first_to_floor": ratio(taken["first_s"], floor),
        "overlap_to_slowest": ratio(taken["overlapped_s"], slowest),  # 1 where one hides the other
    }


def first_token(qa: VideoQA, path: Path, frames: int) -> list[Span]:
    """When each stage worked until the first piece of an answer was there; seconds from now."""
    begun_s = time.perf_counter()
    clock = StageTimer()
    encoded = qa.encode_timed(path, question=QUESTIONS[0], frames=frames)
    with clock.stage("prefill"):
        prefix, _ = qa.prefill(encoded.tokens)
    pieces: Any = qa.language.stream(prefix, QUESTIONS[0], max_new_tokens=NEW_TOKENS)
    with clock.stage("first token"):
        next(pieces, None)
    pieces.close()
    spans = sorted([*encoded.spans, *clock.spans], key=lambda span: span.begun_s)
    return [Span(stage, begun - begun_s, ended - begun_s) for stage, begun, ended in spans]


# -- many questions


def measure_questions(setup: Setup) -> Numbers:
    path, new_tokens = _video(setup), 16 if setup.quick else NEW_TOKENS
    with load_qa(setup) as qa:
        taken = time_many(qa, path, (1, len(QUESTIONS)), new_tokens, setup.repeats)
    one, ten = taken.values()
    found: Numbers = {"clip": path.name, "new_tokens": new_tokens, "cells": cells_by_count(taken)}
    for name in one:
        what = name.removesuffix("_s").replace("time", "")
        found["ten_to_one" + (what and f"_{what}")] = ratio(ten[name], one[name])
    return found


def time_many(
    qa: VideoQA, path: Path, counts: Sequence[int], new_tokens: int, repeats: int
) -> dict[int, Columns]:
    """Seconds of so many questions in one call, by their number; nothing is in the cache."""
    # No answer may end early, or its length would be measured.
    qa.language.model.generation_config.min_new_tokens = new_tokens
    taken: dict[int, Columns] = {count: {} for count in counts}
    for turn in range(repeats + 1):
        for count in rotate(counts, turn):
            questions = list(islice(cycle(QUESTIONS), count))
            columns = taken[count]
            empty_cache(qa)
            with timed(columns, "time_s"):
                answers = qa.ask_many(path, questions, frames=8, max_new_tokens=new_tokens)
            generation_s = answers[0].seconds["generate"]
            columns.setdefault("generation_s", []).append(generation_s)
            before_s = columns["time_s"][-1] - generation_s
            columns.setdefault("before_generation_s", []).append(before_s)
    return {count: without_warmup(columns) for count, columns in taken.items()}


def cells_by_count(taken: dict[int, Columns]) -> list[Numbers]:
    return [
        {"questions": count} | {name: spread(each) for name, each in columns.items()}
        for count, columns in taken.items()
    ]


# -- surroundings


@contextmanager
def load_qa(setup: Setup) -> Iterator[VideoQA]:
    """The model with a token cache of its own, which may be emptied at will."""
    with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, VZVIDEO_CACHE=cache):
        yield loading.load(setup.model, device=setup.device)


def empty_cache(qa: VideoQA) -> None:
    """For what `load_qa` gave."""
    qa.forget()
    shutil.rmtree(weights.cache_root() / "tokens", ignore_errors=True)


def _video(setup: Setup) -> Path:
    clip = Clip(seconds=20) if setup.quick else Clip(height=1080, seconds=600)
    return setup.video or make(clip, setup.scratch)
