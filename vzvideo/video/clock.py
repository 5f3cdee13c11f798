"""Timestamps as seconds that only go forward: one set of rules for files and for live sources.

Clocks start again where recordings were joined or a camera was switched off and on, timestamps are
missing, or one among them is wrong. Knows nothing of frames.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

JITTER_S = 1.0  # a frame so little too late is just late; one later than that starts a new clock
_STUCK = 50  # so many in a row, and the clock stands still
GAP_S = 3600.0  # a file's next frame may come so much later; beyond it the clock has jumped
_DRIFT_S = 10.0  # so much faster than the wall's may a live source's clock run at once
_LEAP = 1.5  # times as far as the frames before, and a timestamp may be a wrong one
_OFF_FRAMES = 1.5  # so far may the timestamp lie that stands for many frames
_SAME_S = 1e-9


class Clock:
    """A source's timestamps as seconds.

    last_s: time of the last frame. offset_s: what a timestamp lacks to be such a time; None where
    the next frame follows the last whatever its timestamp says. jumps: how often the source has
    started its clock again. live: whether it is a live source's.
    """

    def __init__(
        self,
        start_s: float = 0.0,
        *,
        live: bool = False,
        step_s: float = 0.04,
        offset_s: float | None = None,
    ) -> None:
        """start_s: time of the first frame, or the one that offset_s makes of its timestamp.

        live: whether the time on the wall says how long a source was away. A live source's frames
        that come too late are left out; a file's all have a place. step_s: seconds a frame, until
        timestamps say it.
        """
        self.last_s: float | None = None
        self.offset_s = offset_s
        self.jumps = 0
        self._start_s, self.live = start_s, live
        self._step_s = step_s
        self._late = 0  # late ones in a row
        self._stamp_s: float | None = None  # the last timestamp that was believed
        self._counted = 0  # frames since then
        self._run, self._run_from_s = 0, start_s  # frames in a row that were given a time by count
        self._seen = 0.0

    def restart(self) -> None:
        """The source has been connected anew: what it says next has nothing to do with before."""
        self.offset_s = None

    def follow(
        self, frames: Iterable[T], stamp_s: Callable[[T], float | None]
    ) -> Iterator[tuple[T, float]]:
        """Each frame and when it is shown; stamp_s: its timestamp in seconds, if it has one.

        A file's frame whose timestamp is not what was to be expected is held back until the next
        one shows whether it was right.
        """
        held: list[T] = []
        for frame in frames:
            stamp = stamp_s(frame)
            if held:
                yield from self._timed(held.pop(), stamp_s, stamp)
            if self.live or self._expects(stamp):
                yield from self._timed(frame, stamp_s)
            else:
                held.append(frame)
        if held:
            yield from self._timed(held.pop(), stamp_s)

    def _timed(
        self, frame: T, stamp_s: Callable[[T], float | None], next_s: float | None = None
    ) -> Iterator[tuple[T, float]]:
        at_s = self.time(stamp_s(frame), next_s)
        if at_s is not None:
            yield frame, at_s

    def _expects(self, stamp_s: float | None) -> bool:
        if stamp_s is None or self.last_s is None or self.offset_s is None:
            return True
        return 0 <= self._ahead_s(stamp_s) <= _LEAP * self._step_s

    def time(self, stamp_s: float | None, next_s: float | None = None) -> float | None:
        """When a frame is shown; None for one to leave out. next_s: the next one's timestamp.

        A file's frames never go back, but two of them may be of one moment.
        """
        now = time.monotonic()
        waited_s, self._seen = now - self._seen, now
        if self.last_s is None:
            shown_s = self._start_s
            if self.offset_s is not None and stamp_s is not None:
                shown_s = stamp_s + self.offset_s
        elif self.offset_s is None:
            shown_s = self._onward(waited_s)
        elif stamp_s is None:
            shown_s = self._next_s
        else:
            shown_s = stamp_s + self.offset_s
            ahead_s = shown_s - self.last_s
            late = -JITTER_S < ahead_s <= _SAME_S and self._late < _STUCK
            if self._counted > 0 and abs(ahead_s - self._step_s) <= _OFF_FRAMES * self._step_s:
                shown_s = self._next_s  # as counted: few timestamps are exact ones
            elif late and (self.live or ahead_s >= -_SAME_S):
                self._late += 1
                return None if self.live else self.last_s
            elif late or self._is_wrong(ahead_s, next_s):
                shown_s = self._between(next_s)
                if not self._counted:  # else what was counted went too fast
                    stamp_s = None
            elif ahead_s <= 0 or ahead_s > (waited_s + _DRIFT_S if self.live else GAP_S):
                shown_s = self._onward(waited_s)
                self.offset_s = None
                self.jumps += 1
        self._late = 0
        self._counted += 1
        if stamp_s is not None:
            if self.offset_s is None:
                self.offset_s = shown_s - stamp_s
            elif self._stamp_s is not None and stamp_s > self._stamp_s:
                self._measure(stamp_s - self._stamp_s)
            self._stamp_s, self._counted = stamp_s, 0
        if shown_s == self._next_s:
            self._run += 1
        else:
            self._run, self._run_from_s = 0, shown_s
        self.last_s = shown_s
        return shown_s

    def _measure(self, passed_s: float) -> None:
        """Learns how long a frame lasts from two timestamps `passed_s` apart."""
        step_s = passed_s / self._counted
        # One of several frames may have got a timestamp that is its neighbour's.
        if self._counted == 1 or abs(step_s / self._step_s - 1) > _OFF_FRAMES / self._counted:
            self._step_s = step_s

    def _is_wrong(self, ahead_s: float, next_s: float | None) -> bool:
        """Whether the next frame goes on from the last as if this one did not lie between them."""
        next_ahead_s = self._ahead_s(next_s)
        return 0 < next_ahead_s <= GAP_S and not 0 < ahead_s <= next_ahead_s

    def _between(self, next_s: float | None) -> float:
        """A time for a frame that lies between the last and the next, whatever it says itself."""
        assert self.last_s is not None
        next_ahead_s = self._ahead_s(next_s)
        return self.last_s + (next_ahead_s if next_ahead_s > 0 else self._step_s) / 2

    def _ahead_s(self, stamp_s: float | None) -> float:
        """How far behind the last frame one lies, by its timestamp; 0 where that is not known."""
        if stamp_s is None or self.last_s is None or self.offset_s is None:
            return 0.0
        return stamp_s + self.offset_s - self.last_s

    @property
    def _next_s(self) -> float:
        """When a frame is shown that says nothing of it. Not from the last: errors would add up."""
        return self._run_from_s + (self._run + 1) * self._step_s

    def _onward(self, waited_s: float) -> float:
        assert self.last_s is not None
        return self.last_s + max(self._step_s, waited_s if self.live else 0.0)
