"""The sampling policies: what each gives exactly, and what holds of all of them."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from vzvideo.errors import SettingsError, VideoError
from vzvideo.video import sampling
from vzvideo.video.sampling import MOST_FRAMES

starts = st.floats(0, 1e5)
lengths = st.floats(1e-3, 1e5)
counts = st.integers(1, 200)
unhurried = settings(deadline=None)  # a busy machine is no failure


def same(times: NDArray[np.float64], expected: list[float]) -> None:
    assert times.dtype == np.float64
    np.testing.assert_allclose(times, expected, rtol=0, atol=1e-9)


def lies_within(times: NDArray[np.float64], start_s: float, end_s: float) -> None:
    assert times.dtype == np.float64
    assert len(times) >= 1
    assert (np.diff(times) > 0).all()
    assert start_s <= times[0]
    assert times[-1] < end_s


# -- clip


def test_clip() -> None:
    assert sampling.clip(10.0, None, None) == (0.0, 10.0)
    assert sampling.clip(10.0, 2.0, 5.0) == (2.0, 5.0)
    assert sampling.clip(10.0, 2.0, 50.0) == (2.0, 10.0)
    assert sampling.clip(10.0, 0.0, inf) == (0.0, 10.0)


@pytest.mark.parametrize(
    ("start_s", "end_s"),
    [(10, None), (11, 12), (5, 5), (5, 4), (-1, 3), (0, 0), (nan, None), (0, nan), (inf, None)],
)
def test_clip_outside(start_s: float, end_s: float | None) -> None:
    with pytest.raises(VideoError, match=r"choose a start from 0 to below 10\.000") as caught:
        sampling.clip(10.0, start_s, end_s)
    assert caught.value.code == "clip"


# -- uniform


def test_uniform() -> None:
    same(sampling.uniform(0, 8, 4), [1, 3, 5, 7])
    same(sampling.uniform(2, 4, 1), [3])


@unhurried
@given(starts, lengths, counts)
def test_uniform_is_the_middles_of_equal_parts(start_s: float, length: float, frames: int) -> None:
    times = sampling.uniform(start_s, start_s + length, frames)
    assert len(times) == frames
    lies_within(times, start_s, start_s + length)
    # The same from the back: no end is closer to a frame than the other.
    np.testing.assert_allclose(times - start_s, (start_s + length - times)[::-1], atol=1e-9)


@pytest.mark.parametrize("frames", [0, -1, MOST_FRAMES + 1])
def test_a_number_of_frames_that_makes_no_sense(frames: int) -> None:
    for policy in (
        lambda: sampling.uniform(0, 1, frames),
        lambda: sampling.keyframes(np.array([0.0]), 0, 1, frames),
        lambda: sampling.scenes(np.array([0.0]), np.array([0.0]), 0, 1, frames),
    ):
        with pytest.raises(SettingsError, match=f"frames: {frames} given"):
            policy()


# -- fps


def test_fps() -> None:
    same(sampling.fps(0, 2, 2), [0, 0.5, 1, 1.5])
    same(sampling.fps(1, 2.1, 2), [1, 1.5, 2])
    same(sampling.fps(3, 4, 0.01), [3])
    same(sampling.fps(0, 0.3, 10), [0, 0.1, 0.2])  # 0.3 * 10 is a little more than 3


@unhurried
@given(starts, lengths, st.floats(1e-3, 1e3))
@example(65337.0, 199.85, 500.0)
def test_fps_is_a_comb_that_fills_the_clip(start_s: float, length: float, rate: float) -> None:
    end_s = start_s + length
    if (end_s - start_s) * rate > MOST_FRAMES:
        with pytest.raises(SettingsError, match="at most"):
            sampling.fps(start_s, end_s, rate)
        return
    times = sampling.fps(start_s, end_s, rate)
    lies_within(times, start_s, end_s)
    assert times[0] == start_s
    np.testing.assert_allclose(np.diff(times), 1 / rate, atol=1e-9)
    assert times[-1] + 1 / rate > end_s - 1e-6


@pytest.mark.parametrize("rate", [0, -1, nan, inf, 1e308])
def test_fps_that_makes_no_sense(rate: float) -> None:
    with pytest.raises(SettingsError, match="fps: "):
        sampling.fps(0, 100, rate)


# -- keyframes


def test_keyframes() -> None:
    keys = np.arange(0, 20, 2.0)
    same(sampling.keyframes(keys, 0, 20, 100), list(keys))
    same(sampling.keyframes(keys, 2, 6, 100), [2, 4])  # half open
    same(sampling.keyframes(keys, 0, 20, 5), [2, 6, 10, 14, 18])
    same(sampling.keyframes(keys, 3, 3.5, 5), [3])  # between two


@unhurried
@given(st.sets(st.integers(0, 1000)), st.integers(0, 900), st.integers(1, 500), counts)
def test_keyframes_are_keyframes(keys: set[int], start: int, length: int, frames: int) -> None:
    times = sampling.keyframes(np.array(sorted(keys), float), start, start + length, frames)
    lies_within(times, start, start + length)
    inside = {float(key) for key in keys if start <= key < start + length}
    assert set(times) <= (inside or {float(start)})
    assert len(times) == max(1, min(frames, len(inside)))


# -- scenes


def cut_at(*frames: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """100 frames, 10 a second, nearly still but for cuts."""
    differences = np.full(100, 0.01)
    differences[0] = 0
    differences[list(frames)] = 0.5
    return np.arange(100) / 10, differences


def test_scenes() -> None:
    same(sampling.scenes(*cut_at(40, 60), 0, 10, 3), [2, 5, 8])
    # One more frame goes to the longest scene, the first of two as long.
    same(sampling.scenes(*cut_at(40, 60), 0, 10, 4), [1, 3, 5, 8])
    # Fewer frames than scenes: the longest ones are kept.
    same(sampling.scenes(*cut_at(10, 15, 60), 0, 10, 2), [3.75, 8])
    same(sampling.scenes(*cut_at(), 0, 10, 2), [2.5, 7.5])
    # Cuts outside the clip make no scene of it.
    same(sampling.scenes(*cut_at(10, 50, 90), 2, 8, 2), [3.5, 6.5])


def test_a_fast_pan_is_no_cut() -> None:
    times, differences = cut_at()
    differences[30:70] = 0.3
    same(sampling.scenes(times, differences, 0, 10, 1), [5])


@unhurried
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=200),
    st.floats(0, 0.9),
    st.floats(0.05, 1),
    counts,
)
def test_scenes_give_every_frame_asked_for(
    differences: list[float], start: float, length: float, frames: int
) -> None:
    """Of a video whose frames all differ somehow, the first from nothing."""
    changes = np.array([0.0, *differences[1:]])
    times_s = np.arange(len(changes)) / 25
    start_s = start * len(changes) / 25
    end_s = min(start + length, 1.0) * len(changes) / 25
    times = sampling.scenes(times_s, changes, start_s, end_s, frames)
    lies_within(times, start_s, end_s)
    assert len(times) == frames
