"""Stretches of a file read by several readers at once: as if one had read them all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.video.clips import KINDS
from tests.video.test_trouble import damaged_packet
from tests.waiting import SLACK_S
from vzvideo.errors import VideoError
from vzvideo.types import FrameBatch
from vzvideo.video import open_video
from vzvideo.video.pyav import reader as pyav_reader
from vzvideo.video.pyav.decoding import FrameDecoder
from vzvideo.video.pyav.reader import PyAVVideo

FRAMES = 160  # of a clip, 16 s
# Two times of each stretch, a keyframe or more between one and the next.
FAR_APART = np.sort(np.concatenate([np.arange(0.1, 15.6, 2.2), np.arange(0.2, 15.7, 2.2)]))
STRETCHES = 8


def readers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("vzvideo reader")]


@pytest.fixture(autouse=True)
def none_left() -> Iterator[None]:
    before = readers()
    yield
    assert readers() == before


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written("short GOP", tmp_path)


def written(name: str, folder: Path) -> Path:
    """A clip whose index tells its keyframes."""
    kind = next(kind for kind in KINDS if (kind.name, kind.suffix) == (name, ".mp4"))
    path = folder / "clip.mp4"
    kind.make(replace(kind, frames=FRAMES), path)
    return path


def streamed(path: Path, threads: int, batch: int = 3) -> tuple[list[FrameBatch], int]:
    """What is shown at times far apart, and how many readers of a relay were at it."""
    with open_video(path, threads=threads) as video:
        assert isinstance(video, PyAVVideo)
        batches = video.stream(FAR_APART, batch)
        found = [next(batches)]
        relays = list(video._relays)
        found += batches
        return found, sum(relay.opened for relay in relays)


def assert_same(found: list[FrameBatch], expected: list[FrameBatch]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        np.testing.assert_array_equal(one.pts_s, other.pts_s)
        assert (one.asked, one.lost) == (other.asked, other.lost)


@pytest.mark.parametrize(
    "name", ["short GOP", "open GOP", "hevc", "av1", "turned 90", "10 bit", "late"]
)
@pytest.mark.parametrize(("threads", "several"), [(2, 2), (3, 3), (64, STRETCHES // 2)])
def test_it_shows_what_one_reader_shows(
    tmp_path: Path, name: str, threads: int, several: int
) -> None:
    path = written(name, tmp_path)
    expected, none = streamed(path, 1)
    found, opened = streamed(path, threads)
    assert (none, opened) == (0, several)
    assert_same(found, expected)
    with open_video(path, threads=threads) as video:
        (whole,) = video.stream(FAR_APART, 1000)
    np.testing.assert_array_equal(whole.pixels, np.concatenate([part.pixels for part in expected]))


@pytest.mark.parametrize("which", [0, 1, 2, 23, 24, 138])
def test_damage_is_counted_once(path: Path, which: int) -> None:
    path.write_bytes(damaged_packet(path, which))
    found, opened = streamed(path, 2)
    assert opened == 2
    assert_same(found, streamed(path, 1)[0])
    assert (sum(batch.lost for batch in found) > 0) == (
        which < 138
    )  # nobody asks for what depends on it


@pytest.mark.parametrize(
    "times", [np.arange(0, 6, 0.1), np.array([0.5, 5.5]), np.array([]), np.array([3.0])]
)
def test_what_lies_close_or_is_little_takes_one_reader(
    path: Path, monkeypatch: pytest.MonkeyPatch, times: np.ndarray
) -> None:
    monkeypatch.setattr(pyav_reader, "Relay", None)  # which cannot be called
    with open_video(path, threads=4) as video:
        assert sum(len(batch.pts_s) for batch in video.stream(times)) == len(times)


def test_too_many_pictures_of_a_stretch_take_one_reader(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyav_reader, "_STRETCH_BYTES", 64 * 48 * 3)  # one
    assert streamed(path, 4)[1] == 0
    monkeypatch.setattr(pyav_reader, "_STRETCH_BYTES", 64 * 48 * 3 * 2)
    assert streamed(path, 4)[1] == 4


@pytest.mark.parametrize("name", ["h264.avi", "29.97.mkv", "open GOP.ts"])
def test_a_file_that_does_not_tell_its_keyframes_takes_one_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(pyav_reader, "Relay", None)  # which cannot be called
    kind = next(kind for kind in KINDS if f"{kind.name}{kind.suffix}" == name)
    kind.make(replace(kind, frames=FRAMES), tmp_path / name)
    with open_video(tmp_path / name, threads=4) as video:
        assert sum(len(batch.pts_s) for batch in video.stream(FAR_APART)) > 5


def test_readers_are_at_work_at_the_same_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown_at = PyAVVideo._shown_at
    together = threading.Barrier(2, timeout=SLACK_S)

    def waiting(self: PyAVVideo, time_s: float) -> object:
        if time_s in (FAR_APART[0], FAR_APART[2]):  # each the first of a stretch
            together.wait()
        return shown_at(self, time_s)

    monkeypatch.setattr(PyAVVideo, "_shown_at", waiting)
    with open_video(path, threads=2) as video:
        assert len(list(video.stream(FAR_APART, 1))) == len(FAR_APART)


def test_negative_times_mean_the_first_frame(path: Path) -> None:
    path.write_bytes(damaged_packet(path, 1))
    times = np.concatenate([[-9.0, -4.0], FAR_APART])
    found = []
    for threads in (1, 2):
        with open_video(path, threads=threads) as video:
            found.append(video.frames_at(times))
    assert_same(found[:1], found[1:])


def test_times_may_be_a_list(path: Path) -> None:
    with open_video(path, threads=2) as video:
        (found,) = video.stream(FAR_APART.tolist(), 100)  # type: ignore[arg-type]
    assert found.pts_s == pytest.approx(FAR_APART)


def test_who_leaves_early_leaves_no_readers_behind(path: Path) -> None:
    with open_video(path, threads=2) as video:
        batches = video.stream(FAR_APART, 1)
        next(batches)
        assert readers()
        batches.close()
        assert not readers()
        assert len(video.frames_at([0.5]).pts_s) == 1


def test_a_video_closed_meanwhile_says_so_and_holds_nothing(path: Path) -> None:
    video = open_video(path, threads=2)
    batches = video.stream(FAR_APART, 3)  # of two stretches, so both readers were at it
    next(batches)
    assert held(path) == 3  # the video and two readers
    video.close()
    video.close()
    assert not readers()
    assert held(path) == 0
    with pytest.raises(VideoError, match="has been closed"):
        next(batches)


def held(path: Path) -> int:
    """How often this process holds a file open."""
    return sum(Path(file.path) == path.resolve() for file in psutil.Process().open_files())


def test_a_reader_that_cannot_open_says_why_and_holds_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_video(path, threads=2) as video:
        monkeypatch.setattr(FrameDecoder, "frames", unreadable)
        with pytest.raises(VideoError, match="no way"):
            next(video.stream(FAR_APART, 1))
        assert held(path) == 1


def unreadable(*_: object, **__: object) -> None:
    raise VideoError("no way", code="invalid")


def test_a_file_that_goes_away_is_a_changed_one(path: Path) -> None:
    with open_video(path, threads=2) as video:
        batches = video.stream(FAR_APART, 1)
        path.unlink()
        with pytest.raises(VideoError) as caught:
            list(batches)
    assert caught.value.code == "changed"


@pytest.mark.parametrize("threads", [1, 2])
def test_what_a_reader_stumbles_over_comes_in_its_place(
    path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    shown_at = PyAVVideo._shown_at

    def stumbling(self: PyAVVideo, time_s: float) -> object:
        if time_s == FAR_APART[6]:
            raise VideoError("no way", code="invalid")
        return shown_at(self, time_s)

    monkeypatch.setattr(PyAVVideo, "_shown_at", stumbling)
    with open_video(path, threads=threads) as video:
        batches = video.stream(FAR_APART, 1)
        for time_s in FAR_APART[:5]:
            assert next(batches).pts_s == pytest.approx(time_s)
        with pytest.raises(VideoError, match="no way"):
            list(batches)


def test_av1_is_read_from_its_beginning_as_from_a_keyframe(tmp_path: Path) -> None:
    """A decoder that is opened while frames are left out would leave them out for ever."""
    with open_video(written("av1", tmp_path), threads=1) as video:
        assert isinstance(video, PyAVVideo)
        for time_s in np.arange(0.05, 1.0, 0.1):
            video._open()
            assert video.frames_at([time_s]).pts_s == pytest.approx(time_s - 0.05)
