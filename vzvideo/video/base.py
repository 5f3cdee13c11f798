"""The contract of a video: the frames shown at given times, with the source's own timestamps.

Times are seconds from the first frame. Which backend stands behind it, `backends` says.
"""

from __future__ import annotations

import abc
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from vzvideo.errors import SettingsError, VideoError
from vzvideo.types import FrameBatch

CONVERT_AHEAD = 4  # pictures converted beside each other, at most
_ROOM_BYTES = 2**28  # that a batch takes before it is known to need more
SAME_S = 1e-6  # a time this close before a frame means that frame: floats carry timestamps


@dataclass(frozen=True)
class VideoInfo:
    """What a video says of itself.

    duration_s: from the first frame to the end of the last, as a file's packets tell and a URL's
    header. start_s: the first frame's timestamp in the file, which `pts_s` of a FrameBatch is
    counted from. width, height: as shown, in shape and upright. rotation: degrees,
    counter-clockwise (0, 90, 180, 270), that the coded picture is turned before it is shown.
    average_fps: frames / duration. variable_rate: whether frames are unevenly spaced. mirrored:
    whether the coded picture is mirrored, left to right, before it is turned. promised_s: how long
    it is by its header, None where no header says it; more than duration_s where the file was cut.
    """

    duration_s: float
    start_s: float
    width: int
    height: int
    rotation: int
    codec: str
    average_fps: float
    variable_rate: bool
    mirrored: bool = False
    promised_s: float | None = None


class Video(abc.ABC):
    """An open video. Use as a context manager; not for several threads at once."""

    source: str

    @property
    @abc.abstractmethod
    def info(self) -> VideoInfo:
        """What the video says of itself; found out when first asked for, as it takes reading."""

    def stream(self, times_s: NDArray[np.float64], batch: int = 8) -> Iterator[FrameBatch]:
        """The frames shown at ascending `times_s`, in batches as they are decoded.

        Each frame comes once, however many of the times it is shown at. `asked` counts the times
        answered by a batch, `lost` the damaged packets and frames passed over for it.
        """
        return self._batches(times_s, batch, self._shown_at)

    def _batches(
        self,
        times_s: NDArray[np.float64],
        batch: int,
        shown_at: Callable[[float], tuple[float, Callable[[], NDArray[np.uint8]]]],
    ) -> Iterator[FrameBatch]:
        """The batches of `stream`; shown_at: as `_shown_at`."""
        asked, last_s = 0, -math.inf
        filling = _Filling(min(batch, len(times_s)))
        for number, time_s in enumerate(times_s):
            at_s, picture = shown_at(float(time_s))
            if at_s > last_s:
                if len(filling.pts_s) == batch:
                    yield self._batch(filling, asked)
                    asked, filling = 0, _Filling(min(batch, len(times_s) - number))
                filling.add(at_s, picture)
                last_s = at_s
            asked += 1
        if filling.pts_s:
            yield self._batch(filling, asked)

    def _batch(self, filling: _Filling, asked: int) -> FrameBatch:
        pixels, pts_s = filling.finished()
        return FrameBatch(pixels, pts_s, self.source, asked, self._take_lost())

    @abc.abstractmethod
    def _shown_at(self, time_s: float) -> tuple[float, Callable[[], NDArray[np.uint8]]]:
        """When the frame shown at `time_s` starts, and what gives it as RGB (H, W, 3), upright.

        Up to CONVERT_AHEAD further frames are sought before a picture is asked for, so that it may
        be converted meanwhile.
        """

    @abc.abstractmethod
    def _take_lost(self) -> int:
        """Damaged packets and frames since this was last asked; VideoError if the file changed."""

    @abc.abstractmethod
    def keyframes_s(self) -> NDArray[np.float64]:
        """Times of the keyframes, ascending. Reads the file through, but decodes nothing."""

    @abc.abstractmethod
    def differences(
        self, start_s: float, end_s: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Times (T,) of all frames of a clip, and how much each differs from the one before.

        The difference is the mean over a 32 x 32 picture of the absolute change in grey, 0..1.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Frees what the video holds."""

    def frames_at(self, times_s: NDArray[np.float64] | list[float]) -> FrameBatch:
        """All the frames shown at `times_s`, in one batch. Raises VideoError where there is none.

        A time before the first frame or behind the last one is answered by the nearest.
        """
        times = np.sort(np.asarray(times_s, np.float64))
        if not len(times) or not np.isfinite(times).all():
            raise SettingsError("times: some number of seconds is needed, and each must be finite")
        parts = list(self.stream(times, batch=len(times)))  # one, or none
        if not parts:
            raise no_frames(self.source)
        return parts[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Filling:
    """A batch in the making, of at most `most` frames.

    Pictures are laid down one by one in memory that is taken at once: new memory costs more than
    what is written there.
    """

    def __init__(self, most: int) -> None:
        self.pts_s: list[float] = []
        self._most = most
        self._coming: deque[Callable[[], NDArray[np.uint8]]] = deque()
        self._pixels: NDArray[np.uint8] | None = None
        self._laid = 0

    def add(self, at_s: float, picture: Callable[[], NDArray[np.uint8]]) -> None:
        self.pts_s.append(at_s)
        self._coming.append(picture)
        if len(self._coming) > CONVERT_AHEAD:
            self._lay()

    def finished(self) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        while self._coming:
            self._lay()
        assert self._pixels is not None
        return self._pixels[: self._laid], np.array(self.pts_s)

    def _lay(self) -> None:
        picture = self._coming.popleft()()
        if self._pixels is None:  # many times may be answered by few frames
            room = min(self._most, max(8, _ROOM_BYTES // picture.nbytes))
            self._pixels = np.empty((room, *picture.shape), np.uint8)
        elif self._laid == len(self._pixels):
            grown = np.empty((min(self._most, 2 * self._laid), *picture.shape), np.uint8)
            grown[: self._laid] = self._pixels
            self._pixels = grown
        self._pixels[self._laid] = picture
        self._laid += 1


def check_file(path: Path) -> None:
    """Raises VideoError where a path cannot be a video, before any decoder sees it."""
    try:
        if not path.exists():
            raise VideoError(f"{path}: no such file", code="not_found")
        if path.is_dir():
            raise VideoError(f"{path}: a folder; give a video file", code="folder")
        if not path.is_file():  # a pipe can be read only once, and opening it may wait for ever
            raise VideoError(f"{path}: not a regular file", code="unreadable")
        with path.open("rb") as file:
            if not file.read(1):
                raise VideoError(f"{path}: the file is empty", code="empty")
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror or error}", code="unreadable") from None


def short_name(source: str) -> str:
    """What a source is called: its file's name, of a URL without what may be secret in it."""
    if "://" not in source:
        return Path(source).name or source
    url = urlsplit(source)
    return Path(url.path).name or url.hostname or "video"


def scaled(width: int, height: int, size: int | None) -> tuple[int, int]:
    """(width, height) with the shortest edge brought down to `size`, never up."""
    short = min(width, height)
    if size is None or short <= size:
        return width, height
    return max(1, round(width * size / short)), max(1, round(height * size / short))


def no_frames(source: str, reason: str = "") -> VideoError:
    return VideoError(
        f"{source}: no frame could be decoded{reason and f' ({reason})'}; "
        "the file may be truncated or damaged",
        code="no_frames",
    )


def positive(value: float | Fraction | None) -> float | None:
    """`value` where it is a finite number above 0, else None."""
    return float(value) if value is not None and math.isfinite(value) and value > 0 else None
