"""One contract for every decoder and every kind of clip, then what goes wrong in the world.

Every frame carries its number, so a right timestamp on a wrong picture does not pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.tolerances import PTS_S
from tests.video.clips import KINDS, Kind, number_in
from vzvideo.errors import VideoError
from vzvideo.types import FrameBatch
from vzvideo.video import Video, open_video

# What decord cannot read rightly it refuses, see test_decord_refuses.
PAIRS = [(kind, "pyav") for kind in KINDS]
PAIRS += [(kind, "decord") for kind in KINDS if not kind.decord]


@dataclass(frozen=True)
class Clip:
    """A file and what a slow, plain decode of it from beginning to end gives."""

    kind: Kind
    path: Path
    times_s: NDArray[np.float64]
    keyframes_s: NDArray[np.float64]

    def shown_at(self, times_s: NDArray[np.float64]) -> NDArray[np.intp]:
        """Indices of the frames on show: the last that starts no later, or the nearest."""
        at = np.searchsorted(self.times_s, np.asarray(times_s) + PTS_S, "right") - 1
        return np.unique(at.clip(min=0))


def plain_decode(kind: Kind, path: Path) -> Clip:
    """The oracle. It checks on the way that the clip is what its kind says."""
    stamps, keys, numbers = [], [], []
    with av.open(str(path)) as container:
        stream = max(container.streams.video, key=lambda stream: stream.width)
        for frame in container.decode(stream):
            stamps.append(frame.time)
            keys.append(frame.key_frame)
            upright = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
            numbers.append(number_in(upright))
    assert numbers == list(kind.numbers)
    expected_s = np.array(kind.ticks) / 1000 if kind.ticks else np.arange(kind.frames) / kind.fps
    times_s = np.array(stamps) - stamps[0] if kind.stamps else expected_s
    np.testing.assert_allclose(times_s, expected_s, atol=1e-3)  # a container's coarsest tick
    return Clip(kind, path, times_s, times_s[np.array(keys)])


@pytest.fixture(scope="module")
def clip_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], Clip]:
    folder = tmp_path_factory.mktemp("clips")

    @cache
    def make(kind: Kind) -> Clip:
        path = folder / f"{kind.name}{kind.suffix}"
        kind.make(kind, path)
        return plain_decode(kind, path)

    return make


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: f"{pair[0]} {pair[1]}")
def pair(request: pytest.FixtureRequest, clip_of: Callable[[Kind], Clip]) -> tuple[Clip, str]:
    kind, decoder = request.param
    if decoder == "decord":
        pytest.importorskip("decord", reason="decord, which is optional, is not installed")
    return clip_of(kind), decoder


@pytest.fixture(scope="module")
def clip(pair: tuple[Clip, str]) -> Clip:
    return pair[0]


@pytest.fixture(scope="module")
def video(pair: tuple[Clip, str]) -> Iterator[Video]:
    """The clip, open; the tests of one clip share it, so each starts where another stopped."""
    clip, decoder = pair
    with open_video(clip.path, decoder=decoder) as video:
        yield video


def check(batch: FrameBatch, clip: Clip, times_s: NDArray[np.float64]) -> None:
    shown = clip.shown_at(times_s)
    np.testing.assert_allclose(batch.pts_s, clip.times_s[shown], rtol=0, atol=PTS_S)
    assert [number_in(frame) for frame in batch.pixels] == [clip.kind.numbers[i] for i in shown]
    assert batch.asked == len(times_s)
    assert batch.lost == 0


def test_info(video: Video, clip: Clip) -> None:
    kind, info = clip.kind, video.info
    steps = np.diff(clip.times_s)
    last_s = steps[-1] if len(steps) else 1 / kind.fps
    assert info.duration_s == pytest.approx(clip.times_s[-1] + last_s, abs=1.001 * last_s)
    assert (info.width, info.height) == kind.shown_size
    assert info.rotation == kind.rotation
    assert info.codec == kind.codec
    assert info.average_fps == pytest.approx(kind.frames / info.duration_s, rel=0.01)
    assert info.variable_rate == bool(kind.ticks)


@pytest.mark.parametrize("frames", [1, 2, 7, 200])
def test_uniform(video: Video, clip: Clip, frames: int) -> None:
    times = (np.arange(frames) + 0.5) / frames * video.info.duration_s
    check(video.frames_at(times), clip, times)


def test_every_frame_by_its_own_time(video: Video, clip: Clip) -> None:
    check(video.frames_at(clip.times_s), clip, clip.times_s)


def test_random_times(video: Video, clip: Clip) -> None:
    rng = np.random.default_rng(0)
    for count in (1, 1, 3, 20, 1, 2):  # each call begins before the one before it ended
        times = np.sort(rng.uniform(0, video.info.duration_s, count))
        check(video.frames_at(times), clip, times)


def test_going_back_one_frame_at_a_time(video: Video, clip: Clip) -> None:
    for time_s in clip.times_s[:: -max(1, clip.kind.frames // 15)]:
        check(video.frames_at([time_s]), clip, np.array([time_s]))


def test_times_in_any_order_and_twice_over(video: Video, clip: Clip) -> None:
    times = np.array([0.9, 0.1, 0.5, 0.5, 0.1, 0.1 + 1e-9]) * video.info.duration_s
    check(video.frames_at(list(times)), clip, times)


def test_times_do_not_depend_on_the_order_they_are_asked_in(pair: tuple[Clip, str]) -> None:
    """Shuffled, repeated, and to and fro: as in one pass from the start."""
    clip, decoder = pair
    rng = np.random.default_rng(1)
    times = np.concatenate([clip.times_s, rng.choice(clip.times_s, 10)])
    times = rng.permutation(times)[:60]
    with open_video(clip.path, decoder=decoder) as video:
        for time_s in times:
            check(video.frames_at([time_s]), clip, np.array([time_s]))
        for part in np.array_split(times, 4):
            check(video.frames_at(part), clip, part)
        check(video.frames_at(clip.times_s), clip, clip.times_s)


def test_times_outside_get_the_nearest_frame(video: Video, clip: Clip) -> None:
    outside = np.array([-5.0, -0.01, video.info.duration_s + 0.01, 1e30])
    for times in (outside, outside[:2], outside[2:]):
        check(video.frames_at(times), clip, times)


def test_stream_is_frames_at_in_parts(video: Video, clip: Clip) -> None:
    times = np.linspace(0, video.info.duration_s, 23)
    parts = list(video.stream(times, batch=3))
    whole = video.frames_at(times)
    assert [len(part) for part in parts[:-1]] == [3] * (len(parts) - 1)
    np.testing.assert_array_equal(np.concatenate([part.pixels for part in parts]), whole.pixels)
    np.testing.assert_array_equal(np.concatenate([part.pts_s for part in parts]), whole.pts_s)
    assert sum(part.asked for part in parts) == whole.asked == 23


def test_a_stream_may_be_left_early(video: Video, clip: Clip) -> None:
    times = np.linspace(0, video.info.duration_s, 23)
    stream = video.stream(times, batch=1)
    assert number_in(next(stream).pixels[0]) == clip.kind.numbers[0]
    stream.close()
    check(video.frames_at(times), clip, times)


def test_keyframes(video: Video, clip: Clip) -> None:
    keyframes_s = video.keyframes_s()
    if clip.kind.flags:
        np.testing.assert_allclose(keyframes_s, clip.keyframes_s, rtol=0, atol=PTS_S)
    check(video.frames_at(keyframes_s), clip, keyframes_s)


def test_differences_of_the_whole(video: Video, clip: Clip) -> None:
    times, changes = video.differences(0.0, video.info.duration_s)
    np.testing.assert_allclose(times, clip.times_s, rtol=0, atol=PTS_S)
    assert changes.dtype == np.float32
    assert changes[0] == 0
    # The number changes with every frame, and with it a block of 8 at least.
    assert (changes[1:] > 0.05).all()
    assert (changes[1:] <= 1).all()


def test_differences_of_a_part(video: Video, clip: Clip) -> None:
    start_s, end_s = 0.301 * video.info.duration_s, 0.701 * video.info.duration_s
    times, _ = video.differences(start_s, end_s)
    first = clip.shown_at(np.array([start_s]))[0]
    inside = clip.times_s[first:][clip.times_s[first:] < end_s]
    np.testing.assert_allclose(times, inside, rtol=0, atol=PTS_S)


@pytest.mark.parametrize("size", [24, 1000])
def test_size_scales_the_shortest_edge_and_never_up(pair: tuple[Clip, str], size: int) -> None:
    clip, decoder = pair
    with open_video(clip.path, decoder=decoder, size=size) as video:
        batch = video.frames_at(clip.times_s[-1:])
    width, height = clip.kind.shown_size
    short = min(width, height, size)
    scale = short / min(width, height)
    assert min(batch.pixels.shape[1:3]) == short
    assert batch.pixels.shape[1:3] == (round(height * scale), round(width * scale))
    assert number_in(batch.pixels[0]) == clip.kind.numbers[-1]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.decord.strip()], ids=str)
def test_decord_refuses(kind: Kind, clip_of: Callable[[Kind], Clip]) -> None:
    pytest.importorskip("decord", reason="decord, which is optional, is not installed")
    with pytest.raises(VideoError, match=kind.decord) as caught:
        open_video(clip_of(kind).path, decoder="decord")
    assert caught.value.code == "decoder"
