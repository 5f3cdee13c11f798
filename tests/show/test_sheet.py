"""The contact sheet: its size, and what is drawn where."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.show import made
from vzvideo.show import sheet as module
from vzvideo.show.look import Inspection
from vzvideo.show.sheet import sheet

EDGE = 224
STEP = EDGE + 10
LEFT, TOP = 20 + 118, 20 + 40 + 26  # of the first picture


def tiles(seen: Inspection, frame: int = 0) -> list[NDArray[np.int64]]:
    """The three pictures of a frame: as it is, its attention, its tokens."""
    drawn = np.asarray(sheet(seen)).astype(np.int64)
    block = 26 + 3 * STEP + 10
    top, left = TOP + frame // 8 * block, LEFT + frame % 8 * STEP
    return [drawn[top + row * STEP :, left:][:EDGE, :EDGE] for row in range(3)]


def grey(seen: Inspection, level: int = 160) -> Inspection:
    return replace(seen, pictures=np.full_like(seen.pictures, level))


@pytest.mark.parametrize("frames", [1, 2, 8, 9, 17])
def test_frames_stand_in_rows_of_eight(frames: int) -> None:
    seen = made.look(frames)
    image = sheet(seen)
    columns, blocks = min(8, frames), -(-frames // 8)
    assert image.mode == "RGB"
    assert image.size == (2 * 20 + 118 + columns * STEP - 10, 80 + blocks * (26 + 3 * STEP + 10))


def test_every_frame_is_in_its_place() -> None:
    seen = made.look(10)
    levels = np.linspace(20, 235, 10).astype(np.uint8)
    seen = replace(seen, pictures=np.broadcast_to(levels[:, None, None, None], (10, 64, 64, 3)))
    for frame, level in enumerate(levels):
        assert (tiles(seen, frame)[0] == level).all()


def test_patches_are_drawn_as_what_became_of_them() -> None:
    seen = grey(made.look(2))
    cut = seen.cuts[seen.chosen]
    tokens = tiles(seen)[2].reshape(4, EDGE // 4, 4, EDGE // 4, 3).swapaxes(1, 2)
    middles = tokens[:, :, 10:-10, 10:-10].mean((2, 3)).reshape(16, 3)
    colors: dict[int, list[tuple[float, ...]]] = {}
    for patch, into in enumerate(cut.assignment[0]):
        if into < cut.dominant:
            assert (middles[patch] == 160).all()
        else:
            assert middles[patch].mean() < 155
            colors.setdefault(int(into), []).append(tuple(middles[patch]))
    # One colour for each group, and another for each other.
    assert all(len(set(group)) == 1 for group in colors.values())
    assert len({group[0] for group in colors.values()}) == len(colors)


def test_groups_are_told_apart_by_colour() -> None:
    seen = grey(made.look(1, edge=8, chosen=33, contextual=8))
    tokens = tiles(seen)[2].reshape(8, EDGE // 8, 8, EDGE // 8, 3).swapaxes(1, 2)
    middles = tokens[:, :, 5:-5, 5:-5].mean((2, 3)).reshape(64, 3)
    into = seen.cuts[33].assignment[0]
    groups = sorted({int(token) for token in into if token >= seen.cuts[33].dominant})
    found = [tuple(middles[into == group][0]) for group in groups]
    assert len(set(found)) == len(groups) > 3


def test_dropped_patches_are_dim_and_kept_ones_outlined() -> None:
    seen = grey(made.look(1, chosen=9, contextual=0))
    tokens = tiles(seen)[2]
    into = np.repeat(np.repeat(seen.cuts[9].assignment[0].reshape(4, 4), 56, 0), 56, 1)
    assert len(np.unique(tokens[into < 0])) == 1
    assert tokens[into < 0].max() < 0.7 * 160
    assert set(np.unique(tokens[into >= 0])) == {160, 255}
    # The rim of a dominant region is white, two pixels of it.
    kept = into >= 0
    rim = kept & ~np.roll(kept, 1, 0)
    assert (tokens[1:][rim[1:]] == 255).all()


def test_attention_is_brightest_where_it_is_highest() -> None:
    seen = grey(made.look(1))
    attention = np.full(16, 0.01)
    attention[5] = 0.85
    seen = replace(seen, attention=attention[None].astype(np.float32))
    heat = tiles(seen)[1].sum(2).reshape(4, 56, 4, 56).mean((1, 3)).reshape(16)
    assert heat.argmax() == 5


def test_evidence_is_written_over_its_frame() -> None:
    seen = made.look(2)
    without, with_it = np.asarray(sheet(seen)), np.asarray(sheet(seen, made.drawn(seen)))
    changed = (without != with_it).any((0, 2)).nonzero()[0], (without != with_it).any((1, 2))
    rows = changed[1].nonzero()[0]
    assert rows.min() >= TOP - 26
    assert rows.max() < TOP


def test_the_words_of_a_long_video_stay_over_their_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """'10:01:23.5   drawn on: 100 %' may not run into the next."""
    seen = made.look(2)
    seen = replace(seen, pts_s=np.array([36083.5, 36083.9]))
    evidence = replace(made.drawn(seen), frames=np.array([1.0, 0.0]))
    with_one = np.asarray(sheet(seen, evidence))
    gap = with_one[TOP - 26 : TOP, LEFT + EDGE : LEFT + STEP]
    assert (gap == 255).all()


def test_heat_runs_from_dark_to_bright() -> None:
    brightness = [sum(color) for _, color in module._HEAT]
    assert brightness == sorted(brightness)
