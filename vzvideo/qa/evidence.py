"""Which moments of a video an answer was drawn from, and how times are told to people.

Knows no model: it is given how strongly an answer attended to each visual token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vzvideo.words import format_time

_STANDS_OUT = 1.25  # times an even share


@dataclass(frozen=True, eq=False)
class Evidence:
    """What an answer drew on.

    tokens: float64 (N,), the share of each visual token; they sum to 1.
    frames: float64 (T,), the same by frame. pts_s: float64 (T,), seconds.
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
        return ", ".join(words) or "the whole of it alike"


def evidence(
    attended: NDArray[np.floating], frame: NDArray[np.integer], pts_s: NDArray[np.float64]
) -> Evidence:
    """attended (N,), not negative, and the frame (N,) of each token -> their shares."""
    shares = attended.astype(np.float64)
    shares = shares / max(shares.sum(), np.finfo(float).tiny)
    frames = np.bincount(frame, shares, len(pts_s)).astype(np.float64)
    return Evidence(shares, frames, pts_s)


def needs_tenths(pts_s: NDArray[np.float64]) -> bool:
    """Whether whole seconds would tell some of these frames' times alike."""
    return len(pts_s) > 1 and float(np.diff(pts_s).min()) < 1.0
