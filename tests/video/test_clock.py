"""Times only go forward, whatever the clocks of files and live sources do."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tolerances import PTS_S
from vzvideo.video.clock import Clock

TICKS = 90000  # a second of a broadcast's clock
stamps = st.one_of(
    st.none(),
    st.integers(0, 10 * TICKS).map(lambda ticks: ticks / TICKS),
    st.integers(-(2**33), 2**33).map(lambda ticks: ticks / TICKS),
)


@given(
    st.lists(stamps | st.just("connected anew"), max_size=60),
    st.booleans(),
    st.sampled_from([0.0, 1.5, 1e6]),
)
def test_a_clock_only_goes_forward(said: list[float | str], is_live: bool, start_s: float) -> None:
    clock, shown = Clock(start_s, live=is_live), []
    for stamp_s in said:
        if isinstance(stamp_s, str):
            clock.restart()
        elif (at_s := clock.time(stamp_s)) is not None:
            shown.append(at_s)
    assert shown[:1] in ([], [start_s])
    assert (np.diff(shown) > 0 if is_live else np.diff(shown) >= 0).all()
    assert clock.last_s == (shown[-1] if shown else None)


@pytest.mark.parametrize("is_live", [True, False])
@given(
    first=st.integers(-(2**33), 2**33),
    steps=st.lists(st.integers(1, 9 * TICKS), max_size=30),
)
def test_a_clock_that_behaves_is_followed(is_live: bool, first: int, steps: list[int]) -> None:
    clock = Clock(5.0, live=is_live)
    ticks = list(itertools.accumulate(steps, initial=first))
    shown = [clock.time(tick / TICKS) for tick in ticks]
    assert shown == pytest.approx([5 + (tick - first) / TICKS for tick in ticks], abs=PTS_S)


def test_a_live_frame_a_little_too_late_is_left_out() -> None:
    clock = Clock(0.0, live=True)
    assert [clock.time(at_s) for at_s in (7.0, 8.0, 7.5, 8.0)] == [0.0, 1.0, None, None]
    assert clock.time(8.25) == 1.25


@pytest.mark.parametrize("is_live", [True, False])
@pytest.mark.parametrize("wild_s", [-95000.0, -2.0, 95000.0])
def test_a_jump_starts_a_new_clock(wild_s: float, is_live: bool) -> None:
    clock = Clock(0.0, live=is_live)
    began = time.monotonic()
    for at_s in (100.0, 100.5):
        clock.time(at_s)
    jumped_s = clock.time(100.5 + wild_s)
    assert jumped_s is not None
    assert jumped_s >= 1.0  # a step as long as the last
    assert jumped_s == 1.0 or (is_live and jumped_s - 0.5 <= time.monotonic() - began)
    assert clock.time(101.5 + wild_s) == pytest.approx(jumped_s + 1, abs=PTS_S)


def test_a_gap_in_a_file_is_believed_and_ahead_of_the_wall_it_is_not() -> None:
    file, camera = Clock(0.0, live=False), Clock(0.0, live=True)
    assert [file.time(at_s) for at_s in (0.0, 0.5, 50.5)] == [0.0, 0.5, 50.5]
    assert [camera.time(at_s) for at_s in (0.0, 0.5)] == [0.0, 0.5]
    assert camera.time(50.5) < 50


def test_the_wall_tells_how_long_a_live_source_was_away() -> None:
    file, camera = Clock(0.0, live=False), Clock(0.0, live=True)
    began = time.monotonic()
    for clock in (file, camera):
        clock.time(10.0)
        clock.time(10.25)
    time.sleep(0.4)
    for clock in (file, camera):
        clock.restart()
    assert file.time(0.0) == 0.5
    assert 0.25 + 0.4 <= camera.time(0.0) <= 0.25 + time.monotonic() - began
    assert file.time(0.25) == 0.75


def test_nor_is_the_wall_forgotten_where_the_first_frame_has_no_timestamp() -> None:
    """As a camera's over RTSP has none until the server's first report."""
    camera = Clock(0.0, live=True)
    camera.time(10.0)
    camera.restart()
    time.sleep(0.4)
    camera.time(None)
    at_s = camera.time(20.0)
    assert at_s is not None
    assert at_s >= 0.4


def test_a_frame_without_a_timestamp_follows_the_last_by_a_step() -> None:
    clock = Clock(3.0, live=False)
    assert [clock.time(at_s) for at_s in (None, None, 9.0, 9.5, None, 10.5)] == pytest.approx(
        [3.0, 3.04, 3.08, 3.58, 4.08, 4.58], abs=PTS_S
    )


def followed(stamps_s: list[float | None], **settings: float) -> tuple[list[float], int]:
    """When a file's frames are shown, none of them left out; and how often its clock has jumped."""
    clock = Clock(**settings)
    times = [at_s for _, at_s in clock.follow(stamps_s, stamp_s=lambda stamp_s: stamp_s)]
    assert len(times) == len(stamps_s)
    return times, clock.jumps


@pytest.mark.parametrize("wrong_s", [-95000.0, -16.0, -0.5, 16.0, 95000.0])
def test_one_wrong_timestamp_of_a_file_costs_nothing(wrong_s: float) -> None:
    right = (np.arange(20) * 0.25).tolist()
    said = [7 + at_s + (wrong_s if index == 10 else 0) for index, at_s in enumerate(right)]
    assert followed(said) == (pytest.approx(right, abs=PTS_S), 0)


@pytest.mark.parametrize("jump_s", [-95000.0, -2.5, 50000.0])
def test_joined_files_go_on_where_the_first_ended(jump_s: float) -> None:
    right = np.arange(20) * 0.25
    said = [*(7 + right[:10]), *(7 + right[10:] + jump_s)]
    assert followed(said) == (pytest.approx(right.tolist(), abs=PTS_S), 1)


def test_timestamps_out_of_order_lose_no_frame_and_do_not_run_away() -> None:
    said = [0.0, 0.2, 0.3, 0.1, 0.5, 0.6, 0.4, 0.8, 0.9, 0.7, 1.0, 1.1]
    times, jumps = followed(said)
    assert (np.diff(times) > 0).all()
    assert np.abs(np.array(times) - np.arange(12) / 10).max() < 0.21
    assert times[-1] == pytest.approx(1.1, abs=PTS_S)
    assert not jumps


def test_two_pictures_of_one_moment_are_of_one_moment() -> None:
    assert followed([0.0, 1.0, 1.0, 2.0]) == ([0.0, 1.0, 1.0, 2.0], 0)


def test_few_timestamps_say_how_long_a_frame_lasts() -> None:
    """A header that says a tenth too much or too little is corrected by the first of them."""
    said = [index / 25 if index % 36 == 0 else None for index in range(200)]
    for claimed_s in (0.036, 0.04, 0.044):
        times, jumps = followed(said, step_s=claimed_s)
        assert np.abs(times - np.arange(200) / 25).max() < 0.2
        assert not jumps
        assert (np.diff(times) > 0).all()


def test_behind_a_seek_times_are_those_of_a_pass_from_the_start() -> None:
    assert followed([8.0, 8.25, 8.5], offset_s=-7.0) == ([1.0, 1.25, 1.5], 0)
