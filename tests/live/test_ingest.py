"""Frames in, memory out: every frame is counted once, whatever the encoder's pace."""

from __future__ import annotations

import itertools
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import vzvideo
from tests.tolerances import FEATURES_F32
from tests.video.clips import paint
from tests.waiting import SLACK_S, until
from vzvideo.errors import ModelError, SettingsError, VideoError
from vzvideo.live.ingest import Ingest
from vzvideo.live.sources import LiveSource
from vzvideo.live.stats import COUNTED, Stats
from vzvideo.models.encoder import Encoder, ZipSettings
from vzvideo.types import FrameBatch, Policy, VisualTokens
from vzvideo.visionzip.memory import Memory

ZIP = ZipSettings(dominant=4, contextual=1)
EACH = 5  # tokens of a frame
SIZE = 112
SHORT_S = 0.15  # long enough to see that something waits
POLICIES = ("block", "drop_oldest", "drop_newest")


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> Encoder:
    """Half a model is enough."""
    return vzvideo.load(str(checkpoint), part="tower", cache=False).encoder


def frame(number: int, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """A picture unlike that of any other number."""
    return np.repeat(paint(number, width, height)[:, :, None], 3, axis=2)


class Door:
    """An encoder behind a door: while it is shut, nothing is encoded."""

    def __init__(self, encoder: Encoder, *, shut: bool = False) -> None:
        self._encoder = encoder
        self.open, self.wait_until = threading.Event(), threading.Event()
        self.batches: list[list[float]] = []
        self.error: BaseException | None = None
        if not shut:
            self.open.set()

    def __call__(self, frames: FrameBatch) -> VisualTokens:
        self.wait_until.set()
        assert self.open.wait(SLACK_S)
        if self.error is not None:
            raise self.error
        self.batches.append(frames.pts_s.tolist())
        return self._encoder.encode(frames, ZIP)

    @property
    def encoded(self) -> list[float]:
        return list(itertools.chain.from_iterable(self.batches))


@contextmanager
def ingest(door: Door, *, budget: int = 2000, **options: Any) -> Iterator[Ingest]:
    """Closed in the end, and all its threads ended."""
    usual = {"size": SIZE, "batch": 1, "queue": 3, "policy": "block", "tolerance": 0.04}
    counts = options.pop("counts", {})
    made = Ingest(door, Memory(budget), counts, **(usual | options))
    try:
        yield made
    finally:
        door.open.set()
        made.close()
        until(lambda: made.ended)
        assert made.stats.waiting == 0
        assert_adds_up(made.stats)


def assert_adds_up(stats: Stats) -> None:
    accounted = stats.skipped + stats.encoded + stats.dropped + stats.waiting
    assert stats.frames_in == accounted
    assert min(stats.skipped, stats.encoded, stats.dropped, stats.waiting) >= 0


def in_background(call: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, errors


def full(made: Ingest, door: Door) -> None:
    """One frame is being encoded, and three wait: there is no more room."""
    made.push(frame(1), 0.0)
    assert door.wait_until.wait(SLACK_S)
    until(lambda: made.stats.waiting == 1)
    for number in (2, 3, 4):
        made.push(frame(number), float(number - 1))
    assert made.stats == Stats(frames_in=4, waiting=4, lag_s=3.0)


# -- policies


@pytest.mark.parametrize(
    ("policy", "kept"),
    [("drop_oldest", [0.0, 3.0, 4.0, 5.0]), ("drop_newest", [0.0, 1.0, 2.0, 3.0])],
)
def test_the_policy_says_which_are_kept(
    policy: Policy, kept: list[float], encoder: Encoder
) -> None:
    door = Door(encoder, shut=True)
    with ingest(door, policy=policy) as made:
        full(made, door)
        for number in (5, 6):
            made.push(frame(number), float(number - 1))
        assert made.stats == Stats(frames_in=6, dropped=2, waiting=4, lag_s=5.0)
        door.open.set()
        assert made.wait(SLACK_S)
        assert door.encoded == kept
        assert made.stats.encoded == 4


def test_a_frame_that_was_dropped_is_not_taken_for_seen(encoder: Encoder) -> None:
    door = Door(encoder, shut=True)
    with ingest(door, policy="drop_newest") as made:
        full(made, door)
        made.push(frame(9), 10.0)
        door.open.set()
        assert made.wait(SLACK_S)
        made.push(frame(9), 11.0)
        assert made.wait(SLACK_S)
        assert door.encoded[-1] == 11.0
        assert made.stats.skipped == 0


def test_whoever_brings_frames_waits_and_goes_on(encoder: Encoder) -> None:
    door = Door(encoder, shut=True)
    with ingest(door) as made:
        full(made, door)
        pushing, errors = in_background(lambda: made.push(frame(5), 4.0))
        pushing.join(SHORT_S)
        assert pushing.is_alive()
        assert_adds_up(made.stats)
        door.open.set()
        pushing.join(SLACK_S)
        assert not pushing.is_alive()
        assert errors == []
        assert made.wait(SLACK_S)
        assert door.encoded == [0.0, 1.0, 2.0, 3.0, 4.0]
        assert made.stats.dropped == 0


def test_whoever_waits_is_told_that_the_stream_was_closed(encoder: Encoder) -> None:
    door = Door(encoder, shut=True)
    with ingest(door) as made:
        full(made, door)
        pushing, errors = in_background(lambda: made.push(frame(5), 4.0))
        pushing.join(SHORT_S)
        made.close()
        pushing.join(SLACK_S)
        (error,) = errors
        assert isinstance(error, SettingsError)
        assert error.code == "closed"
    # What was refused never came in, and what the encoder had in hand is too late.
    until(lambda: not made.stats.waiting)
    assert (made.stats.frames_in, made.stats.dropped) == (4, 4)


def test_an_interrupted_push_is_counted_and_waited_for_by_nobody(encoder: Encoder) -> None:
    """Ctrl-C, where a notebook waits for room."""
    door = Door(encoder, shut=True)
    with ingest(door) as made:
        full(made, door)
        threading.Timer(SHORT_S, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            made.push(frame(5), 4.0)
        door.open.set()
        until(lambda: made.stats.encoded == 4)
        assert made.wait(1.0)
        assert_adds_up(made.stats)
        made.push(frame(6), 5.0)
        assert made.wait(SLACK_S)


def test_as_many_as_wait_are_encoded_at_once_of_one_size(encoder: Encoder) -> None:
    door = Door(encoder, shut=True)
    with ingest(door, queue=9, batch=3) as made:
        made.push(frame(1), 0.0)
        assert door.wait_until.wait(SLACK_S)
        sizes = [(64, 48)] * 4 + [(48, 64)] + [(64, 48)]
        for at, size in enumerate(sizes):
            made.push(frame(at + 2, *size), at + 1.0)
        door.open.set()
        assert made.wait(SLACK_S)
        assert door.batches == [[0.0], [1.0, 2.0, 3.0], [4.0], [5.0], [6.0]]


@st.composite
def pushes(draw: st.DrawFn) -> list[tuple[int, float]]:
    steps = draw(st.lists(st.sampled_from([0.0, 0.04, 1.0, 60.0]), min_size=1, max_size=16))
    return [(draw(st.integers(0, 3)), at_s) for at_s in itertools.accumulate(steps)]


@settings(deadline=None, max_examples=25)
@given(
    pushes(),
    st.sampled_from(POLICIES),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(EACH, 30),
    st.booleans(),
)
def test_counts_always_add_up(
    encoder: Encoder,
    pushed: list[tuple[int, float]],
    policy: str,
    queue: int,
    batch: int,
    budget: int,
    wait: bool,
) -> None:
    door = Door(encoder)
    with ingest(door, policy=policy, queue=queue, batch=batch, budget=budget) as made:

        def push() -> None:
            for number, at_s in pushed:
                made.push(frame(number), at_s)

        pushing, errors = in_background(push)
        while pushing.is_alive():
            assert_adds_up(made.stats)
            assert made.memory.tokens <= budget
            assert made.stats.waiting <= queue + batch + 1
        assert errors == []
        if wait:
            assert made.wait(SLACK_S)
    stats = made.stats
    assert stats.frames_in == len(pushed)
    assert stats.tokens == made.memory.tokens <= budget
    if wait:
        assert stats.waiting == 0
        assert made.memory.start_s == pushed[0][1] or policy == "drop_oldest"
        assert made.memory.end_s == pushed[-1][1] or policy == "drop_newest"
    if policy == "block" and wait:
        runs = 1 + sum(a[0] != b[0] for a, b in itertools.pairwise(pushed))
        assert (stats.encoded, stats.dropped) == (runs, 0)


# -- nothing new


def test_what_showed_nothing_new_is_remembered_in_time(encoder: Encoder) -> None:
    door = Door(encoder)
    with ingest(door) as made:
        for at, number in enumerate([1, 1, 1, 2, 2, 1, 1, 1, 1]):
            made.push(frame(number), float(at))
        assert made.wait(SLACK_S)
        assert door.encoded == [0.0, 3.0, 5.0]
        spans = [(moment.start_s, moment.end_s) for moment in made.memory.moments]
        assert spans == [(0.0, 2.0), (3.0, 4.0), (5.0, 8.0)]
        assert (made.stats.skipped, made.stats.covered_s) == (6, 8.0)
        made.push(frame(1), 100.0)
        assert (made.memory.end_s, made.stats.covered_s) == (100.0, 100.0)
        (seen,) = made.memory.between(50.0, 60.0)
        assert seen.start_s == 5.0


def test_time_goes_on_while_the_frame_itself_still_waits(encoder: Encoder) -> None:
    door = Door(encoder, shut=True)
    with ingest(door) as made:
        for at_s in (0.0, 1.0, 2.0):
            made.push(frame(1), at_s)
        made.push(frame(2), 3.0)
        made.push(frame(2), 4.0)
        assert made.stats == Stats(frames_in=5, skipped=3, waiting=2, lag_s=4.0)
        door.open.set()
        assert made.wait(SLACK_S)
        spans = [(moment.start_s, moment.end_s) for moment in made.memory.moments]
        assert spans == [(0.0, 2.0), (3.0, 4.0)]


def test_a_slow_change_does_not_go_unseen(encoder: Encoder) -> None:
    """Each frame is compared with the last that was encoded, not with the one before it."""
    door = Door(encoder)
    with ingest(door, tolerance=0.04) as made:
        for level in range(0, 200, 4):
            made.push(np.full((48, 64, 3), level, np.uint8), float(level))
        assert made.wait(SLACK_S)
        assert 200 / 12 - 1 <= made.stats.encoded <= 200 / 8
        assert made.stats.skipped > 0


@pytest.mark.parametrize("corner", [(0, 0), (0, 630), (470, 0), (470, 630)])
def test_a_change_in_one_corner_is_encoded(encoder: Encoder, corner: tuple[int, int]) -> None:
    empty = np.full((480, 640, 3), 90, np.uint8)
    somebody, (y, x) = empty.copy(), corner
    somebody[y : y + 10, x : x + 10] = 220
    door = Door(encoder)
    with ingest(door) as made:
        for at_s, pixels in enumerate([empty, empty, somebody, somebody, empty]):
            made.push(pixels, float(at_s))
        assert made.wait(SLACK_S)
        assert door.encoded == [0.0, 2.0, 4.0]


def test_without_tolerance_only_what_is_equal_is_skipped(encoder: Encoder) -> None:
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (96, 128, 3), dtype=np.uint8)
    almost = noise.copy()
    almost[20, 30, 0] ^= 1
    door = Door(encoder)
    with ingest(door, tolerance=0.0) as made:
        for at_s, pixels in enumerate([noise, noise, almost, almost, noise]):
            made.push(pixels, float(at_s))
        assert made.wait(SLACK_S)
        assert door.encoded == [0.0, 2.0, 4.0]


def test_with_all_tolerance_only_the_first_is_encoded(encoder: Encoder) -> None:
    door = Door(encoder)
    with ingest(door, tolerance=1.0) as made:
        for at_s in range(5):
            made.push(np.full((48, 64, 3), 255 * (at_s % 2), np.uint8), float(at_s))
        assert made.wait(SLACK_S)
        assert made.stats == Stats(5, skipped=4, encoded=1, tokens=EACH, covered_s=4.0)


# -- frames of any kind


def test_what_is_remembered_is_what_the_encoder_makes_of_the_frames(encoder: Encoder) -> None:
    pixels = [frame(number) for number in (1, 2, 3)]
    times = np.array([0.5, 1.5, 7.0])
    whole = encoder.encode(FrameBatch(np.stack(pixels), times), ZIP)
    with ingest(Door(encoder)) as made:
        for one, at_s in zip(pixels, times, strict=True):
            made.push(one, at_s)
        assert made.wait(SLACK_S)
        moments = made.memory.moments
    assert [moment.start_s for moment in moments] == times.tolist()
    features = np.concatenate([moment.features.numpy() for moment in moments])
    np.testing.assert_allclose(features, whole.features.numpy(), rtol=0, atol=10 * FEATURES_F32)
    for name in ("role", "patch"):
        kept = np.concatenate([getattr(moment, name).numpy() for moment in moments])
        np.testing.assert_array_equal(kept, getattr(whole, name))


def test_a_buffer_may_be_written_into_again_after_push(encoder: Encoder) -> None:
    door = Door(encoder, shut=True)
    buffer = frame(1)
    with ingest(door) as made:
        made.push(buffer, 0.0)
        buffer[:] = 0
        made.push(buffer, 1.0)
        door.open.set()
        assert made.wait(SLACK_S)
        first = made.memory.moments[0].features
    expected = encoder.encode(FrameBatch(frame(1)[None], np.zeros(1)), ZIP).features
    np.testing.assert_allclose(first.numpy(), expected.numpy(), rtol=0, atol=10 * FEATURES_F32)


@pytest.mark.parametrize("shape", [(1, 1), (1, 64), (64, 1), (2, 3), (479, 641), (2000, 30)])
def test_frames_of_any_size_are_taken(encoder: Encoder, shape: tuple[int, int]) -> None:
    with ingest(Door(encoder)) as made:
        made.push(np.full((*shape, 3), 7, np.uint8), 0.0)
        made.push(np.full((*shape, 3), 7, np.uint8), 1.0)
        made.push(np.full((*shape, 3), 200, np.uint8), 2.0)
        assert made.wait(SLACK_S)
        assert (made.stats.encoded, made.stats.skipped) == (2, 1)


def test_views_are_taken_as_they_are(encoder: Encoder) -> None:
    turned = np.rot90(frame(3))[:, ::-1]
    turned.setflags(write=False)
    with ingest(Door(encoder)) as made:
        made.push(turned, 0.0)
        made.push(np.ascontiguousarray(turned), 1.0)
        assert made.wait(SLACK_S)
        assert made.stats.skipped == 1


@pytest.mark.parametrize(
    ("pixels", "told"),
    [
        (np.zeros((48, 64, 3), np.float32), "float32"),
        (np.zeros((48, 64, 3), np.int64), "int64"),
        ([[[0, 0, 0]]], "list"),
        (None, "NoneType"),
        (np.zeros((48, 64), np.uint8), "(48, 64)"),
        (np.zeros((48, 64, 4), np.uint8), "(48, 64, 4)"),
        (np.zeros((1, 48, 64, 3), np.uint8), "(1, 48, 64, 3)"),
        (np.zeros((0, 64, 3), np.uint8), "(0, 64, 3)"),
        (np.zeros((48, 0, 3), np.uint8), "(48, 0, 3)"),
    ],
)
def test_what_is_no_frame_is_refused(encoder: Encoder, pixels: Any, told: str) -> None:
    with ingest(Door(encoder)) as made:
        with pytest.raises(SettingsError) as error:
            made.push(pixels, 0.0)
        assert told in str(error.value)
        assert "uint8 (H, W, 3)" in str(error.value)
        assert made.stats == Stats()


@pytest.mark.parametrize("at_s", [math.nan, math.inf, -math.inf, "1.0", None])
def test_what_is_no_time_is_refused(encoder: Encoder, at_s: Any) -> None:
    with ingest(Door(encoder)) as made:
        with pytest.raises(SettingsError, match="seconds"):
            made.push(frame(1), at_s)
        assert made.stats == Stats()


def test_times_may_stand_still_but_not_go_back(encoder: Encoder) -> None:
    with ingest(Door(encoder)) as made:
        made.push(frame(1), 5.0)
        made.push(frame(2), 5.0)
        with pytest.raises(SettingsError, match="go back"):
            made.push(frame(3), 4.9)
        with pytest.raises(SettingsError, match="begin at 0"):
            made.push(frame(3), -1.0)
        assert made.wait(SLACK_S)
        assert made.stats == Stats(2, encoded=2, tokens=2 * EACH)


@pytest.mark.parametrize(
    "wrong", [{"queue": 0}, {"queue": -1}, {"policy": "drop"}, {"policy": None}]
    + [{"tolerance": value} for value in (-0.1, 1.1, math.nan)],
)  # fmt: skip
def test_wrong_settings_are_refused_and_leave_no_thread(
    encoder: Encoder, wrong: dict[str, Any]
) -> None:
    before = threading.active_count()
    (name,) = wrong
    with pytest.raises(SettingsError, match=name), ingest(Door(encoder), **wrong):
        pass
    assert threading.active_count() == before


# -- errors and the end


@pytest.mark.parametrize("error", [MemoryError("no room"), RuntimeError("CUDA is gone")])
def test_an_error_of_the_encoder_reaches_everybody(encoder: Encoder, error: Exception) -> None:
    door = Door(encoder, shut=True)
    door.error = error
    with ingest(door) as made:
        full(made, door)
        waiting, at_push = in_background(lambda: made.push(frame(5), 4.0))
        first, at_first = in_background(made.first)
        door.open.set()
        for thread in (waiting, first):
            thread.join(SLACK_S)
        (told,), (asked,) = at_push, at_first
        assert error in (told, told.__cause__)
        assert error in (asked, asked.__cause__)
        for _ in range(2):  # not once: there is no going on
            for call in (made.first, made.wait, lambda: made.push(frame(6), 9.0)):
                with pytest.raises((type(error), ModelError)) as again:
                    call()
                assert error in (again.value, again.value.__cause__)
        assert made.stats == Stats(frames_in=4, dropped=4)


def test_what_waits_at_the_end_counts_as_dropped(encoder: Encoder) -> None:
    door = Door(encoder, shut=True)
    with ingest(door) as made:
        full(made, door)
        made.close()  # which the encoder cannot know
        assert not made.ended
        assert_adds_up(made.stats)
    assert (made.stats.encoded, made.stats.dropped) == (0, 4)
    assert not made.memory.moments


def test_closing_twice_is_closing_once(encoder: Encoder) -> None:
    with ingest(Door(encoder)) as made:
        made.push(frame(1), 0.0)
        assert made.wait(SLACK_S)
        made.close()
        once = made.stats
        made.close()
        assert made.stats == once
        with pytest.raises(SettingsError, match="closed"):
            made.push(frame(2), 1.0)
        assert made.first().tokens == EACH


def test_waiting_has_an_end(encoder: Encoder) -> None:
    door = Door(encoder, shut=True)
    with ingest(door) as made:
        assert made.wait(0)
        made.push(frame(1), 0.0)
        assert not made.wait(0.05)
        door.open.set()
        assert made.wait()


def test_the_lag_is_what_came_in_and_is_not_remembered(encoder: Encoder) -> None:
    door = Door(encoder)
    with ingest(door) as made:
        made.push(frame(1), 1.0)
        assert made.wait(SLACK_S)
        assert made.stats.lag_s == 0
        door.open.clear()
        made.push(frame(2), 3.0)
        made.push(frame(3), 6.0)
        assert made.stats.lag_s == 5.0
        door.open.set()
        assert made.wait(SLACK_S)
        assert made.stats.lag_s == 0


def test_counts_go_on_from_those_of_before(encoder: Encoder) -> None:
    counts = dict(zip(COUNTED, (10, 4, 3, 1, 7, 2), strict=True))  # 2 waited when it was saved
    with ingest(Door(encoder), counts=counts) as made:
        expected = Stats(10, skipped=4, encoded=3, dropped=3, lost=7, reconnects=2)
        assert made.stats == expected
        made.push(frame(1), 0.0)
        assert made.wait(SLACK_S)
        assert (made.stats.frames_in, made.stats.encoded) == (11, 4)


def test_counts_are_of_one_moment(encoder: Encoder) -> None:
    """What is saved must add up, whatever goes on meanwhile."""
    with ingest(Door(encoder), budget=EACH) as made:
        over = threading.Event()

        def push() -> None:
            for at in itertools.count():
                if over.is_set():
                    return
                made.push(still, float(at))

        still = frame(1, 16, 12)
        pushing, errors = in_background(push)
        interval_s = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            for _ in range(1000):
                _, counts = made.state()
                done = counts["skipped"] + counts["encoded"] + counts["dropped"]
                assert done <= counts["frames_in"]
        finally:
            sys.setswitchinterval(interval_s)
            over.set()
            pushing.join(SLACK_S)
        assert errors == []


# -- sources


def test_a_source_begins_at_0_and_goes_on_where_the_last_ended(
    encoder: Encoder, clip: Path
) -> None:
    begun: list[float] = []

    def open_at(start_s: float) -> LiveSource:
        begun.append(start_s)
        return LiveSource(str(clip), fps=5.0, start_s=start_s)

    door = Door(encoder)
    with ingest(door) as made:
        made.attach(open_at)
        assert made.wait(SLACK_S)
        first = made.memory.end_s
        made.attach(open_at)
        assert made.wait(SLACK_S)
        assert begun[0] == 0.0
        assert first < begun[1] < first + 0.2
        assert made.memory.end_s > begun[1]
        assert_adds_up(made.stats)
        assert made.stats.frames_in == made.stats.encoded == 8 + 9  # a grid of its own


def test_one_source_at_a_time(encoder: Encoder, clip: Path) -> None:
    door = Door(encoder, shut=True)
    with ingest(door, queue=1) as made:
        made.attach(lambda start_s: LiveSource(str(clip), fps=None, start_s=start_s))
        with pytest.raises(SettingsError, match="one source at a time"):
            made.attach(lambda start_s: LiveSource(str(clip), start_s=start_s))
        door.open.set()
        assert made.wait(SLACK_S)
        made.attach(lambda start_s: LiveSource(str(clip), start_s=start_s))
        assert made.wait(SLACK_S)


def test_an_error_of_a_source_is_told_once(encoder: Encoder, clip: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all" * 99)
    with ingest(Door(encoder)) as made:
        made.push(frame(1), 0.0)
        assert made.wait(SLACK_S)
        made.attach(lambda start_s: LiveSource(str(broken), start_s=start_s))
        with pytest.raises(VideoError, match=r"broken\.mp4"):
            made.wait(SLACK_S)
        assert made.wait(0)
        assert made.first().tokens == EACH
        made.attach(lambda start_s: LiveSource(str(clip), start_s=start_s))
        assert made.wait(SLACK_S)


def test_a_source_is_left_behind_where_the_encoder_fails(encoder: Encoder, clip: Path) -> None:
    door = Door(encoder)
    door.error = RuntimeError("gone")
    with ingest(door, queue=1) as made:
        with suppress(RuntimeError):
            made.attach(lambda start_s: LiveSource(str(clip), fps=None, start_s=start_s))
        with pytest.raises((RuntimeError, ModelError)):
            made.wait(SLACK_S)
        with pytest.raises(ModelError, match="encoder has failed"):
            made.wait(SLACK_S)
        until(lambda: made.ended)
