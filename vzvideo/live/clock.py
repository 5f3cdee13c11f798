"""Time of sources that do not end, and may start their clocks again. Knows nothing of frames."""

from __future__ import annotations

import time

_JITTER_S = 1.0  # a frame so little too late is left out; one later than that starts a new clock
_STUCK = 50  # so many in a row, and the clock stands still
_GAP_S = 3600.0  # a file's next frame may come so much later; beyond it the clock has jumped
_DRIFT_S = 10.0  # so much faster than the wall's may a live source's clock run at once


class Clock:
    """A source's timestamps as seconds that only go forward.

    live: whether the time on the wall says how long a source was away.
    """

    def __init__(self, start_s: float, *, live: bool) -> None:
        self.last_s: float | None = None
        self._start_s, self._live = start_s, live
        self._offset_s: float | None = None
        self._step_s = 0.04
        self._late = 0  # frames left out in a row
        self._seen = 0.0

    def restart(self) -> None:
        """The source has been connected anew: what it says next has nothing to do with before."""
        self._offset_s = None

    def time(self, stamp_s: float | None) -> float | None:
        """When a frame is shown; None for one to leave out."""
        now = time.monotonic()
        waited_s, self._seen = now - self._seen, now
        if self.last_s is None:
            shown_s = self._start_s
        elif self._offset_s is None:
            shown_s = self._onward(waited_s)
        elif stamp_s is None:
            shown_s = self.last_s + self._step_s
        else:
            shown_s = stamp_s + self._offset_s
            ahead_s = shown_s - self.last_s
            if -_JITTER_S < ahead_s <= 0 and self._late < _STUCK:
                self._late += 1
                return None
            if ahead_s <= 0 or ahead_s > (waited_s + _DRIFT_S if self._live else _GAP_S):
                shown_s = self._onward(waited_s)
            else:
                self._step_s = ahead_s
        self._late = 0
        if stamp_s is not None:
            self._offset_s = shown_s - stamp_s
        self.last_s = shown_s
        return shown_s

    def _onward(self, waited_s: float) -> float:
        assert self.last_s is not None
        return self.last_s + max(self._step_s, waited_s if self._live else 0.0)
