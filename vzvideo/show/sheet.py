"""An `Inspection` as one picture for papers and READMEs: frames, attention, what is kept."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vzvideo.qa.evidence import Evidence
from vzvideo.show.look import AcrossView, BudgetView, Inspection

_EDGE, _GAP, _COLUMNS = 224, 10, 8
_INK, _SOFT, _PAPER = (29, 29, 31), (91, 91, 99), (255, 255, 255)
_MARGIN, _NAMES, _TIMES = 20, 118, 26
_HEAT = ((0.0, (12, 8, 60)), (0.35, (150, 20, 90)), (0.7, (245, 120, 30)), (1.0, (255, 245, 160)))


def sheet(look: Inspection, evidence: Evidence | None = None) -> Image.Image:
    """Blocks of up to eight frames, three rows each: the frame, the attention its patches receive,
    and the tokens that come out: dominant patches outlined, the others tinted by what they went
    into. RGB."""
    cut = look.asked
    columns = min(_COLUMNS, look.frames)
    blocks = -(-look.frames // columns)
    rows = 3
    block = _TIMES + rows * (_EDGE + _GAP) + _GAP
    width = 2 * _MARGIN + _NAMES + columns * (_EDGE + _GAP) - _GAP
    image = Image.new("RGB", (width, 2 * _MARGIN + 40 + blocks * block), _PAPER)
    pen = ImageDraw.Draw(image)
    before, after = look.frames * look.tokens, cut.total
    count = "1 frame" if look.frames == 1 else f"{look.frames} frames"
    title = f"{count}, {before:,} tokens to {after:,}"
    pen.text((_MARGIN, _MARGIN), title, _INK, _font(22))
    for frame in range(look.frames):
        top = _MARGIN + 40 + frame // columns * block
        left = _MARGIN + _NAMES + frame % columns * (_EDGE + _GAP)
        if frame % columns == 0:
            names = ("frame", "attention", f"{cut.tokens} of {look.tokens}\ntokens")
            for row, name in enumerate(names):
                at = top + _TIMES + row * (_EDGE + _GAP) + _EDGE // 2 - 10
                pen.text((_MARGIN, at), name, _SOFT, _font(17))
        words = look.when(look.pts_s[frame])
        if evidence is not None:
            words += f"   drawn on: {100 * evidence.frames[frame]:.0f} %"
        pen.text((left, top), words, _INK, _font(16))
        picture = Image.fromarray(look.pictures[frame]).resize((_EDGE, _EDGE))
        drawn = (picture, _heat(picture, look, frame), _tokens(picture, look, cut, frame))
        for row, each in enumerate(drawn):
            image.paste(each, (left, top + _TIMES + row * (_EDGE + _GAP)))
    return image


def _heat(picture: Image.Image, look: Inspection, frame: int) -> Image.Image:
    values = look.attention[frame].reshape(look.grid)
    values = np.sqrt(values / max(float(values.max()), 1e-12))
    stops = np.array([at for at, _ in _HEAT])
    colors = np.array([color for _, color in _HEAT], float)
    heat = np.stack([np.interp(values, stops, channel) for channel in colors.T], -1)
    laid = Image.fromarray(heat.astype(np.uint8)).resize((_EDGE, _EDGE), Image.Resampling.BILINEAR)
    return Image.blend(picture, laid, 0.65)


def _tokens(
    picture: Image.Image, look: Inspection, cut: BudgetView | AcrossView, frame: int
) -> Image.Image:
    into = _enlarged(cut.assignment[frame].reshape(look.grid))
    pixels = np.asarray(picture, float)
    whole = cut.whole(frame)
    own = cut.patch[frame][cut.assignment[frame]] == np.arange(look.grid[0] * look.grid[1])
    own = _enlarged(own.reshape(look.grid).astype(np.int64))
    kept = (into >= 0) & (into < whole) & (own > 0)
    away = pixels * 0.58
    for token in range(cut.count(frame)):
        hue = ((token - whole) * 0.38197 + 0.0694) % 1.0  # as on the page
        tint = np.array(colorsys.hls_to_rgb(hue, 0.6, 0.85))
        away = np.where(((into == token) & ~kept)[..., None], away * 0.74 + 255 * tint * 0.26, away)
    drawn = np.where(kept[..., None], pixels, away)
    drawn[_border(kept)] = 255
    return Image.fromarray(drawn.clip(0, 255).astype(np.uint8))


def _enlarged(grid: NDArray[np.int64]) -> NDArray[np.int64]:
    rows, columns = grid.shape
    down = np.arange(_EDGE) * rows // _EDGE
    across = np.arange(_EDGE) * columns // _EDGE
    return grid[down[:, None], across[None, :]]


def _border(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The two outermost pixels of what is inside."""
    padded = np.pad(inside, 2, constant_values=False)
    core = inside.copy()
    for by in (1, 2):
        for axis in (0, 1):
            for way in (-by, by):
                core &= np.roll(padded, way, axis)[2:-2, 2:-2]
    return inside & ~core


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
