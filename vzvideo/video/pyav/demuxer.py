"""Packets of a source, read with a deadline; whatever goes wrong becomes one clear line.

Decodes nothing.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import av
import av.error
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from vzvideo.errors import VideoError
from vzvideo.video import storage
from vzvideo.video.fetching import retry_options

_DAMAGE_LIMIT = 500  # failed reads in a row, behind which nothing more is expected


class Demuxer:
    """A source that may be opened several times.

    version: size in bytes, time of change and identity of a local file; None for a URL.
    path: of a local file.
    """

    def __init__(
        self,
        source: str,
        deadline_s: float,
        hwaccel: HWAccel | None,
        give_up: Callable[[], None],
        path: Path | None = None,
    ) -> None:
        """give_up: called where the deadline has passed, for nobody knows what would come next.

        path: where a URL's content lies on the disk.
        """
        self.source = source
        self.path = path if path or "://" in source else Path(source)
        self._deadline_s, self._hwaccel, self._give_up = deadline_s, hwaccel, give_up
        self._files: dict[int, Any] = {}  # of containers whose source is an object store's
        self.version = self._stat()

    def close(self, container: InputContainer) -> None:
        container.close()
        if (file := self._files.pop(id(container), None)) is not None:
            file.close()

    @property
    def size(self) -> int:
        """Of a local file, in bytes; 0 for a URL."""
        return self.version[0] if self.version else 0

    @contextmanager
    def opened(self, *, all_streams: bool = False) -> Iterator[tuple[InputContainer, VideoStream]]:
        """Once more, for as long as that lasts."""
        container, stream = self.connect(all_streams=all_streams)
        try:
            yield container, stream
        finally:
            self.close(container)

    def connect(
        self, *, decode: bool = False, all_streams: bool = False
    ) -> tuple[InputContainer, VideoStream]:
        """The source, newly opened, and the stream of it to show.

        decode: frames are to be made of its packets. all_streams: the others are read, too.
        """
        deadline_s = self._deadline_s
        # Without the prefix a file named 12:30.mp4 would be taken for a protocol. PyAV's timeout
        # does not cover seeking, FFmpeg's own does.
        stored = self.path is None and storage.is_filesystem_uri(self.source)
        url: Any = f"file:{self.path}" if self.path else self.source
        url = self._opened_in_store() if stored else url
        remote = {"rw_timeout": str(round(deadline_s * 1e6))}
        options = {} if self.version else remote | retry_options(self.source, deadline_s)
        with self._reading():
            container = av.open(
                url,
                options=options,
                timeout=(deadline_s, deadline_s),
                metadata_errors="ignore",
                hwaccel=self._hwaccel if decode else None,
            )
        if stored:
            self._files[id(container)] = url
        try:
            stream = self._choose(container)
        except BaseException:
            self.close(container)
            raise
        if not all_streams:
            discard_others(container, stream)
        return container, stream

    def _opened_in_store(self) -> Any:
        """A file of an object store, open for reading."""
        try:
            return storage.open_input(self.source)
        except FileNotFoundError:
            raise VideoError(f"{self.source}: no such file", code="not_found") from None
        except OSError as error:
            line = " ".join(str(error).split())
            raise VideoError(f"{self.source}: {line}", code="unreadable") from None

    def _choose(self, container: InputContainer) -> VideoStream:
        streams = video_streams(container, self.source)
        best = container.streams.best("video")
        return best if best in streams else streams[0]  # type: ignore[return-value]

    def seek(
        self, container: InputContainer, stream: VideoStream, to: int, *, by_bytes: bool = False
    ) -> bool:
        """To a keyframe near `to`, in ticks of the stream's time base, or to a place in the file;
        whether that was possible."""
        try:
            with self._reading():
                if by_bytes:
                    container.seek(to, unsupported_byte_offset=True)
                else:
                    container.seek(to, stream=stream)
        except VideoError as error:
            if error.code == "deadline":
                raise
            return False
        return True

    def packets(self, container: InputContainer, *streams: VideoStream) -> Iterator[Any]:
        """Packets (of `streams`, or of all) in file order, None for each that could not be read."""
        damaged = 0
        while damaged < _DAMAGE_LIMIT:
            # Until its generator is closed, PyAV's clock runs on from the last read, and a seek
            # after a pause of the caller's would be found too late.
            packets: Any = container.demux(*streams)
            with closing(packets):
                try:
                    while True:
                        with self._reading():
                            packet = next(packets, None)
                        if packet is None:
                            return
                        damaged = 0
                        yield packet
                except VideoError as error:
                    if error.code == "deadline":
                        raise
                    damaged += 1
                    yield None
                except IndexError:  # PyAV stumbles at the end over streams that turned up late
                    return

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Around what reads from the source: whatever it raises becomes one clear line."""
        began_s = time.monotonic()
        try:
            yield
        except MemoryError:
            raise
        except (av.error.FFmpegError, OSError, ValueError) as error:
            # Some protocols report a timeout as another error.
            late = isinstance(error, (av.error.ExitError, TimeoutError))
            if late or time.monotonic() - began_s >= self._deadline_s:
                self._give_up()
                reason, code = f"no answer within {self._deadline_s:g} s", "deadline"
            elif isinstance(error, av.error.InvalidDataError):
                reason, code = "not a video, or damaged beyond reading", "invalid"
            else:
                reason, code = getattr(error, "strerror", None) or str(error), "unreadable"
                if "://" in self.source and getattr(error, "errno", None) == errno.EIO:
                    # FFmpeg says no more of a host it does not find, or of TLS that fails.
                    reason += "; is the address right, is there a connection?"
            raise VideoError(f"{self.source}: {reason}", code=code) from None

    def _stat(self) -> tuple[int, int, int] | None:
        """Size in bytes, time of change and identity of a local file; None for a URL."""
        if self.path is None:
            return None
        try:
            stat = os.stat(self.path)
        except OSError:
            return 0, 0, 0
        return stat.st_size, stat.st_mtime_ns, stat.st_ino

    def check_unchanged(self) -> None:
        """VideoError where a file is another by now."""
        if self._stat() != self.version:
            raise VideoError(f"{self.source}: changed while it was being read", code="changed")


def video_streams(container: InputContainer, source: str) -> list[VideoStream]:
    """Those that can be shown; VideoError where there is none."""
    videos = [
        stream
        for stream in container.streams.video
        if Disposition.attached_pic not in stream.disposition  # an album's cover
    ]
    if not videos:
        kinds = {str(stream.type) for stream in container.streams} - {"video"}
        found = ", ".join(sorted(kinds)) or "nothing"
        raise VideoError(f"{source}: no video in it ({found} only)", code="no_video")
    tiles = sum(Disposition.dependent in stream.disposition for stream in videos)
    if tiles > 1:  # HEIC of phones, AVIF: whichever was shown, it would be a part
        raise VideoError(
            f"{source}: a picture in {tiles} tiles, which this FFmpeg does not put together: "
            "convert it to JPEG or PNG",
            code="tiles",
        )
    decodable = [stream for stream in videos if stream.codec_context is not None]
    if not decodable:
        raise VideoError(f"{source}: no decoder for its video", code="no_decoder")
    return decodable


def discard_others(container: InputContainer, stream: VideoStream) -> None:
    """Lets a container leave out all streams but one, unread: a file may end before their data."""
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
