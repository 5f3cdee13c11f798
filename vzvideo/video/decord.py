"""decord as the decoder, in a process of its own, for it is unmaintained, may hang, and grows.

decord gives pictures by number and little else; which frame is shown when, PyAV reads from the
packets, and everything a video says of itself too. Videos of which decord is known to give wrong
pictures are refused. What it passes over as damaged it does not tell, so `lost` is always 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vzvideo.errors import VideoError
from vzvideo.video.base import SAME_S, Video, VideoInfo, scaled
from vzvideo.video.child import Child, Died, serve


class DecordVideo(Video):
    """See `open_video`."""

    def __init__(
        self,
        source: str,
        size: int | None,
        deadline_s: float,
        *,
        deinterlace: bool = True,
        tone_map: bool = True,
    ) -> None:
        from vzvideo.video.pyav.reader import PyAVVideo  # not for the child, which needs no PyAV

        if find_spec("decord") is None:
            raise VideoError(
                "decord is not installed: pip install 'vzvideo[decord]'", code="no_decoder"
            )
        self.source = source
        self._deadline_s = deadline_s
        self._child: Child | None = None
        self._pyav = PyAVVideo(source, None, deadline_s, deinterlace=deinterlace, tone_map=tone_map)
        try:
            times = self._examine()
            self._child = Child(__name__)
            width, height = scaled(self.info.width, self.info.height, size)
            frames = self._ask((source, width, height))
            if frames != len(times):
                raise self._unfit(f"it counts {frames} frames where {len(times)} are shown")
            self._times_s = np.sort(times)
        except BaseException:
            self.close()
            raise

    @property
    def info(self) -> VideoInfo:
        return self._pyav.info

    def keyframes_s(self) -> NDArray[np.float64]:
        return self._pyav.keyframes_s()

    def differences(
        self, start_s: float, end_s: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Decoded by PyAV, so that both decoders are asked for the same frames."""
        return self._pyav.differences(start_s, end_s)

    def close(self) -> None:
        self._pyav.close()
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def _shown_at(self, time_s: float) -> tuple[float, Callable[[], NDArray[np.uint8]]]:
        index = max(0, int(np.searchsorted(self._times_s, time_s + SAME_S, "right")) - 1)
        return float(self._times_s[index]), partial(self._ask, index)

    def _take_lost(self) -> int:
        return self._pyav._take_lost()

    def _examine(self) -> list[float]:
        """Times of all frames, or VideoError where decord would give wrong pictures."""
        times: list[float] = []
        key_s = -np.inf
        kind = self._pyav.facts.format
        if not {"mp4", "matroska"} & set(kind.split(",")):
            raise self._unfit(f"its seeking in {kind} is wrong")
        if self.info.rotation % 180:
            raise self._unfit("it cannot turn pictures upright")
        if self._pyav.needs_more_than_scaling:
            raise self._unfit("it shows mirrored, interlaced and HDR pictures as they are coded")
        if self.info.start_s:
            raise self._unfit("its seeking is wrong where timestamps do not begin with 0")
        for packet, at_s in self._pyav.timing.packets():
            if packet.is_keyframe:
                key_s = at_s
            elif at_s < key_s:
                raise self._unfit("its seeking is wrong in open groups of pictures")
            times.append(at_s)
        return times

    def _unfit(self, why: str) -> VideoError:
        return VideoError(
            f"{self.source}: not for decord: {why}; use the default decoder", code="decoder"
        )

    def _ask(self, request: Any) -> Any:
        """What the child answers, or VideoError when the deadline has passed or it is dead."""
        if self._child is None:
            raise VideoError(f"{self.source}: decord has been closed", code="closed")
        try:
            answer = self._child.ask(request, self._deadline_s)
        except Died as died:
            self.close()
            reason, code = f"decord died ({died.status}); use the default decoder", "decoder"
            if died.late:
                reason, code = f"no answer from decord within {self._deadline_s:g} s", "deadline"
            raise VideoError(f"{self.source}: {reason}", code=code) from None
        if isinstance(answer, str):
            raise VideoError(f"{self.source}: decord: {answer}", code="decoder")
        return answer


def main() -> None:
    """The child: a video's source and size comes first, then numbers of frames, until the end."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    reader = None

    def answer(request: Any) -> Any:
        nonlocal reader
        try:
            if reader is None:
                source, width, height = request
                reader = decord.VideoReader(source, width=width, height=height)
                return len(reader)
            return reader[request].asnumpy()
        except Exception as error:
            first = str(error).strip().split("\n")[0]
            return re.sub(r"^\[.*?\] \S+ ", "", first) or type(error).__name__

    serve(answer)


if __name__ == "__main__":
    main()
