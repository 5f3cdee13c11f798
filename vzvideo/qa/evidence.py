"""Which moments of a video an answer was drawn from, and how times are told to people.

Where a model attends is mostly a matter of place: the first and the last frame, whatever is asked.
So each frame is asked by itself, the others hidden, how much likelier it makes the answer than a
sentence that says nothing. Knows no model: it is given that, and how strongly the answer attended
to each visual token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vzvideo.words import format_time

NEUTRAL = "Something is shown."
_STANDS_OUT = 1.25  # times an even share
# Tokens of an answer follow from each other: a long one counts no more than so many.
_INDEPENDENT = 4


@dataclass(frozen=True, eq=False)
class Evidence:
    """What an answer was drawn from.

    frames: float64 (T,), the share of each frame: how probable it is that the answer came of this
        one, had it come of one alone. They sum to 1.
    tokens: float64 (N,), the same by visual token: a frame's share by where in it was looked.
    pts_s: float64 (T,), seconds.
    """

    tokens: NDArray[np.float64]
    frames: NDArray[np.float64]
    pts_s: NDArray[np.float64]

    @property
    def spans_s(self) -> list[tuple[float, float]]:
        """From and to, in seconds, of frames in a row that each have a quarter more than an even
        share; empty where none stands out."""
        spans: list[tuple[float, float]] = []
        before = False
        for time_s, share in zip(self.pts_s.tolist(), self.frames * len(self.frames), strict=True):
            stands_out = bool(share > _STANDS_OUT)
            if stands_out:
                spans = [*spans[:-1], (spans[-1][0], time_s)] if before else [*spans, (time_s,) * 2]
            before = stands_out
        return spans

    def about(self) -> dict[str, list[Any]]:
        """For `--json`: the spans, and each frame's share."""
        return {
            "evidence_s": [[round(end, 6) for end in span] for span in self.spans_s],
            "evidence_frames": [round(float(share), 4) for share in self.frames],
        }

    def __str__(self) -> str:
        tenths = needs_tenths(self.pts_s)
        words = []
        for ends in self.spans_s:
            first, last = (format_time(time_s, tenths) for time_s in ends)
            words.append(first if first == last else f"{first}-{last}")
        return ", ".join(words) or "no part stands out"


def evidence(
    nats: Sequence[float],
    length: int,
    attended: NDArray[np.floating],
    covers: NDArray[np.bool_],
    pts_s: NDArray[np.float64],
) -> Evidence:
    """Shares of frames and tokens.

    nats: by each frame that has a token, alone, how much likelier the answer is than another, a
        token of its `length`.
    attended: (N,), not negative, to each token; covers: (T, N), the frames that each stands for,
        over which it is spread.
    """
    whole = np.array(nats, np.float64) * min(max(length, 1), _INDEPENDENT)
    likely = np.exp(whole - whole.max())
    frames = np.zeros(len(pts_s))
    frames[covers.any(1)] = likely / likely.sum()
    weights = attended.astype(np.float64) + np.finfo(float).tiny  # even where nothing was looked at
    within = covers * weights
    within /= within.sum(1, keepdims=True).clip(min=np.finfo(float).tiny)
    tokens = frames @ within
    return Evidence(tokens, frames, pts_s)


def needs_tenths(pts_s: NDArray[np.float64]) -> bool:
    """Whether whole seconds would tell some of these frames' times alike."""
    return len(pts_s) > 1 and float(np.diff(pts_s).min()) < 1.0
