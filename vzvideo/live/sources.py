"""Live sources: cameras, broadcasts, capture devices, standard input, and files at their own pace.

Gives frames for as long as there are any, at times that only go forward, whatever the source does:
goes away and comes back, loses packets, changes its size, starts its clock again. Knows nothing of
models.
"""

from __future__ import annotations

import math
import os
import select
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.stream import Discard
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vzvideo.errors import SettingsError, VideoError
from vzvideo.video.base import check_file, no_frames, scaled
from vzvideo.video.clock import Clock
from vzvideo.video.fetching import retry_options
from vzvideo.video.pyav.decoding import FrameDecoder
from vzvideo.video.pyav.demuxer import discard_others, video_streams
from vzvideo.video.pyav.pictures import Painter, to_pixels
from vzvideo.video.pyav.refusals import explained
from vzvideo.video.pyav.timing import StreamFacts

Pixels = NDArray[np.uint8]

_BACKOFF_S, _LONGEST_BACKOFF_S = 0.5, 30.0
_DAMAGE_LIMIT = 500  # failed reads in a row, behind which the connection counts as lost
_BETWEEN = 17  # pictures from one that others refer to, to the next: 16 at most lie between
_FASTEST = 240.0  # beyond it a rate is made up
_CELLS = 32  # edge of a thumbnail


class LiveSource:
    """A source that is read for as long as it lasts. One thread iterates, any may `close`.

    Args:
        source: an rtsp, http(s), udp, tcp or other URL that FFmpeg reads, a file, a capture device
            (`/dev/video0`), or "-" for standard input.
        fps: frames a second to give, of those there are; None for all.
        size: shortest edge, in pixels, to which larger frames are scaled.
        speed: for what has an end: 1.0 plays it as it was recorded, 2.0 twice as fast; None gives
            frames as fast as they can be decoded.
        deadline_s: how long a source may say nothing before it counts as gone.
        start_s: time of the first frame.
        format: FFmpeg's name of the input format, where the source does not tell ("lavfi").
        deinterlace, tone_map: see `open_video`.

    A source without an end that goes away is waited for, however long; one that has never given a
    frame, or has an end, raises VideoError when it fails.
    """

    def __init__(
        self,
        source: str,
        *,
        fps: float | None = 1.0,
        size: int | None = None,
        speed: float | None = None,
        deadline_s: float = 10.0,
        start_s: float = 0.0,
        format: str | None = None,
        deinterlace: bool = True,
        tone_map: bool = True,
    ) -> None:
        for name, value in (("fps", fps), ("speed", speed), ("deadline_s", deadline_s)):
            if value is not None and not 0 < value < math.inf:
                raise SettingsError(f"{name}: {value:g} given, a number above 0 is needed")
        if size is not None and size < 1:
            raise SettingsError(f"size: {size} given, a number of pixels is needed")
        self.source = source
        self._fps, self._size, self._speed = fps, size, speed
        self._deadline_s = deadline_s
        self._painter = partial(Painter.of, size=size, deinterlace=deinterlace, tone_map=tone_map)
        self._url, self._format, self._options = _address(source, format)
        self._start_s = start_s
        self._clock: Clock | None = None
        self._closed = threading.Event()
        self._heard = 0.0  # monotonic time of the last frame
        self.reconnects = 0
        self.lost = 0

    def close(self) -> None:
        """Ends the iteration; a read that is going on ends at its deadline, by itself."""
        self._closed.set()

    def __iter__(self) -> Iterator[tuple[Pixels, float]]:
        """uint8 (H, W, 3) RGB and its time in seconds; sizes may change on the way."""
        backoff_s = _BACKOFF_S
        while not self._closed.is_set():
            begun = time.monotonic()
            try:
                connection: Any = self._connection()
                with closing(connection):
                    for pixels, pts_s in connection:
                        yield pixels, pts_s
                        if self._closed.is_set():
                            return
                if self._clock is None and not self._closed.is_set():
                    raise no_frames(self.source)
                if not self._endless:
                    return
            except VideoError as error:
                if self._clock is None:
                    path = Path(self._url.removeprefix("file:"))
                    raise explained(
                        error, self.source, path if path.is_file() else None, self._deadline_s
                    ) from None
                if not self._endless:
                    raise
            if time.monotonic() - begun > _LONGEST_BACKOFF_S:  # it was there for a while
                backoff_s = _BACKOFF_S
            if self._closed.wait(backoff_s):
                return
            backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)

    def _connection(self) -> Iterator[tuple[Pixels, float]]:
        """The frames of one connection."""
        self._endless = True  # until it says otherwise
        with self._open() as container:
            stream = self._choose(container, video_streams(container, self.source))
            # What has a length has an end; so has what somebody pipes in.
            self._endless = not container.duration and not self._ends
            if not self._endless:  # there is nothing to miss
                discard_others(container, stream)
            stream.thread_type = "AUTO"
            facts = StreamFacts.of(container, stream)
            decoder = FrameDecoder(stream, facts, self._closed)
            rate = float(stream.average_rate or 0)
            # Frames nobody refers to can be done without, where those between are close enough.
            if self._fps and _BETWEEN * self._fps <= rate <= _FASTEST:
                decoder.full_s = math.inf
            if self._clock is None:
                clock = Clock(self._start_s, live=self._endless, step_s=facts.step_s)
            else:
                clock = self._clock
                clock.restart()
            due_s = last_s = -math.inf
            begun, anew = None, self._clock is not None
            painter: Painter | None = None  # for frames as large as the last
            painted = 0, 0
            for frame, at_s in decoder.frames(self._packets(container, stream), clock):
                self._heard = time.monotonic()
                self.reconnects += anew
                self.lost, decoder.lost = self.lost + decoder.lost, 0
                decoder.counted.clear()  # nothing comes twice
                self._clock, anew = clock, False
                if at_s < due_s or at_s == last_s:
                    continue
                last_s = at_s
                if self._fps:  # a grid that does not drift
                    due_s = (math.floor(at_s * self._fps + 1e-6) + 1) / self._fps - 1e-6
                if self._speed and not self._endless:
                    now = time.monotonic()
                    begun = now - at_s / self._speed if begun is None else begun
                    if self._closed.wait(max(0.0, begun + at_s / self._speed - now)):
                        return
                    self._heard = time.monotonic()
                if painter is None or (frame.width, frame.height) != painted:
                    painted = frame.width, frame.height
                    painter = self._painter(stream, frame)
                with suppress(av.error.FFmpegError, ValueError):
                    yield painter.paint(frame), at_s
                self._heard = time.monotonic()  # whoever took it may have taken his time
            self.lost += decoder.lost

    def _choose(self, container: InputContainer, streams: list[VideoStream]) -> VideoStream:
        """What a player would show; where the same is on offer in several sizes, the smallest that
        is large enough, or the largest. The others are not fetched at all."""

        def edge(stream: VideoStream) -> int:
            return min(stream.codec_context.width, stream.codec_context.height)

        best: Any = container.streams.best("video")
        if container.format.name in ("hls", "dash"):
            enough = [stream for stream in streams if self._size and edge(stream) >= self._size]
            chosen = min(enough, key=edge) if enough else max(streams, key=edge)
        else:
            chosen = best if best in streams else streams[0]
        for stream in streams:
            if stream is not chosen:
                stream.discard = Discard.all
        return chosen

    def _open(self) -> InputContainer:
        options = self._options | retry_options(self._url, self._deadline_s)
        self._heard = time.monotonic()
        try:
            container: Any = av.open(
                self._pipe() or self._url,
                format=self._format,
                options=options,
                timeout=(self._deadline_s, self._deadline_s),
                metadata_errors="ignore",
            )
        except MemoryError:
            raise
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._failed(error) from None
        opened: InputContainer = container
        return opened

    def _failed(self, error: Exception) -> VideoError:
        late = (
            time.monotonic() - self._heard >= self._deadline_s
        )  # protocols have words of their own
        if late or isinstance(error, (av.error.ExitError, TimeoutError)):
            return VideoError(
                f"{self.source}: no answer within {self._deadline_s:g} s", code="deadline"
            )
        if isinstance(error, av.error.InvalidDataError):
            return VideoError(f"{self.source}: not a video, or damaged", code="invalid")
        reason = getattr(error, "strerror", None) or str(error)
        return VideoError(f"{self.source}: {reason}", code="unreadable")

    def _packets(self, container: InputContainer, stream: VideoStream) -> Iterator[Any]:
        """Packets of the stream, None for each that could not be read."""
        damaged = 0
        self._heard = time.monotonic()
        while True:
            # All streams are read, or one that falls silent among others would never be missed.
            packets: Any = container.demux()
            with closing(packets):
                try:
                    for packet in packets:
                        damaged = 0
                        if self._closed.is_set():
                            return
                        if packet.stream.index == stream.index:
                            yield packet
                        if time.monotonic() - self._heard > self._deadline_s:
                            raise VideoError(
                                f"{self.source}: no picture for {self._deadline_s:g} s",
                                code="deadline",
                            )
                    return
                except av.error.InvalidDataError as error:
                    damaged += 1
                    if damaged > _DAMAGE_LIMIT:
                        raise self._failed(error) from None
                    yield None
                except MemoryError:
                    raise
                except IndexError:  # PyAV stumbles at the end over streams that turned up late
                    return
                except (av.error.FFmpegError, OSError) as error:
                    raise self._failed(error) from None

    def _pipe(self) -> _Pipe | None:
        """What is piped in, through a reader that can be told to stop."""
        if self._url == "pipe:0":
            return _Pipe(os.dup(0), self._deadline_s, self._closed)
        path = self._url.removeprefix("file:")
        if path == self._url or not stat.S_ISFIFO(os.stat(path).st_mode):
            return None
        # Without waiting for somebody to write.
        return _Pipe(os.open(path, os.O_RDONLY | os.O_NONBLOCK), self._deadline_s, self._closed)

    @property
    def _ends(self) -> bool:
        """Whether a source is of those that end, whatever they say of their length."""
        return self._url.startswith(("file:", "pipe:"))


class _Pipe:
    """A pipe with a deadline; FFmpeg waits in open and read, and nothing ends that."""

    def __init__(self, descriptor: int, deadline_s: float, closed: threading.Event) -> None:
        self._file = os.fdopen(descriptor, "rb", buffering=0)
        self._deadline_s, self._closed = deadline_s, closed

    def read(self, size: int) -> bytes:
        """What there is, waited for; nothing at the end."""
        ends = time.monotonic() + self._deadline_s
        poll = select.poll()
        poll.register(self._file, select.POLLIN)
        while not poll.poll(100):
            if self._closed.is_set():
                return b""
            if time.monotonic() > ends:
                raise TimeoutError
        return self._file.read(size) or b""

    def close(self) -> None:
        self._file.close()


def downscale(pixels: Pixels, size: int | None) -> Pixels:
    """A copy of uint8 (H, W, 3) with the shortest edge brought down to `size`, as sources do it."""
    height, width = pixels.shape[:2]
    if scaled(width, height, size) == (width, height):
        return pixels.copy()  # the caller may well write into it again
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
    return to_pixels(frame, *scaled(width, height, size))


def _address(source: str, format: str | None) -> tuple[str, str | None, dict[str, str]]:
    """What FFmpeg is told: where, in which format, and with which options."""
    if source == "-":
        return "pipe:0", format, {}
    scheme, separator, _ = source.partition("://")
    if separator:
        options = {
            # UDP, which FFmpeg would try first, loses packets of any busy camera.
            "rtsp": {"rtsp_transport": "tcp"},
            "udp": {"overrun_nonfatal": "1"},
        }
        return source, format, options.get(scheme.lower(), {})
    path = Path(source)
    with suppress(OSError):
        mode = os.stat(path).st_mode
        if stat.S_ISCHR(mode):
            return source, format or "video4linux2", {}
        if stat.S_ISFIFO(mode):
            return f"file:{source}", format, {}
    if format is not None and not path.exists():  # a name that only the format understands
        return source, format, {}
    check_file(path)
    return f"file:{source}", format, {}


def thumbnail(pixels: Pixels) -> NDArray[np.int16]:
    """uint8 (H, W, 3) -> (32, 32, 3): the mean of each cell, by which frames are compared."""
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
    return to_pixels(frame, _CELLS, _CELLS, interpolation="AREA").astype(np.int16)


def is_similar(one: NDArray[np.int16], other: NDArray[np.int16], tolerance: float) -> bool:
    """Whether no cell of two thumbnails differs by more than `tolerance` (of 0..1).

    The largest difference counts and not the mean: somebody at the far door is one cell.
    """
    return float(np.abs(one - other).max()) <= tolerance * 255
