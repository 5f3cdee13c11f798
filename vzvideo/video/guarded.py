"""Decoding that no video can harm: in a process of its own, under a deadline and a memory limit.

For a corpus, where one file of ten thousand hangs a decoder, kills it, or eats the machine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from vzvideo.config import Settings
from vzvideo.errors import SettingsError, VideoError, VzVideoError
from vzvideo.types import FrameBatch
from vzvideo.video.backends import open_video
from vzvideo.video.base import VideoInfo
from vzvideo.video.child import Child, Died, serve
from vzvideo.video.frames import frames_of

LEAST_GIB = 1.0  # the interpreter, numpy and FFmpeg alone reserve some hundred megabytes


@dataclass(frozen=True)
class Guard:
    """What decoding one video may cost.

    deadline_s: seconds for the whole of it. memory_gib: address space of the process.
    tries: how often one that takes the process with it is tried, each time in a new process.
    """

    deadline_s: float = 300.0
    memory_gib: float = 4.0
    tries: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.deadline_s < 1e6 or self.memory_gib < LEAST_GIB or self.tries < 1:
            raise SettingsError(
                f"{self}: a deadline of some seconds, {LEAST_GIB:g} GiB and one try are needed"
            )


class GuardedDecoder:
    """Decodes one video after the other in a child process, which it starts anew when it died."""

    def __init__(self, guard: Guard | None = None, *, threads: int = 1) -> None:
        """threads: how many a video is decoded with; one decoder a core wants one."""
        self._guard = guard or Guard()
        self._threads = threads
        self._child: Child | None = None

    def decode(self, source: str, settings: Settings, count: int, size: int) -> list[FrameBatch]:
        """The frames that `frames_of` chooses; VideoError for whatever goes wrong with them.

        Codes beside those of `open_video`: "deadline", "memory", "crashed".
        """
        batches: list[FrameBatch] = self._tried(source, (source, settings, count, size))
        return batches

    def describe(self, source: str, settings: Settings) -> VideoInfo:
        """What a video says of itself; errors as of `decode`."""
        info: VideoInfo = self._tried(source, (source, settings, 0, 0))[0]
        return info

    def _tried(self, source: str, request: Any) -> list[Any]:
        for _ in range(self._guard.tries):
            try:
                return self._all(request)
            except Died as died:
                end = died
        if end.late:
            raise VideoError(
                f"{source}: not decoded within {self._guard.deadline_s:g} s, tried "
                f"{self._guard.tries} times",
                code="deadline",
            )
        raise VideoError(
            f"{source}: its decoding killed the process (status {end.status}), tried "
            f"{self._guard.tries} times",
            code="crashed",
        )

    def _all(self, request: Any) -> list[Any]:
        """All that the child answers to a request, until it says that there is no more."""
        if self._child is None or not self._child.alive:
            self.close()
            self._child = Child(__name__, [str(self._guard.memory_gib), str(self._threads)])
        ends = time.monotonic() + self._guard.deadline_s
        answers: list[Any] = []
        while True:
            answer = self._child.ask(request, max(0.001, ends - time.monotonic()))
            if isinstance(answer, VzVideoError):
                raise answer
            if answer is None:
                return answers
            answers.append(answer)
            request = None  # the next one

    def close(self) -> None:
        """Ends the child."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def __del__(self) -> None:
        with suppress(Exception):
            self.close()


def main(memory_gib: float, threads: int) -> None:
    """The child: asked for a video it answers with a batch, asked None with the next one.

    The last answer to a video is None, or an error. Where no frames are wanted, the one before is
    what the video says of itself.
    """
    _limit(memory_gib)
    going: Iterator[FrameBatch | VideoInfo] = iter(())
    source = ""

    def answer(request: Any) -> FrameBatch | VideoInfo | VzVideoError | None:
        nonlocal going, source
        if request is not None:
            source = request[0]
            going = _answers(*request, threads=threads)
        try:
            return next(going, None)
        except VzVideoError as error:
            return error
        except MemoryError:
            reason = f"decoding it takes more than {memory_gib:g} GiB"
            return VideoError(f"{source}: {reason}", code="memory")
        except Exception as error:
            return VideoError(f"{source}: {type(error).__name__}: {error}", code="decoder")

    serve(answer)


def _answers(
    source: str, settings: Settings, count: int, size: int, *, threads: int
) -> Iterator[FrameBatch | VideoInfo]:
    if count:
        with frames_of(source, settings, count, size, threads=threads) as found:
            yield from found.batches
    else:
        with open_video(source, deadline_s=settings.deadline_s, threads=threads) as video:
            yield video.info


def _limit(memory_gib: float) -> None:
    with suppress(ImportError, ValueError, OSError):  # not everywhere, and never above the hard one
        import resource

        limit = int(memory_gib * (1 << 30))
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
