"""How a stream is doing, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stats:
    """How a stream is doing; frames_in = skipped + encoded + dropped + waiting, always.

    skipped: frames that showed nothing new. dropped: those there was no time for. waiting: not yet
    encoded. lag_s: how far what is remembered is behind what came in. tokens: remembered.
    covered_s: from the first moment remembered to the last. lost, reconnects: of attached sources:
    damaged packets and frames, and how often one that had gone was connected anew.
    """

    frames_in: int = 0
    skipped: int = 0
    encoded: int = 0
    dropped: int = 0
    waiting: int = 0
    lag_s: float = 0.0
    tokens: int = 0
    covered_s: float = 0.0
    lost: int = 0
    reconnects: int = 0


COUNTED = ("frames_in", "skipped", "encoded", "dropped", "lost", "reconnects")
