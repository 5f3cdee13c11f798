"""One question asked of a stream again and again, in a `for` or an `async for`."""

from __future__ import annotations

import asyncio
import math
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from vzvideo.live.ingest import Ingest
from vzvideo.types import Answer


class Every:
    """Answers to one question, time and again; see `Stream.every`.

    at_s: up to when the last answer looked. skipped: times that nobody asked, for the answer before
    took longer; of a file, which waits, none.
    """

    at_s = -math.inf
    skipped = 0

    def __init__(self, ingest: Ingest, seconds: float, ask: Callable[[], Answer]) -> None:
        """ask: what gives the answer of this moment."""
        self._ingest, self._seconds, self._ask = ingest, seconds, ask
        ingest.holders.hold(self, max(ingest.memory.end_s, 0.0) + seconds)

    def __iter__(self) -> Iterator[Answer]:
        return self._answers(threading.Event())

    def _answers(self, left: threading.Event) -> Iterator[Answer]:
        """left: set, and the ingest woken, where nobody waits for more."""
        ingest, seconds = self._ingest, self._seconds
        answered_s = begun_s = ingest.memory.end_s
        try:
            if begun_s == -math.inf:  # from the first frame on
                ingest.wait_until(-sys.float_info.max, left)
                begun_s = ingest.memory.start_s
            due_s = begun_s + seconds
            while True:
                ingest.holders.hold(self, due_s)
                reached_s = ingest.wait_until(due_s, left)
                held = ingest.holders.waiting
                if left.is_set() or (reached_s <= answered_s and not held):
                    return
                if reached_s > answered_s:  # else nothing was shown in between
                    self.at_s = reached_s
                    yield self._ask()
                if reached_s < due_s and not held:  # that was the rest
                    return
                answered_s = reached_s
                late = int((max(reached_s, due_s) - due_s) // seconds)
                self.skipped += late
                due_s = due_s + seconds if held else max(reached_s, due_s) + seconds
        finally:
            ingest.holders.release(self)

    async def __aiter__(self) -> AsyncIterator[Answer]:
        left = threading.Event()
        answers = self._answers(left)
        # A thread of its own: one that waits for hours would be missed in asyncio's pool.
        thread = ThreadPoolExecutor(1, "vzvideo every")
        loop = asyncio.get_running_loop()
        try:
            while (answer := await loop.run_in_executor(thread, next, answers, None)) is not None:
                yield answer
        finally:
            left.set()
            self._ingest.wake()
            thread.shutdown(wait=False)
