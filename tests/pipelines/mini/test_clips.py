"""Clips of photographs: what is written is what the moves say, frame by frame."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from pipelines.mini.clips import WHOLE, Move, View, draw_move, picture, render, still
from tests.pipelines.made import all_frames, nearest, pattern, photograph
from tests.tolerances import PILLOW_LEVELS
from vzvideo.video import open_video

PHOTOGRAPHS = [photograph(number) for number in range(3)]


def test_scenes_are_cut_where_they_should_be(tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    render(path, PHOTOGRAPHS, [still(2), still(0)], frames=5, fps=8)
    with open_video(path) as video:
        assert video.info.duration_s == pytest.approx(10 / 8)
        assert (video.info.width, video.info.height) == (64, 48)
    frames = all_frames(path)
    pictures = [picture(data, View(row)) for row, data in enumerate(PHOTOGRAPHS)]
    assert nearest(frames, pictures) == [2] * 5 + [0] * 5
    for frame, number in zip(frames, [2] * 5 + [0] * 5, strict=True):
        colours = frame.mean((0, 1)) - pattern(number).mean((0, 1))
        assert np.abs(colours).max() < PILLOW_LEVELS


def test_frames_of_a_move_are_its_views(tmp_path: Path) -> None:
    move = Move(View(1, (0.0, 0.1, 0.6, 0.7), True), View(1, (0.4, 0.1, 1.0, 0.7), True))
    render(tmp_path / "pan.mp4", PHOTOGRAPHS, [move], frames=6)
    views = [picture(PHOTOGRAPHS[1], move.at(number / 5)) for number in range(6)]
    assert nearest(all_frames(tmp_path / "pan.mp4"), views) == list(range(6))


@pytest.mark.parametrize("seed", range(50))
def test_a_move_goes_one_way_and_stays_inside(seed: int) -> None:
    move = draw_move(7, random.Random(seed))
    views = [move.at(number / 20) for number in range(21)]
    assert (views[0], views[-1]) == (move.start, move.end)
    boxes = np.array([view.box for view in views])
    assert (boxes >= 0).all()
    assert (boxes <= 1).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 0.5).all()
    steps = np.diff(boxes, axis=0)
    assert ((steps >= 0).all(0) | (steps <= 0).all(0)).all()
    assert np.abs(steps).sum() > 0
    assert {(view.row, view.flip) for view in views} == {(7, move.start.flip)}
    for view in views:  # Pillow refuses boxes that reach outside
        picture(PHOTOGRAPHS[0], view)


def test_moves_are_of_every_kind() -> None:
    moves = [draw_move(0, random.Random(seed)) for seed in range(100)]
    assert {move.start.flip for move in moves} == {True, False}
    assert {WHOLE in (move.start.box, move.end.box) for move in moves} == {True, False}
    unflipped = [draw_move(0, random.Random(seed), flips=False) for seed in range(100)]
    assert not any(move.start.flip or move.end.flip for move in unflipped)


def test_views_are_parts_and_mirror_images() -> None:
    whole = pattern(0)
    assert (np.asarray(picture(PHOTOGRAPHS[0], View(0))) == whole).all()
    assert (np.asarray(picture(PHOTOGRAPHS[0], View(0, flip=True))) == whole[:, ::-1]).all()
    part = picture(PHOTOGRAPHS[0], View(0, (0.5, 0.0, 1.0, 0.5)))
    assert part.size == (64, 48)
    small = np.asarray(part.resize((32, 24)), float)
    assert np.abs(small - whole[:24, 32:]).mean() < PILLOW_LEVELS


def test_odd_and_unequal_sizes(tmp_path: Path) -> None:
    images = [photograph(0, 65, 47), photograph(1, 40, 60)]
    render(tmp_path / "odd.mp4", images, [still(0), still(1)], frames=2)
    frames = all_frames(tmp_path / "odd.mp4")
    assert frames.shape == (4, 46, 64, 3)
    assert nearest(frames, [picture(data, View(0)) for data in images]) == [0, 0, 1, 1]


def test_a_clip_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.mp4: a clip needs at least one move"):
        render(tmp_path / "none.mp4", PHOTOGRAPHS, [], frames=3)
