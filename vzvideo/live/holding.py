"""Who holds a source back: one that loses nothing by waiting, as a file, waits for whoever asks of
every moment."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable

from vzvideo.video.base import SAME_S

_LOOK_S = 0.5  # a holder may have gone without a word


class Holders:
    """Who wants such a source to go no further, and up to when."""

    def __init__(self, changed: threading.Condition) -> None:
        """changed: the condition under which everything here changes, and whoever waits waits."""
        self._changed = changed
        self._until_s: weakref.WeakKeyDictionary[object, float] = weakref.WeakKeyDictionary()
        self._waiting = False

    @property
    def waiting(self) -> bool:
        """Whether the source stands and waits for somebody."""
        return self._waiting

    def hold(self, who: object, until_s: float) -> None:
        """Frames behind `until_s` are not taken until `who`, which lives, says a later time."""
        with self._changed:
            self._until_s[who] = until_s + SAME_S
            self._waiting = False  # whoever is held looks again
            self._changed.notify_all()

    def release(self, who: object) -> None:
        """`who` holds nothing back any more."""
        with self._changed:
            self._until_s.pop(who, None)
            self._waiting = False
            self._changed.notify_all()

    def wait(self, pts_s: float, over: Callable[[], bool]) -> None:
        """Until nobody holds a frame of `pts_s` back, or it is over. The condition is held."""
        while pts_s > min(self._until_s.values(), default=math.inf) and not over():
            if not self._waiting:
                self._waiting = True
                self._changed.notify_all()
            self._changed.wait(_LOOK_S)
        self._waiting = False
