"""From FFmpeg's frames to pixels, as a player shows them: upright, in shape, in colour."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, Self

import av.error
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vzvideo.video.base import scaled
from vzvideo.video.pyav.tone_mapping import HDR_TRANSFERS, tone_mapped

_MOST_STRETCHED = 16  # beyond it an aspect ratio is a mistake
_EXIF = 31  # FFmpeg's number for side data of which PyAV has not heard


@dataclass(frozen=True)
class Orientation:
    """How a coded picture is brought upright: mirrored left to right first, then turned.

    rotation: 0, 90, 180 or 270 degrees, counter-clockwise.
    """

    rotation: int = 0
    mirrored: bool = False

    @classmethod
    def of(cls, frame: VideoFrame) -> Self:
        """The nearest of the eight there are to what a frame's display matrix says."""
        matrix = _display_matrix(frame)
        if matrix is None:
            return cls(round(frame.rotation / 90) * 90 % 360)
        return cls.nearest(matrix)

    @classmethod
    def nearest(cls, matrix: NDArray[np.float64]) -> Self:
        """matrix (2, 2): what turns a coded (x, y), y downwards, into a shown one."""
        every = [
            (rotation, mirrored) for mirrored in (False, True) for rotation in range(0, 360, 90)
        ]
        likeness = [float((cls(*each)._matrix * matrix).sum()) for each in every]
        return cls(*every[int(np.argmax(likeness))])

    @property
    def _matrix(self) -> NDArray[np.float64]:
        quarter = np.array([[0.0, 1.0], [-1.0, 0.0]])
        mirror = np.diag([-1.0 if self.mirrored else 1.0, 1.0])
        return np.linalg.matrix_power(quarter, self.rotation // 90) @ mirror

    def shown_size(self, width: int, height: int) -> tuple[int, int]:
        """Of a coded picture: (width, height) once it is upright."""
        return (height, width) if self.rotation % 180 else (width, height)

    def upright(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A view of (H, W, 3)."""
        return np.rot90(pixels[:, ::-1] if self.mirrored else pixels, self.rotation // 90)


def _display_matrix(frame: VideoFrame) -> NDArray[np.float64] | None:
    """What turns a coded (x, y), y downwards, into a shown one; None where it cannot be read."""
    try:
        side_data: Any = frame.side_data
    except ValueError:  # of a type that PyAV does not know
        try:
            frame = _filtered(frame, [("sidedata", f"mode=delete:type={_EXIF}")])
            side_data = frame.side_data
        except (av.error.FFmpegError, ValueError):
            return None
    try:
        a, b, _, c, d, *_ = np.frombuffer(side_data["DISPLAYMATRIX"], np.int32) / 65536.0
    except KeyError:
        return np.eye(2)
    return np.array([[a, c], [b, d]])


def shape_of(stream: VideoStream, width: int, height: int) -> tuple[int, int]:
    """(width, height) of a coded picture with square pixels: its width is what is stretched."""
    ratio = stream.sample_aspect_ratio or Fraction(1)
    if not Fraction(1, _MOST_STRETCHED) <= ratio <= _MOST_STRETCHED:
        ratio = Fraction(1)
    return max(1, round(width * ratio)), height


@dataclass(frozen=True)
class Painter:
    """Makes RGB pictures of frames, all of one size.

    width, height: of them before they are turned upright. deinterlace, tone_map: whether interlaced
    frames, and those of PQ or HLG, are made into what a screen shows.
    """

    width: int
    height: int
    orientation: Orientation
    deinterlace: bool = True
    tone_map: bool = True

    @classmethod
    def of(
        cls,
        stream: VideoStream,
        frame: VideoFrame,
        size: int | None,
        *,
        deinterlace: bool = True,
        tone_map: bool = True,
    ) -> Self:
        """For a stream's frames like `frame`; size: shortest edge to which larger ones shrink."""
        shape = scaled(*shape_of(stream, frame.width, frame.height), size)
        return cls(*shape, Orientation.of(frame), deinterlace, tone_map)

    @property
    def shown_size(self) -> tuple[int, int]:
        """(width, height) of its pictures."""
        return self.orientation.shown_size(self.width, self.height)

    def needs_more_than_scaling(self, frame: VideoFrame) -> bool:
        """Whether a frame is deinterlaced, tone-mapped or mirrored on the way to its picture."""
        hdr = self.tone_map and frame.color_trc in HDR_TRANSFERS
        return hdr or (self.deinterlace and frame.interlaced_frame) or self.orientation.mirrored

    def paint(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """uint8 (H, W, 3), upright. Raises FFmpegError or ValueError where there is no way."""
        if self.deinterlace and frame.interlaced_frame:
            frame = deinterlaced(frame)
        if self.tone_map and frame.color_trc in HDR_TRANSFERS:
            codes = _reformatted(frame, self.width, self.height, "rgb48le")
            pixels = tone_mapped(codes, frame.color_trc, frame.color_primaries)
        else:
            pixels = to_pixels(frame, self.width, self.height)
        return self.orientation.upright(pixels)


def to_pixels(
    frame: VideoFrame,
    width: int,
    height: int,
    layout: str = "rgb24",
    interpolation: str = "BICUBIC",
) -> NDArray[np.uint8]:
    """A frame as (H, W, 3), or (H, W) where the layout is "gray", scaled to `width` and `height`.

    By one thread: those among which FFmpeg would share a picture mostly wait for each other, on
    two cores for longer than the conversion takes. Raises FFmpegError or ValueError where there is
    no way from the frame's own layout.
    """
    return _reformatted(frame, width, height, layout, interpolation).astype(np.uint8, copy=False)


def _reformatted(
    frame: VideoFrame, width: int, height: int, layout: str, interpolation: str = "BICUBIC"
) -> NDArray[Any]:
    shown = frame.reformat(width, height, layout, interpolation=interpolation, threads=1)
    return shown.to_ndarray()


def deinterlaced(frame: VideoFrame) -> VideoFrame:
    """A frame's first field, with the lines between made of their neighbours.

    Of this frame alone, for it has to look the same however it was come by.
    """
    return _filtered(frame, [("w3fdif", "mode=frame:deint=interlaced")])


def _filtered(frame: VideoFrame, filters: Iterable[tuple[str, str]]) -> VideoFrame:
    graph = Graph()
    nodes = [
        graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=frame.time_base or Fraction(1, 1000),
        )
    ]
    nodes += [graph.add(name, options) for name, options in [*filters, ("buffersink", "")]]
    for one, other in pairwise(nodes):
        one.link_to(other)
    graph.configure()
    graph.push(frame)
    graph.push(None)
    shown = graph.pull()
    assert isinstance(shown, VideoFrame)
    return shown
