"""Frames that lie far apart in a file, read by several readers at once and given in order.

What lies between two keyframes can be decoded without the rest: readers with stretches of their own
keep cores busy where the threads of a single decoder mostly wait for each other.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from vzvideo.errors import VideoError
from vzvideo.video.base import Video

# When a frame starts, its pixels, what was lost on the way there; or what went wrong in its place.
_Shown = tuple[float, NDArray[np.uint8], int] | Exception
# Opens a video; once the event is set it may stop wherever it is.
Opener = Callable[[threading.Event], Video]


class Relay:
    """The frames shown at the times of `stretches`, one after the other as `shown` is called.

    At any time the pictures of up to two stretches more than there are readers are held.
    lost: damaged packets and frames of what has been given so far. opened: readers.
    """

    def __init__(self, stretches: Sequence[Sequence[float]], readers: Sequence[Opener]) -> None:
        """readers: each opens the video once more, when there is something to read."""
        self.lost = 0
        self.opened = 0
        self._free: SimpleQueue[Opener | Video] = SimpleQueue()
        for reader in readers:
            self._free.put(reader)
        self._left, self._readers = iter(stretches), len(readers)
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(len(readers), "vzvideo reader")
        self._coming: deque[Future[list[_Shown]]] = deque()
        self._given: Iterator[_Shown] = iter(())

    def shown(self) -> tuple[float, Callable[[], NDArray[np.uint8]]]:
        """When the frame shown at the next time starts, and what gives it.

        Raises VideoError("closed") behind `close`, and what reading raised in that frame's place.
        """
        while (found := next(self._given, None)) is None:
            if self._over.is_set():
                raise VideoError("the video has been closed", code="closed")
            # One more than there are readers: it lies ready while they are at the next.
            while len(self._coming) <= self._readers and self._begin():
                pass
            self._given = iter(self._coming.popleft().result())
        if isinstance(found, Exception):
            raise found
        at_s, pixels, lost = found
        self.lost += lost
        return at_s, partial(_same, pixels)

    def close(self) -> None:
        """Ends the readers, which stop where they are."""
        self._over.set()
        self._pool.shutdown(cancel_futures=True)
        while not self._free.empty():
            if isinstance(reader := self._free.get(), Video):
                reader.close()

    def _begin(self) -> bool:
        times = next(self._left, None)
        if times is not None:
            self._coming.append(self._pool.submit(self._read, times))
        return times is not None

    def _read(self, times: Sequence[float]) -> list[_Shown]:
        reader = self._free.get()
        shown: list[_Shown] = []
        pixels, last_s = np.empty(0, np.uint8), -np.inf
        try:
            if not isinstance(reader, Video):
                reader = reader(self._over)
                self.opened += 1
            for time_s in times:
                if self._over.is_set():
                    break
                at_s, picture = reader._shown_at(time_s)
                # At once: a decoder's own frames are larger than what is made of them.
                pixels, last_s = pixels if at_s == last_s else picture(), at_s
                shown.append((at_s, pixels, reader._take_lost()))
        except Exception as error:
            shown.append(error)  # behind what went well
        finally:
            # By the thread that used it: nobody else may while it is at work.
            if self._over.is_set() and isinstance(reader, Video):
                reader.close()
            else:
                self._free.put(reader)
        return shown


def _same(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels
