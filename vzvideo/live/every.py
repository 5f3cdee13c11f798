"""One question asked of a stream again and again, in a `for` or an `async for`."""

from __future__ import annotations

import asyncio
import math
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from vzvideo.live.ingest import Ingest
from vzvideo.types import Answer

if TYPE_CHECKING:
    from vzvideo.live.stream import Stream


class Every:
    """Answers to one question, time and again; see `Stream.every`.

    at_s: up to when the last answer looked.
    """

    at_s = -math.inf

    def __init__(
        self,
        stream: Stream,
        ingest: Ingest,
        seconds: float,
        question: str,
        since_s: float,
        changes: dict[str, Any],
    ) -> None:
        self._stream, self._ingest = stream, ingest
        self._seconds, self._question = seconds, question
        self._since_s, self._changes = since_s, changes

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
            yield self._stream.ask(self._question, since_s=self._since_s, **self._changes)
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
