"""Question files: one's own JSONL, and the published formats by name. Knows no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Question:
    """One thing to ask of one video.

    id: unique within a file. video: path of the file, or a URL.
    answers: those that count as right, or the references of a caption.
    options: what to choose from, without letters; the one answer is among them.
    kind: what the table of results groups by.
    metric: "exact" (match after normalisation), "choice" (of `options`), "caption" (CIDEr, BLEU).
    start_s, end_s: the part of the video that is meant, None for its ends.
    """

    id: str
    video: str
    question: str
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    kind: str = "all"
    metric: Literal["exact", "choice", "caption"] = "exact"
    start_s: float | None = None
    end_s: float | None = None
