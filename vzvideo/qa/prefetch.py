"""The overlap of stages: one makes the next item while another works on the current one.

And a clock that says when which of them worked. Knows nothing of what the items are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, Full, Queue
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
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


class Span(NamedTuple):
    """When a stage worked, in seconds of `time.perf_counter`."""

    stage: str
    begun_s: float
    ended_s: float


class StageTimer:
    """Notes when each stage worked; stages may run in threads of their own."""

    def __init__(self) -> None:
        self.spans: list[Span] = []  # in the order in which they ended; appending is atomic

    @property
    def seconds(self) -> dict[str, float]:
        """How long each stage worked in all."""
        total: dict[str, float] = {}
        for stage, begun_s, ended_s in self.spans:
            total[stage] = total.get(stage, 0.0) + ended_s - begun_s
        return total

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts what is done within for a stage, unless it fails."""
        begun_s = time.perf_counter()
        yield
        self.spans.append(Span(name, begun_s, time.perf_counter()))

    def timed(self, items: Iterator[T], stage: str) -> Iterator[T]:
        """The same items; waiting for them counts for a stage."""
        while True:
            with self.stage(stage):
                item = next(items, None)
            if item is None:
                return
            yield item
