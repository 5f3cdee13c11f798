"""The default decoder: PyAV. Only the frames asked for are converted to RGB, scaled on the way.

Frames far apart are read by several readers, large ones converted by other threads.
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from itertools import pairwise

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vzvideo.errors import VideoError
from vzvideo.types import FrameBatch
from vzvideo.video.base import CONVERT_AHEAD, Video, VideoInfo
from vzvideo.video.fetching import OnFetch
from vzvideo.video.pyav.decoding import Shown
from vzvideo.video.pyav.demuxer import Demuxer
from vzvideo.video.pyav.hwaccel import acceleration
from vzvideo.video.pyav.pictures import Painter, to_pixels
from vzvideo.video.pyav.relay import Opener, Relay
from vzvideo.video.pyav.seeking import FrameReader
from vzvideo.video.pyav.timing import Stamps

_LARGE = 2**19  # pixels of a frame from which on handing it to another thread pays
_READERS = 8  # of one file at once, at most
_STRETCH_BYTES = 2**25  # that the pictures of one stretch may take, if it is to have its own reader
_SMALL = 32  # edge of the pictures that `differences` compares


def _usable_cores() -> int:
    """Of this process, which may have been given fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class PyAVVideo(FrameReader, Video):
    """See `open_video`. needs_more_than_scaling: see `Painter`."""

    _shown: VideoFrame | None  # the last whose picture was asked for, and what gives it
    _picture: Callable[[], NDArray[np.uint8]] | None

    def __init__(
        self,
        source: str,
        size: int | None,
        deadline_s: float,
        threads: int = 0,
        hwaccel: str | None = None,
        deinterlace: bool = True,
        tone_map: bool = True,
        on_fetch: OnFetch | None = None,
    ) -> None:
        super().__init__(source, deadline_s, threads, acceleration(hwaccel) if hwaccel else None)
        self._cores = threads or _usable_cores()
        self._relays: list[Relay] = []
        self._painters: ThreadPoolExecutor | None = None
        try:
            first = self._begin(on_fetch)
            frame = first.frame
            self._painter = Painter.of(
                self._stream, frame, size, deinterlace=deinterlace, tone_map=tone_map
            )
            # In shape and upright, but as large as it is coded.
            self._whole = Painter.of(self._stream, frame, None)
            self.needs_more_than_scaling = self._painter.needs_more_than_scaling(frame)
            painters = min(CONVERT_AHEAD, self._cores)
            if painters > 1 and frame.width * frame.height >= _LARGE:
                self._painters = ThreadPoolExecutor(painters, "vzvideo picture")
            if not self._demuxer.version:
                _ = self.info  # while there is a connection: another might give another stream
        except BaseException:
            self.close()
            raise

    # -- the contract

    def stream(self, times_s: NDArray[np.float64], batch: int = 8) -> Iterator[FrameBatch]:
        self._check_open()
        try:
            yield from self._streamed(times_s, batch)
        finally:
            self._counted.clear()

    def _streamed(self, times_s: NDArray[np.float64], batch: int) -> Iterator[FrameBatch]:
        stretches = self._stretches(np.maximum(times_s, 0.0).tolist())
        # Two stretches for each at least: else some would have none while others are at their last.
        readers = min(_READERS, self._cores, len(stretches) // 2)
        if readers < 2:
            yield from super().stream(times_s, batch)
            return
        if not self._worth_seeking(0.0, stretches[0][0]):
            self._lost = 0  # before the first frame: whoever begins there comes upon it again
            self._counted.clear()
        # With all cores there are: a decoder's own threads help where stretches are few and long.
        threads = self._cores // readers
        relay = Relay(stretches, [self._another(threads) for _ in range(readers)])
        self._relays.append(relay)

        def shown_at(_: float) -> tuple[float, Callable[[], NDArray[np.uint8]]]:
            self._check_open()
            try:
                at_s, picture = relay.shown()
            except VideoError:
                self._demuxer.check_unchanged()  # which would be the reason
                raise
            self._lost, relay.lost = self._lost + relay.lost, 0
            return at_s, picture

        try:
            yield from self._batches(times_s, batch, shown_at)
        finally:
            relay.close()
            self._relays.remove(relay)

    def keyframes_s(self) -> NDArray[np.float64]:
        times = self.timing.scan.keyframes_s
        self._demuxer.check_unchanged()
        return times if len(times) else np.zeros(1)

    def differences(
        self, start_s: float, end_s: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        times: list[float] = []
        changes: list[float] = []
        before: NDArray[np.int16] | None = None
        lost_before = self._lost
        if self._picture is not None:  # no frame may be converted by two threads at once
            with suppress(VideoError):
                self._picture()
        shown: Shown | None = self._frame_at(start_s)
        while shown is not None and shown.at_s < end_s:
            grey = self._small(shown.frame)
            if not times or shown.at_s > times[-1]:  # not a second picture of the same moment
                changes.append(0.0 if before is None else float(np.abs(grey - before).mean()) / 255)
                times.append(shown.at_s)
            before, shown = grey, self._next()
        self._demuxer.check_unchanged()
        self._lost = lost_before  # of no concern to the frames asked for next
        self._counted.clear()
        return np.array(times), np.array(changes, np.float32)

    def close(self) -> None:
        for relay in list(self._relays):
            relay.close()
        if self._painters is not None:
            self._painters.shutdown()  # what has been begun is soon done, and may be waited for
        super().close()

    def _disconnect(self) -> None:
        self._shown = self._picture = None
        super()._disconnect()

    # -- facts

    @cached_property
    def info(self) -> VideoInfo:
        if self._container is not None:
            info = self._describe(self._container, self._stream)
        else:
            with self._demuxer.opened() as (container, stream):
                info = self._describe(container, stream)
        self._demuxer.check_unchanged()
        return info

    def _describe(self, container: InputContainer, stream: VideoStream) -> VideoInfo:
        width, height = self._whole.shown_size
        duration_s, rate, variable = self.timing.measure(container, stream)
        return VideoInfo(
            duration_s=duration_s,
            start_s=self._start_s,
            width=width,
            height=height,
            rotation=self._whole.orientation.rotation,
            codec=stream.codec_context.codec.canonical_name,
            average_fps=rate,
            variable_rate=variable,
            mirrored=self._whole.orientation.mirrored,
            promised_s=self.timing.promised_s(container, stream, duration_s),
        )

    def _stretches(self, times: list[float]) -> list[list[float]]:
        """Ascending times, parted where going from one to the next is worth a seek.

        One stretch where the file does not tell its keyframes, or where the pictures between two
        of them would take too much memory.
        """
        index = self.facts.indexed and self._seekable and self.facts.stamps is Stamps.PTS
        if self._cores < 2 or self._device or not (index and self._demuxer.version and times):
            return [times]
        most = max(1, _STRETCH_BYTES // (3 * self._painter.width * self._painter.height))
        parted = [times[:1]]
        for before_s, time_s in pairwise(times):
            if self._worth_seeking(before_s, time_s):
                parted.append([])
            elif len(parted[-1]) == most:
                return [times]
            parted[-1].append(time_s)
        return parted

    def _another(self, threads: int) -> Opener:
        """Opens the same video once more, for another thread."""
        other = copy.copy(self)
        other._container = other._painters = None
        other._frames = iter(())
        other._current = other._ahead = other._shown = other._picture = None
        other._lost, other._threads, other._cores, other._relays = 0, threads, 1, []
        other._forget = None
        other._demuxer = Demuxer(
            self.source, self._deadline_s, None, give_up=other.close, path=self._demuxer.path
        )

        def opened(over: threading.Event) -> PyAVVideo:
            other._over = over
            try:
                other._open()
            except BaseException:
                other.close()
                raise
            return other

        return opened

    # -- frames

    def _shown_at(self, time_s: float) -> tuple[float, Callable[[], NDArray[np.uint8]]]:
        frame, at_s = self._frame_at(time_s)
        if self._picture is None or frame is not self._shown:
            self._shown, self._picture = frame, self._drawn(frame)
        return at_s, self._picture

    def _drawn(self, frame: VideoFrame) -> Callable[[], NDArray[np.uint8]]:
        """What gives a frame as RGB. A large one is converted while others are decoded."""
        if self._painters is None:
            return partial(self._rgb, frame)
        return self._painters.submit(self._rgb, frame).result

    def _rgb(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """uint8 (H, W, 3), upright, all of the size of the first frame."""
        with self._converting():
            return self._painter.paint(frame)

    def _small(self, frame: VideoFrame) -> NDArray[np.int16]:
        """(32, 32) in grey, by which `differences` compares."""
        with self._converting():
            return to_pixels(frame, _SMALL, _SMALL, "gray", "AREA").astype(np.int16)

    @contextmanager
    def _converting(self) -> Iterator[None]:
        try:
            yield
        except MemoryError:
            raise
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(f"{self.source}: a frame cannot be converted ({error})") from None
