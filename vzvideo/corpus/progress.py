"""How far a corpus job is, how fast it has been lately, and what became of its rows."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

_MESSAGES = 5  # kept of what went wrong
_LATELY, _LATELY_S = 10, 60.0  # videos and seconds that the rate goes back, whichever is more
_SHORTEST_S = 5.0  # that a rate is taken over


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    rate: videos a second lately; left_s: what the rest takes at that rate. Both None until there is
    something to go by.
    """

    rows: int
    failed: int
    total: int
    rate: float | None
    left_s: float | None


@dataclass
class Summary:
    """What a job did, or has done so far.

    rows: wanted in all. done: there, in the output; kept: of these, from a former run.
    failed: those with an error, by "stage:code". messages: why, of the first few in words.
    """

    rows: int = 0
    done: int = 0
    kept: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    messages: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, rows: Iterable[dict[str, Any]]) -> None:
        """Rows that are there now."""
        for row in rows:
            self.done += 1
            if row["error"] is not None:
                self.failed[row["error"]] += 1
                known = row["message"] in self.messages  # of a video with several questions
                if not known and len(self.messages) < _MESSAGES:
                    self.messages.append(row["message"])


class Meter:
    """Says how far a job is, and how fast it has been lately."""

    def __init__(self, progress: Callable[[Progress], None] | None) -> None:
        self._progress = progress
        self._begun_s: float | None = None
        self._done_s: deque[float] = deque()

    def tell(self, summary: Summary, videos_left: int) -> None:
        """One more video is done."""
        if self._progress is None:
            return
        now = time.monotonic()
        self._begun_s = now if self._begun_s is None else self._begun_s
        # What was done while models were loaded comes out all at once, and says nothing.
        if now - self._begun_s < _SHORTEST_S:
            self._done_s.clear()
        self._done_s.append(now)
        while len(self._done_s) > _LATELY and now - self._done_s[0] > _LATELY_S:
            self._done_s.popleft()
        span_s = now - self._done_s[0]
        rate = (len(self._done_s) - 1) / span_s if span_s > _SHORTEST_S else None
        left_s = videos_left / rate if rate else None
        self._progress(Progress(summary.done, summary.failed.total(), summary.rows, rate, left_s))
