"""Clips are what they say, and readers are compared on the same frames. Never a time."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.bench import spreads
from vzvideo.bench import clips, decode
from vzvideo.bench.clips import LONG_GOP, SHORT_GOP, Clip
from vzvideo.bench.models import Setup
from vzvideo.video import open_video

PLAIN = ("sequential", "seeking")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def cells(scratch: Path) -> Any:
    return decode.measure(Setup(quick=True, scratch=scratch))["cells"]


def made(clip: Clip, scratch: Path) -> Path:
    try:
        return clips.make(clip, scratch)
    except (ValueError, av.FFmpegError) as error:
        pytest.skip(f"{clip.codec} cannot be made here: {error}")


def test_every_reader_shows_the_same_frames(cells: Any) -> None:
    assert [cell["sampling"] for cell in cells] == ["sparse", "dense"]
    for cell in cells:
        assert (cell["codec"], cell["gop"], cell["height"]) == ("h264", LONG_GOP, 360)
        assert cell["clip_bytes"] > 0
        ran = {name: each for name, each in cell["readers"].items() if "error" not in each}
        assert {"vzvideo", *PLAIN} <= ran.keys()
        for each in ran.values():
            assert each["wrong_frames"] == []
            assert each["wrong"] == 0
            assert each["cpu_s"]["low"] > 0
            assert each["peak_bytes"]["low"] >= 0
        assert cell["best"] in ran.keys() - {"vzvideo"}
        assert spreads.check(cell, 1) == 3 * len(ran) + 1


@pytest.mark.skipif(
    bool(find_spec("torchcodec")), reason="torchcodec is installed, and this is about its absence"
)
def test_a_reader_that_is_not_installed_says_so_in_one_line(cells: Any) -> None:
    for cell in cells:
        assert cell["readers"]["torchcodec"] == {
            "error": "ModuleNotFoundError: No module named 'torchcodec'"
        }


def test_a_wrong_frame_is_found_out_and_wins_nothing(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = Clip(height=144, seconds=4)
    path = clips.make(clip, scratch)

    def one_late(path: Path, clip: Clip, indices: Any) -> decode.Pictures:
        late = indices + (indices == indices[5])
        return decode._vzvideo(path, clip, late)

    monkeypatch.setattr(decode, "readers", lambda: {"one late": one_late})
    wanted = decode.frame_numbers(clip, "sparse")
    assert decode.read_once("one late", path, clip, "sparse")["wrong_frames"] == [wanted[5]]

    def once(_function: Any, name: str, *_: Any, **_options: Any) -> Any:
        run = {"cpu_s": 1.0, "peak_bytes": 1}
        match name:
            case "gone":
                raise RuntimeError("the process died")
            case "one late":
                return run | {"time_s": 1.0, "wrong_frames": [12]}
            case _:
                return run | {"time_s": 2.0 + len(name), "wrong_frames": []}

    names = ("vzvideo", "gone", "one late", "slow", "slower")
    monkeypatch.setattr(decode, "readers", lambda: dict.fromkeys(names))
    monkeypatch.setattr(decode, "in_child", once)
    cell = decode._cell(Setup(scratch=scratch), clip, "sparse")
    assert list(cell["readers"]) == list(names)
    assert cell["readers"]["gone"] == {"error": "the process died"}
    assert cell["readers"]["one late"]["wrong_frames"] == [12]
    assert cell["best"] == "slow"
    assert cell["vzvideo_to_best"]["each"] == [1.5] * decode.MOST_REPEATS


def test_what_cannot_be_made_is_an_error(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(clips._ENCODERS, "vp9", ("libnothing", {}))
    cell = decode._cell(Setup(scratch=scratch), Clip("vp9", seconds=1), "dense")
    assert cell["codec"] == "vp9"
    assert "libnothing" in cell["error"]
    assert "readers" not in cell


@pytest.mark.parametrize("gop", [SHORT_GOP, LONG_GOP])
@pytest.mark.parametrize("codec", decode.CODECS)
def test_a_clip_is_what_it_says(scratch: Path, codec: str, gop: int) -> None:
    """Every number is legible, keyframes are where they are due, and vzvideo finds every frame."""
    clip = Clip(codec, gop, height=144, seconds=11)
    path = made(clip, scratch)
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.codec.canonical_name == codec
        frames = list(container.decode(video=0))
        assert [frame.time for frame in frames] == pytest.approx(np.arange(clip.frames) / clip.fps)
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in frames[::3]])
        keys = [number for number, frame in enumerate(frames) if frame.key_frame]
    np.testing.assert_array_equal(clips.numbers(shown), range(0, clip.frames, 3))
    assert keys == list(range(0, clip.frames, gop))
    for name in ("vzvideo", "sequential"):
        for how in decode.SAMPLINGS:
            assert decode.read_once(name, path, clip, how)["wrong_frames"] == []


@pytest.mark.skipif(
    not hasattr(os, "sched_getscheduler"),
    reason="only Linux has scheduling policies that a codec could change",
)
def test_making_a_clip_leaves_the_thread_its_scheduling(tmp_path: Path) -> None:
    """SVT-AV1 takes a real-time priority, which it gets as root alone; anyone may take BATCH."""
    before = os.sched_getscheduler(0)
    another = next(each for each in (os.SCHED_BATCH, os.SCHED_OTHER) if each != before)
    with clips.scheduling_kept():
        os.sched_setscheduler(0, another, os.sched_param(0))
    assert os.sched_getscheduler(0) == before
    made(Clip("av1", height=144, seconds=1), tmp_path)
    assert os.sched_getscheduler(0) == before


def test_a_lengthened_clip_goes_on_to_its_end(scratch: Path) -> None:
    clip = Clip(height=144, seconds=4)
    path = clips.lengthened(clip, 600, scratch)
    assert clips.lengthened(clip, 600, scratch) == path
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.dts is not None]
    assert len(packets) == 600 * clip.fps
    assert (np.diff([packet.dts for packet in packets]) > 0).all()
    assert len({packet.pts for packet in packets}) == len(packets)
    with open_video(path) as video:
        assert video.info.duration_s == pytest.approx(600)
        numbers = np.array([0, 99, 100, 7523, 14_900, 14_999])
        frames = video.frames_at((numbers + 0.5) / clip.fps)
    np.testing.assert_allclose(frames.pts_s, numbers / clip.fps, atol=1e-6)
    np.testing.assert_array_equal(clips.numbers(frames.pixels), numbers % clip.frames)


def test_a_clip_that_is_costly_to_make_keeps_its_name() -> None:
    assert Clip(height=1080, seconds=600).name == "texture-1080p-600s.mp4"
    full = decode.clips(Setup())
    assert len({clip.name for clip in full}) == len(full)
    assert {clip.codec for clip in full} == set(decode.CODECS)


def test_there_is_a_hardware_column_where_there_is_hardware(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decode, "hardware", lambda: "cuda")
    assert "vzvideo, hardware" in decode.readers()
    monkeypatch.setattr(decode, "hardware", lambda: None)
    assert "vzvideo, hardware" not in decode.readers()
