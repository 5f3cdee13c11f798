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

    at_s: up to when the last answer looked.
    """

    at_s = -math.inf

    def __init__(self, ingest: Ingest, seconds: float, ask: Callable[[], Answer]) -> None:
        """ask: what gives the answer of this moment."""
        self._ingest, self._seconds, self._ask = ingest, seconds, ask

    def __iter__(self) -> Iterator[Answer]:
        return self._answers(threading.Event())

    def _answers(self, left: threading.Event) -> Iterator[Answer]:
        """left: set, and the ingest woken, where nobody waits for more."""
        answered_s = begun_s = self._ingest.memory.end_s
        if begun_s == -math.inf:  # from the first frame on
            self._ingest.wait_until(-sys.float_info.max, left)
            begun_s = self._ingest.memory.start_s
        while True:
            due_s = max(begun_s, answered_s) + self._seconds
            reached_s = self._ingest.wait_until(due_s, left)
            if left.is_set() or reached_s <= answered_s:
                return
            self.at_s = reached_s
            yield self._ask()
            if reached_s < due_s:  # that was the rest
                return
            answered_s = reached_s

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
