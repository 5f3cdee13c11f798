"""From FFmpeg's frames to arrays of pixels."""

from __future__ import annotations

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray


def pixels_of(
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
    shown = frame.reformat(width, height, layout, interpolation=interpolation, threads=1)
    return shown.to_ndarray().astype(np.uint8, copy=False)
