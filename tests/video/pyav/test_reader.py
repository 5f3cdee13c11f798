"""What the default decoder does beside decoding: conversion by other threads, memory, facts."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.video import clips
from tests.video.clips import Kind, number_in
from vzvideo.errors import VideoError
from vzvideo.video import base as reader
from vzvideo.video import open_video
from vzvideo.video.pyav import reader as pyav_reader
from vzvideo.video.pyav.decoding import FrameDecoder
from vzvideo.video.pyav.demuxer import Demuxer
from vzvideo.video.pyav.pictures import Painter
from vzvideo.video.pyav.reader import PyAVVideo

CONVERTED = ("short GOP", "hevc", "turned 90", "odd size", "variable", "two frames")


def clip_of(name: str, folder: Path) -> tuple[Kind, Path]:
    kind = next(kind for kind in clips.KINDS if kind.name == name)
    path = folder / f"clip{kind.suffix}"
    kind.make(kind, path)
    return kind, path


def painters() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("vzvideo picture")]


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every frame counts as a large one."""
    monkeypatch.setattr(pyav_reader, "_LARGE", 0)
    yield
    assert not painters()


@pytest.mark.parametrize("name", CONVERTED)
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_what_other_threads_convert_is_the_same(
    beside: None, tmp_path: Path, name: str, batch: int
) -> None:
    _, path = clip_of(name, tmp_path)
    with open_video(path, threads=1) as alone, open_video(path, threads=4) as shared:
        times = np.linspace(0, alone.info.duration_s, 40)
        expected = list(alone.stream(times, batch))
        assert not painters()
        found = list(shared.stream(times, batch))
        assert painters()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        np.testing.assert_array_equal(one.pts_s, other.pts_s)
        assert (one.asked, one.lost) == (other.asked, other.lost)


def test_differences_may_follow_at_once(beside: None, tmp_path: Path) -> None:
    _, path = clip_of("short GOP", tmp_path)
    with open_video(path, threads=4) as video:
        expected = video.differences(0.0, 1.0)
        for _ in range(20):
            next(video.stream(np.array([0.0, 0.1, 0.2]), batch=1))
            found = video.differences(0.0, 1.0)
            np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("threads", [1, 4])
def test_a_frame_that_cannot_be_converted_is_one_line(
    beside: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    _, path = clip_of("short GOP", tmp_path)

    def fail(*_: Any) -> Any:
        raise ValueError("no way from there")

    monkeypatch.setattr(Painter, "paint", fail)
    with (
        open_video(path, threads=threads) as video,
        pytest.raises(VideoError, match=r"a frame cannot be converted \(no way from there\)"),
    ):
        video.frames_at([0.0, 0.5, 1.0])


@pytest.mark.parametrize("threads", [1, 4])
def test_a_video_closed_in_the_middle_says_so(beside: None, tmp_path: Path, threads: int) -> None:
    _, path = clip_of("short GOP", tmp_path)
    video = open_video(path, threads=threads)
    batches = video.stream(np.arange(0, 2, 0.1), batch=3)
    assert len(next(batches).pixels) == 3
    video.close()
    assert not painters()
    with pytest.raises(VideoError, match="has been closed"):
        next(batches)


@pytest.mark.parametrize("name", ["short GOP", "hevc"])
def test_a_seek_decodes_from_the_keyframe_before_and_no_further_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Also where it ends at the keyframe behind, as in HEVC, whose groups are open."""
    # With keyframes closer together than a step back by guess would go.
    kind = replace(next(kind for kind in clips.KINDS if kind.name == name), fps=50)
    path = tmp_path / f"clip{kind.suffix}"
    kind.make(kind, path)
    decoded = [0]
    stamped = FrameDecoder._stamped

    def counted(self: FrameDecoder, *arguments: Any) -> Iterator[Any]:
        for frame in stamped(self, *arguments):
            decoded[-1] += 1
            yield frame

    monkeypatch.setattr(FrameDecoder, "_stamped", counted)
    with open_video(path, threads=1) as video:
        assert isinstance(video, PyAVVideo)
        keyframes = np.round(video.keyframes_s() * kind.fps).astype(int)
        assert len(keyframes) > 3
        for wanted in range(kind.frames - 1, keyframes[1], -1):  # so that each is a seek
            decoded.append(0)
            frames = video.frames_at([wanted / kind.fps])
            assert number_in(frames.pixels[0]) == kind.numbers[wanted]
            before = keyframes[keyframes <= wanted][-1]
            # And the one behind, that tells which is on show; and the next, which tells of that.
            assert decoded[-1] <= wanted - before + 3


@pytest.mark.parametrize(
    "name", ["short GOP.mp4", "late.mp4", "hevc.mp4", "hevc.ts", "29.97.mkv", "vp9.webm"]
)
def test_going_back_to_the_beginning_is_a_seek_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kind = next(kind for kind in clips.KINDS if str(kind) == name)
    path = tmp_path / name
    kind.make(kind, path)
    with open_video(path, threads=1) as video:
        assert isinstance(video, PyAVVideo)
        late_s = (kind.frames - 0.5) / kind.fps
        if kind.suffix != ".ts":  # where a seek to the beginning ends behind it
            monkeypatch.setattr(video._demuxer, "connect", None)  # it is open already
        for time_s, wanted in ((late_s, kind.frames - 1), (0.0, 0), (late_s, kind.frames - 1)):
            frames = video.frames_at([time_s])
            assert number_in(frames.pixels[0]) == kind.numbers[wanted]
        assert video._seekable


def test_many_times_of_few_frames_take_no_more_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, path = clip_of("short GOP", tmp_path)
    with open_video(path) as video:
        expected = video.frames_at(np.arange(kind.frames) / kind.fps)
        found = video.frames_at(np.linspace(0, kind.frames / kind.fps, 3_000_000))
        np.testing.assert_array_equal(found.pixels, expected.pixels)
        monkeypatch.setattr(reader, "_ROOM_BYTES", 0)  # so that it has to grow, again and again
        found = video.frames_at(np.arange(kind.frames) / kind.fps)
        np.testing.assert_array_equal(found.pixels, expected.pixels)


def test_facts_are_those_of_the_file_that_was_opened(tmp_path: Path) -> None:
    kind, path = clip_of("short GOP", tmp_path)
    with open_video(path) as video:
        video.close()
        assert video.info.duration_s == pytest.approx(kind.frames / kind.fps)  # still known
    video = open_video(path)
    clip_of("two frames", tmp_path)[1].replace(path)
    with pytest.raises(VideoError, match="changed while it was being read"):
        _ = video.info
    video.close()


def test_what_was_passed_over_before_an_error_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = next(kind for kind in clips.KINDS if kind.name == "one GOP")
    path = tmp_path / f"clip{kind.suffix}"
    kind.make(kind, path)
    packets = Demuxer.packets

    def troubled(self: Demuxer, *arguments: Any) -> Iterator[Any]:
        yield from itertools.islice(packets(self, *arguments), 20)
        yield None
        raise VideoError("gone for a moment", code="unreadable")

    monkeypatch.setattr(Demuxer, "packets", troubled)
    with open_video(path, threads=1) as video:
        with pytest.raises(VideoError, match="gone for a moment"):
            video.frames_at([0.0, 3.5])
        monkeypatch.undo()
        video._seekable = False  # type: ignore[attr-defined]  # so that it begins anew
        assert video.frames_at([0.0]).lost == 1
