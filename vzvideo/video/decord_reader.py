"""decord as the decoder, in a process of its own, for it is unmaintained, may hang, and grows.

decord gives pictures by number and little else; which frame is shown when, PyAV reads from the
packets, and everything a video says of itself too. Videos of which decord is known to give wrong
pictures are refused. What it passes over as damaged it does not tell, so `lost` is always 0.
"""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from threading import Timer
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vzvideo.errors import VideoError
from vzvideo.video.reader import SAME_S, Video, scaled


class DecordVideo(Video):
    """See `open_video`."""

    def __init__(self, source: str, size: int | None, deadline_s: float) -> None:
        from vzvideo.video.pyav_reader import PyAVVideo  # not for the child, which needs no PyAV

        if find_spec("decord") is None:
            raise VideoError(
                "decord is not installed: pip install 'vzvideo[decord]'", code="no_decoder"
            )
        self.source = source
        self._deadline_s = deadline_s
        self._late = False
        self._child: subprocess.Popen[bytes] | None = None
        self._facts = PyAVVideo(source, None, deadline_s)
        try:
            self.info = self._facts.info
            times = self._examine()
            # Not by multiprocessing, which would run the caller's main module in the child again.
            self._child = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            width, height = scaled(self.info.width, self.info.height, size)
            frames = self._ask((source, width, height))
            if frames != len(times):
                raise self._unfit(f"it counts {frames} frames where {len(times)} are shown")
            self._times_s = np.sort(times)
        except BaseException:
            self.close()
            raise

    def keyframes_s(self) -> NDArray[np.float64]:
        return self._facts.keyframes_s()

    def differences(
        self, start_s: float, end_s: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Decoded by PyAV, so that both decoders are asked for the same frames."""
        return self._facts.differences(start_s, end_s)

    def close(self) -> None:
        self._facts.close()
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            with suppress(BrokenPipeError), child:  # which closes the pipes and waits
                pass

    def _shown_at(self, time_s: float) -> tuple[float, Callable[[], NDArray[np.uint8]]]:
        index = max(0, int(np.searchsorted(self._times_s, time_s + SAME_S, "right")) - 1)
        return float(self._times_s[index]), partial(self._ask, index)

    def _passed_over(self) -> int:
        return self._facts._passed_over()

    def _examine(self) -> list[float]:
        """Times of all frames, or VideoError where decord would give wrong pictures."""
        times: list[float] = []
        key_s = -np.inf
        kind = self._facts.format
        if not {"mp4", "matroska"} & set(kind.split(",")):
            raise self._unfit(f"its seeking in {kind} is wrong")
        if self.info.rotation % 180:
            raise self._unfit("it cannot turn pictures upright")
        if self.info.start_s:
            raise self._unfit("its seeking is wrong where timestamps do not begin with 0")
        for packet, at_s in self._facts.packets():
            if packet.is_keyframe:
                key_s = at_s
            elif at_s < key_s:
                raise self._unfit("its seeking is wrong in open groups of pictures")
            times.append(at_s - self.info.start_s)
        return times

    def _unfit(self, why: str) -> VideoError:
        return VideoError(
            f"{self.source}: not for decord: {why}; use the default decoder", code="decoder"
        )

    def _ask(self, request: Any) -> Any:
        """What the child answers, or VideoError when the deadline has passed or it is dead."""
        child = self._child
        if child is None or child.stdin is None or child.stdout is None:
            raise VideoError(f"{self.source}: decord has been closed", code="closed")
        timer = Timer(self._deadline_s, self._give_up)
        timer.start()
        try:
            pickle.dump(request, child.stdin)
            child.stdin.flush()
            answer = pickle.load(child.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            self.close()
            reason, code = f"decord died ({child.returncode}); use the default decoder", "decoder"
            if self._late:
                reason, code = f"no answer from decord within {self._deadline_s:g} s", "deadline"
            raise VideoError(f"{self.source}: {reason}", code=code) from None
        finally:
            timer.cancel()
        if isinstance(answer, str):
            raise VideoError(f"{self.source}: decord: {answer}", code="decoder")
        return answer

    def _give_up(self) -> None:
        self._late = True
        if self._child is not None:
            self._child.kill()  # decord holds on to the interpreter: nothing gentler reaches it


def serve() -> None:
    """The child: a video's source and size comes first, then numbers of frames, until the end."""
    import decord

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C, and ends this
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever decord prints is no answer
    decord.logging.set_level(decord.logging.QUIET)
    reader = None
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer: Any
        try:
            if reader is None:
                source, width, height = request
                reader = decord.VideoReader(source, width=width, height=height)
                answer = len(reader)
            else:
                answer = reader[request].asnumpy()
        except Exception as error:
            first = str(error).strip().split("\n")[0]
            answer = re.sub(r"^\[.*?\] \S+ ", "", first) or type(error).__name__
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


if __name__ == "__main__":
    serve()
