"""The default decoder: PyAV, decoding on where that is nearer and seeking where that is cheaper.

Damaged packets are counted and passed over. Only the frames asked for are converted to RGB, scaled
on the way.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vzvideo.errors import VideoError
from vzvideo.types import FrameBatch
from vzvideo.video.reader import Video, VideoInfo, finite, no_frames, scaled

_T = TypeVar("_T")

_SAME_S = 1e-6  # a time this close before a frame means that frame: floats carry timestamps
_DAMAGE_LIMIT = 500  # damaged packets in a row, behind which nothing more is expected
_SKIP_MARGIN_S = 1.0  # frames nobody refers to are decoded only this close to a time asked for
_BLIND_SEEK_S = 2.0  # how far ahead to seek where the file has no index of keyframes
_SMALL = 32  # edge of the pictures that `differences` compares


class PyAVVideo(Video):
    """See `open_video`."""

    def __init__(self, source: str, size: int | None, deadline_s: float) -> None:
        self.source = source
        self._deadline_s = deadline_s
        self._container: InputContainer | None = None
        self._lost = 0
        self._seekable = True
        self._blind_s = _BLIND_SEEK_S
        self._skip_until_s: float | None = None
        try:
            self._open()
            first = self._pull()
            if first is None:
                raise no_frames(source)
            self._ahead = first
            self._start_s = self._time(first)
            self._size = scaled(first.width, first.height, size)
            self.info = self._describe(first)
            self._keys_s = self._index_s()
        except BaseException:
            self.close()
            raise

    # -- the contract

    def stream(self, times_s: NDArray[np.float64], batch: int = 8) -> Iterator[FrameBatch]:
        pixels: list[NDArray[np.uint8]] = []
        pts_s: list[float] = []
        lost_before, asked = self._lost, 0
        for time_s in times_s:
            frame = self._frame_at(float(time_s))
            asked += 1
            at_s = self._time(frame) - self._start_s
            if not pts_s or at_s > pts_s[-1]:
                if len(pixels) == batch:
                    yield self._batch(pixels, pts_s, asked - 1, self._lost - lost_before)
                    pixels, pts_s, asked, lost_before = [], [], 1, self._lost
                pixels.append(self._rgb(frame))
                pts_s.append(at_s)
        if pixels:
            yield self._batch(pixels, pts_s, asked, self._lost - lost_before)

    def keyframes_s(self) -> NDArray[np.float64]:
        self._rewind(0.0)
        times = [
            float(packet.pts * packet.time_base) - self._start_s
            for packet in self._packets()
            if packet.is_keyframe and packet.pts is not None
        ]
        self._rewind(0.0)
        return np.unique(np.array(times or [0.0])).clip(min=0.0)

    def differences(
        self, start_s: float, end_s: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        times, changes = [], []
        before: NDArray[np.int16] | None = None
        frame: VideoFrame | None = self._frame_at(start_s)
        while frame is not None and self._time(frame) - self._start_s < end_s:
            small = frame.reformat(_SMALL, _SMALL, "gray", interpolation="AREA").to_ndarray()
            grey = small.astype(np.int16)
            changes.append(0.0 if before is None else float(np.abs(grey - before).mean()) / 255)
            times.append(self._time(frame) - self._start_s)
            before, frame = grey, self._next()
        return np.array(times), np.array(changes, np.float32)

    def close(self) -> None:
        self._frames: Iterator[VideoFrame] = iter(())
        if self._container is not None:
            self._container.close()
            self._container = None

    # -- opening

    def _open(self) -> None:
        self.close()
        deadline_s = self._deadline_s
        self._container = self._safely(
            lambda: av.open(self.source, timeout=(deadline_s, deadline_s), metadata_errors="ignore")
        )
        videos = [
            stream
            for stream in self._container.streams.video
            if Disposition.attached_pic not in stream.disposition  # an album's cover
        ]
        best = self._container.streams.best("video")
        if not videos:
            kinds = sorted({stream.type for stream in self._container.streams})
            raise VideoError(
                f"{self.source}: no video in it ({', '.join(kinds) or 'nothing'} only)",
                code="no_video",
            )
        self._stream: VideoStream = best if best in videos else videos[0]  # type: ignore[assignment]
        if self._stream.codec_context is None:
            raise VideoError(f"{self.source}: no decoder for its video", code="no_decoder")
        self._stream.thread_type = "AUTO"
        self._frames = self._decoded()
        self._current: VideoFrame | None = None
        self._ahead: VideoFrame | None = None

    def _describe(self, first: VideoFrame) -> VideoInfo:
        stream, container = self._stream, self._container
        assert container is not None
        tick_s = float(stream.time_base or 0)
        rate = finite(float(stream.average_rate or stream.guessed_rate or 0))
        base_rate = finite(float(stream.base_rate or 0))
        duration_s = finite((stream.duration or 0) * tick_s)
        duration_s = duration_s or finite((container.duration or 0) / av.time_base)
        stamps = np.array(sorted(entry.timestamp for entry in stream.index_entries)) * tick_s
        whole = bool(stream.frames) and len(stamps) >= stream.frames
        if duration_s is None or rate is None:
            stamps, whole = self._packet_times(), True
            steps = np.diff(stamps)
            last_s = float(np.median(steps)) if len(steps) else 1 / (rate or 25.0)
            duration_s = duration_s or float(np.ptp(stamps) if len(stamps) else 0.0) + last_s
            rate = rate or max(1, len(stamps)) / duration_s
        if whole and len(stamps) > 2:
            steps = np.diff(stamps)
            # Rounding to the container's ticks alone moves a step by up to two of them.
            variable = bool(np.ptp(steps) > max(2.5 * tick_s, 0.1 * float(np.median(steps))))
        else:
            variable = base_rate is not None and abs(base_rate - rate) > 0.01 * rate
        rotation = first.rotation % 360
        width, height = first.width, first.height
        if rotation % 180 == 90:
            width, height = height, width
        codec = stream.codec_context.name
        return VideoInfo(duration_s, self._start_s, width, height, rotation, codec, rate, variable)

    def _packet_times(self) -> NDArray[np.float64]:
        """Timestamps of all packets, ascending, nothing decoded; then stands at the start again."""
        times, count = [], 0
        for packet in self._packets():
            stamp = packet.pts if packet.pts is not None else packet.dts
            count += packet.size > 0
            if packet.size and stamp is not None:
                times.append(float(stamp * packet.time_base))
        if len(times) < count:  # no timestamps in the file: decoding counts them, see _decoded
            times = [self._start_s + i * self._step_s() for i in range(count)]
        self._open()
        self._ahead = self._pull()
        return np.unique(times)

    def _step_s(self) -> float:
        """Seconds a frame, as far as the file's own header knows."""
        return 1 / (finite(float(self._stream.guessed_rate or 0)) or 25.0)

    def _index_s(self) -> list[float]:
        """Decoding times of the keyframes the container lists; none where it lists none."""
        base = float(self._stream.time_base or 0)
        entries = self._stream.index_entries
        return sorted(entry.timestamp * base for entry in entries if entry.is_keyframe)

    # -- moving

    def _frame_at(self, time_s: float) -> VideoFrame:
        """The frame on show at `time_s`: the last that starts no later, or the nearest."""
        target_s = time_s + self._start_s + _SAME_S
        self._approach(target_s)
        constant = not self.info.variable_rate
        while True:
            if self._ahead is None:
                self._ahead = self._pull(target_s - _SKIP_MARGIN_S if constant else None)
            if self._ahead is None or (self._current and self._time(self._ahead) > target_s):
                break
            self._current, self._ahead = self._ahead, None
            if self._time(self._current) > target_s:
                break
        if self._current is None:
            raise no_frames(self.source)
        return self._current

    def _next(self) -> VideoFrame | None:
        """The frame after the one that was last given."""
        frame = self._ahead or self._pull()
        self._current, self._ahead = frame or self._current, None
        return frame

    def _approach(self, target_s: float) -> None:
        """Seeks where that saves decoding, so that decoding on leads to `target_s`."""
        here = self._current or self._ahead
        here_s = self._time(here) if here else self._start_s
        if here and target_s < here_s and here_s > self._start_s + _SAME_S:
            self._rewind(target_s - self._start_s)
        elif self._worth_seeking(here_s, target_s):
            self._rewind(target_s - self._start_s, here_s)

    def _worth_seeking(self, here_s: float, target_s: float) -> bool:
        if not self._keys_s or len(self._keys_s) < 2:
            return len(self._keys_s) != 1 and target_s - here_s > self._blind_s
        # The index holds decoding times, which run a few frames ahead of what is shown.
        slack_s = 4 / self.info.average_fps
        key = bisect_right(self._keys_s, target_s - slack_s) - 1
        return key >= 0 and self._keys_s[key] > here_s + slack_s

    def _rewind(self, time_s: float, here_s: float | None = None) -> None:
        """Moves to a keyframe from which decoding on shows `time_s`.

        here_s: where decoding stands, if going on from there is possible too.
        """
        target_s = time_s + self._start_s
        back_s = 0.0
        while True:
            wanted_s = max(self._start_s, target_s - back_s)
            if not self._seek(wanted_s):
                if here_s is None:
                    self._open()
                return
            self._current, self._ahead = None, self._pull()
            if self._ahead and self._time(self._ahead) <= target_s + _SAME_S:
                break
            if wanted_s <= self._start_s:
                self._open()  # where even the start cannot be sought
                return
            back_s = 2 * back_s + 1.0
        landed_s = self._time(self._ahead)
        if here_s is not None and landed_s <= here_s:
            self._blind_s = 2 * (target_s - landed_s)  # keyframes are that far apart at least

    def _seek(self, raw_s: float) -> bool:
        assert self._container is not None
        base = self._stream.time_base
        if not base or not self._seekable:
            return False
        try:
            self._container.seek(int(raw_s / base), stream=self._stream)
        except (av.error.FFmpegError, OverflowError):
            return False
        self._frames = self._decoded()
        return True

    # -- decoding

    def _pull(self, skip_until_s: float | None = None) -> VideoFrame | None:
        """The next frame in order. Before `skip_until_s`, those nobody refers to are left out."""
        self._skip_until_s = skip_until_s
        return next(self._frames, None)

    def _decoded(self) -> Iterator[VideoFrame]:
        context = self._stream.codec_context
        last_s = -self._step_s()
        for packet in self._packets():
            until_s = self._skip_until_s
            at = packet.pts if packet.pts is not None else packet.dts
            far = until_s is not None and at is not None and at * packet.time_base < until_s
            context.skip_frame = "NONREF" if far else "DEFAULT"
            try:
                frames = packet.decode()
            except av.error.EOFError:
                return
            except (av.error.FFmpegError, ValueError):
                self._lost += 1
                continue
            for frame in frames:
                if frame.pts is None:
                    # Raw streams carry no times; counting from the last is all there is.
                    self._seekable = False
                    frame.pts = round((last_s + self._step_s()) / self._stream.time_base)
                    frame.time_base = self._stream.time_base
                last_s = self._time(frame)
                if frame.is_corrupt:
                    self._lost += 1
                else:
                    yield frame

    def _packets(self) -> Iterator[Any]:
        assert self._container is not None
        packets = self._container.demux(self._stream)
        damaged = 0
        while damaged < _DAMAGE_LIMIT:
            try:
                packet = self._safely(partial(next, packets, None))
            except VideoError as error:
                if error.code in ("deadline", "changed"):
                    raise
                self._lost += 1
                damaged += 1
                packets = self._container.demux(self._stream)
                continue
            if packet is None:
                return
            damaged = 0
            yield packet

    def _safely(self, call: Callable[[], _T]) -> _T:
        """Runs what reads from the source; whatever it raises becomes one clear line."""
        try:
            return call()
        except (av.error.ExitError, TimeoutError):
            raise VideoError(
                f"{self.source}: no answer within {self._deadline_s:g} s", code="deadline"
            ) from None
        except av.error.InvalidDataError:
            raise VideoError(
                f"{self.source}: not a video, or damaged beyond reading", code="invalid"
            ) from None
        except (av.error.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise VideoError(f"{self.source}: {reason}", code="unreadable") from None

    # -- frames

    def _time(self, frame: VideoFrame) -> float:
        """The frame's own timestamp in seconds, as it stands in the file."""
        return float(frame.time)

    def _rgb(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """uint8 (H, W, 3), scaled to the size of the first frame and turned upright."""
        width, height = self._size
        try:
            pixels = frame.reformat(width, height, "rgb24", interpolation="BICUBIC").to_ndarray()
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(f"{self.source}: a frame cannot be read as RGB ({error})") from None
        return np.rot90(pixels, self.info.rotation // 90)

    def _batch(
        self, pixels: list[NDArray[np.uint8]], pts_s: list[float], asked: int, lost: int
    ) -> FrameBatch:
        return FrameBatch(np.stack(pixels), np.array(pts_s), self.source, asked, lost)
