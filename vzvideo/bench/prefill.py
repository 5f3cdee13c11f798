"""The language model reading a video: every token of its frames, against the few that VisionZip
keeps, for as many frames as fit its window.

What only reads is given random features: their values do not change the time. Knows no file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from vzvideo import visionzip
from vzvideo.bench.measure import (
    Columns,
    Numbers,
    error_line,
    peak_bytes_by_size,
    peaks_in_child,
    ratio,
    runnable,
    spread,
    time_alternating,
    timed,
)
from vzvideo.bench.models import Setup, load, noise
from vzvideo.errors import BudgetError
from vzvideo.models.encoder import NO_COMPRESSION, Encoder, ZipSettings, join
from vzvideo.models.language import LanguageModel
from vzvideo.types import FrameBatch, Role, VisualTokens

QUESTION = "What is happening?"
ANSWER = 128  # tokens of the window that are kept free for it, as vzvideo does
FRAMES, BUDGETS = (8, 16, 32, 64, 128), (None, 65, 33, 17, 9)  # None: a frame's every token
QUICK_FRAMES, QUICK_BUDGETS = (8,), (None, 17)
USUAL = 17  # tokens a frame
RAN = (17, 9)  # tokens a frame at which the window is filled, to show that it works
BATCH = 32  # frames encoded at a time
Budget = int | None


def measure(setup: Setup) -> Numbers:
    counts = QUICK_FRAMES if setup.quick else FRAMES
    budgets: Sequence[Budget] = QUICK_BUDGETS if setup.quick else BUDGETS
    # Before this process holds the model as well, which a GPU may have no room for.
    memory = {
        budget: {} if setup.brief else peaks_in_child(_memory, setup, _name(budget), counts)
        for budget in budgets
    }
    encoder, language = load(setup)
    budgets = [budget for budget in budgets if (budget or 0) <= encoder.tokens]
    most = {budget: most_frames(encoder, language, budget) for budget in budgets}
    found: Numbers = {
        "window": language.window,
        "dtype": str(language.model.dtype).removeprefix("torch."),
        "weight_bytes": sum(w.numel() * w.element_size() for w in language.model.parameters()),
        "cells": [],
        "largest_frames": [
            {**_named(encoder, budget), "frames": most[budget]} for budget in budgets
        ],
        "largest_ran": [],
    }
    for frames in counts:
        fit = [budget for budget in budgets if frames <= most[budget]]
        cells, ratios = _measure_one(
            encoder, language, frames, fit, {b: memory[b][frames] for b in fit if memory[b]}, setup
        )
        found["cells"] += [
            _about(encoder, frames, budget) | cells.get(budget, {"fits": False})
            for budget in budgets
        ]
        if frames == counts[0]:
            found |= ratios
    for budget in [] if setup.quick else [budget for budget in RAN if most.get(budget)]:
        found["largest_ran"].append(
            _about(encoder, most[budget], budget) | _ran(encoder, language, most[budget], budget)
        )
    return found


def most_frames(encoder: Encoder, language: LanguageModel, budget: Budget) -> int:
    """How many frames fit the window beside a question and room for an answer."""
    try:
        return visionzip.plan(
            language.window,
            text=language.prompts.length(QUESTION),
            answer=min(ANSWER, language.window // 4),
            frames=None,
            tokens_per_frame=compression(budget).tokens_per_frame(encoder.tokens),
        ).frames
    except BudgetError:
        return 0


def compression(budget: Budget) -> ZipSettings:
    return NO_COMPRESSION if budget is None else ZipSettings(*visionzip.split_tokens(budget))


def random_tokens(encoder: Encoder, frames: int, budget: Budget) -> VisualTokens:
    """As many tokens as `frames` make, of the right width and of no meaning."""
    each = compression(budget).tokens_per_frame(encoder.tokens)
    count = frames * each
    return VisualTokens(
        features=torch.randn(count, encoder.width, device=encoder.device, dtype=encoder.dtype),
        frame=np.repeat(np.arange(frames, dtype=np.int32), each),
        role=np.full(count, Role.DOMINANT, np.int8),
        patch=np.zeros(count, np.int32),
        pts_s=np.arange(frames, dtype=np.float64),
        grid=encoder.grid,
    )


def encode(encoder: Encoder, frames: FrameBatch, budget: Budget) -> VisualTokens:
    batches = (
        FrameBatch(frames.pixels[first : first + BATCH], frames.pts_s[first : first + BATCH])
        for first in range(0, len(frames), BATCH)
    )
    return join([*encoder.encode_stream(batches, compression(budget))])


def first_token(
    encoder: Encoder, language: LanguageModel, frames: FrameBatch, budget: Budget
) -> int:
    prefix = language.prefill(encode(encoder, frames, budget))
    return int(language.logits(prefix, QUESTION).argmax())


def _measure_one(
    encoder: Encoder,
    language: LanguageModel,
    frames: int,
    budgets: list[Budget],
    peaks: dict[Budget, int | str],
    setup: Setup,
) -> tuple[dict[Budget, Numbers], Numbers]:
    """Of one number of frames, each budget by turns with the others; and ratios among them."""
    pictures = noise(encoder, frames)
    few = frames == min(FRAMES)
    # Frames take the same time for every budget, and many of them take long.
    repeats = setup.repeats if few else min(setup.repeats, 3)
    extremes = [budget for budget in budgets if budget in (None, USUAL)]
    cells: dict[Budget, Numbers] = {budget: {"fits": True} for budget in budgets}
    ratios: Numbers = {}

    def timed(what: str, run: Callable[[Budget], Any], some: list[Budget], repeats: int) -> None:
        variants, errors = runnable({_name(budget): partial(run, budget) for budget in some})
        taken = time_alternating(variants, repeats) if variants else {}
        for budget in some:
            name = _name(budget)
            cells[budget][f"{what}_s"] = spread(taken[name]) if name in taken else errors[name]
        if {_name(None), _name(USUAL)} <= taken.keys():
            above, below = taken[_name(None)], taken[_name(USUAL)]
            ratios[f"{what}_whole_to_zipped"] = ratio(above, below)

    given = {budget: random_tokens(encoder, frames, budget) for budget in budgets}
    timed("prefill", lambda budget: language.prefill(given[budget]), budgets, setup.repeats)
    timed("encode", partial(encode, encoder, pictures), extremes, repeats)
    timed(
        "first_token",
        partial(first_token, encoder, language, pictures),
        budgets if few else extremes,
        repeats,
    )
    for budget, grown in peaks.items():
        cells[budget]["peak_bytes"] = (
            {"error": grown} if isinstance(grown, str) else spread([grown])
        )
    return cells, ratios


def _ran(encoder: Encoder, language: LanguageModel, frames: int, budget: Budget) -> Numbers:
    """One prefill of a window that is full, and the question after it."""
    taken: Columns = {}
    try:
        tokens = random_tokens(encoder, frames, budget)
        with timed(taken, "prefill_s"):
            prefix = language.prefill(tokens)
        language.logits(prefix, QUESTION)
    except Exception as error:
        return {"error": error_line(error)}
    return {"prefill_s": spread(taken["prefill_s"])}


def _memory(setup: Setup, name: str, counts: Sequence[int]) -> dict[int, int | str]:
    """Peak growth in bytes of reading so many frames, those that fit, once all has been used."""
    encoder, language = load(setup)
    budget = None if name == _name(None) else int(name)
    if (budget or 0) > encoder.tokens:
        return {}
    most = most_frames(encoder, language, budget)
    fit = [count for count in counts if count <= most]
    given = {count: random_tokens(encoder, count, budget) for count in (1, *fit)}
    language.prefill(given[1])
    return peak_bytes_by_size(lambda count: language.prefill(given[count]), fit)


def _name(budget: Budget) -> str:
    return "whole" if budget is None else str(budget)


def _named(encoder: Encoder, budget: Budget) -> Numbers:
    each = compression(budget).tokens_per_frame(encoder.tokens)
    return {"tokens_per_frame": each, "whole": budget is None}


def _about(encoder: Encoder, frames: int, budget: Budget) -> Numbers:
    named = _named(encoder, budget)
    return {"frames": frames, **named, "tokens": frames * named["tokens_per_frame"]}
