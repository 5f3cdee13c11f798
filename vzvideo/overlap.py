"""The overlap of stages: one makes the next item while another works on the current one.

Knows nothing of what the items are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from queue import Empty, Full, Queue
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Runs an iterator in a thread of its own, at most `depth` items ahead of whoever consumes it.

    Decoding (outside the interpreter's lock) thus overlaps with encoding. An error comes out where
    the items do; `close` stops the thread and waits for it.
    """

    def __init__(self, items: Iterator[T], depth: int = 2) -> None:
        self._items = items
        self._queue: Queue[tuple[str, Any]] = Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            for item in self._items:
                if not self._put(("item", item)):
                    return
            self._put(("end", None))
        except BaseException as error:
            self._put(("error", error))

    def _put(self, entry: tuple[str, Any]) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(entry, timeout=0.1)
                return not self._stop.is_set()
            except Full:
                continue
        return False

    def __iter__(self) -> Iterator[T]:
        while not self._stop.is_set():
            kind, value = self._queue.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value

    def close(self) -> None:
        self._stop.set()
        while True:
            try:
                self._queue.get_nowait()
            except Empty:
                break
        self._thread.join()


def timed(items: Iterator[T], clock: dict[str, float], stage: str) -> Iterator[T]:
    """The same items; the seconds spent waiting for them go into `clock`."""
    while True:
        begun = time.perf_counter()
        item = next(items, None)
        clock[stage] += time.perf_counter() - begun
        if item is None:
            return
        yield item
