"""Clips made from photographs: a slow pan or zoom over one, and hard cuts between several.

Photographs with captions are the video data that anyone may have. A camera move gives frames that
differ as neighbouring frames of a film do; a cut gives an order in time that a question can ask
for. Knows nothing of words or models.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

WHOLE = (0.0, 0.0, 1.0, 1.0)
Box = tuple[float, float, float, float]  # left, top, right, bottom, as parts of width and height


@dataclass(frozen=True)
class View:
    """A part of photograph number `row`, mirrored or not."""

    row: int
    box: Box = WHOLE
    flip: bool = False


@dataclass(frozen=True)
class Move:
    """A camera move over one photograph, from one view to another."""

    start: View
    end: View

    def at(self, part: float) -> View:
        """The view when `part` of the move, 0..1, is done."""
        left, top, right, bottom = (
            a + (b - a) * part for a, b in zip(self.start.box, self.end.box, strict=True)
        )
        return View(self.start.row, (left, top, right, bottom), self.start.flip)


def still(row: int) -> Move:
    """No move at all."""
    return Move(View(row), View(row))


def draw_move(row: int, rng: random.Random, *, flips: bool = True) -> Move:
    """A pan or a zoom, across or along or into any place, either way round.

    A pan's window, and the narrow end of a zoom, is 55 % to 80 % of the picture's edge.
    """
    edge = rng.uniform(0.55, 0.8)
    room = 1 - edge
    left, top = rng.uniform(0, room), rng.uniform(0, room)
    flip = flips and rng.random() < 0.5
    kind = rng.choice(("across", "down", "zoom"))
    if kind == "across":
        boxes = [(x, top, x + edge, top + edge) for x in (0.0, room)]
    elif kind == "down":
        boxes = [(left, y, left + edge, y + edge) for y in (0.0, room)]
    else:
        boxes = [WHOLE, (left, top, left + edge, top + edge)]
    if rng.random() < 0.5:
        boxes.reverse()
    return Move(View(row, boxes[0], flip), View(row, boxes[1], flip))


def picture(data: bytes, view: View) -> Image.Image:
    """An encoded photograph, as `view` shows it, in the photograph's own size."""
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    shown = whole
    if view.box != WHOLE:
        left, top, right, bottom = view.box
        width, height = whole.size
        box = (left * width, top * height, right * width, bottom * height)
        shown = whole.resize(whole.size, Image.Resampling.BICUBIC, box)
    return shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.flip else shown


def render(
    path: Path, images: Sequence[bytes], moves: Sequence[Move], frames: int, fps: int = 8
) -> None:
    """Writes the moves, one after the other with hard cuts, as H.264.

    frames: of each move.
    """
    if not moves or frames < 1:
        raise ValueError(f"{path}: a clip needs at least one move and one frame")
    with av.open(str(path), "w") as container:
        stream = None
        for move in moves:
            for number in range(frames):
                view = move.at(number / max(frames - 1, 1))
                pixels: NDArray[np.uint8] = np.asarray(picture(images[view.row], view))
                if stream is None:
                    # Dense keyframes: whoever samples eight frames decodes little between them.
                    stream = container.add_stream("libx264", fps, {"crf": "18", "g": "8"})
                    stream.height, stream.width = (edge // 2 * 2 for edge in pixels.shape[:2])
                    stream.pix_fmt = "yuv420p"
                pixels = np.asarray(Image.fromarray(pixels).resize((stream.width, stream.height)))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        assert stream is not None
        container.mux(stream.encode())
