"""The child that decord lives in: it answers in time or it is gone, and it stays small."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.video.clips import KINDS, Kind, number_in
from vzvideo.errors import VideoError
from vzvideo.video import Video, open_video

pytest.importorskip("decord", reason="decord, which is optional, is not installed")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    kind = next(kind for kind in KINDS if str(kind) == "short GOP.mp4")
    kind.make(kind, tmp_path / "clip.mp4")
    return tmp_path / "clip.mp4"


@pytest.fixture
def video(path: Path) -> Iterator[Video]:
    with open_video(path, decoder="decord", deadline_s=20) as video:
        yield video


def child() -> psutil.Process:
    (only,) = [
        process
        for process in psutil.Process().children()
        if "vzvideo.video.decord" in process.cmdline()
    ]
    return only


def test_closing_ends_the_child(video: Video) -> None:
    process = child()
    video.close()
    assert not process.is_running()
    video.close()  # a second time does no harm
    with pytest.raises(VideoError, match="closed"):
        video.frames_at([0])


def test_a_child_that_hangs_is_ended(path: Path) -> None:
    with open_video(path, decoder="decord", deadline_s=3) as video:
        process = child()
        process.suspend()
        began = time.monotonic()
        with pytest.raises(VideoError, match="no answer from decord") as caught:
            video.frames_at([0])
        assert caught.value.code == "deadline"
        assert time.monotonic() - began < 10
        assert not process.is_running()


def test_a_child_that_dies_is_noticed(video: Video) -> None:
    stream = video.stream(video.keyframes_s(), batch=1)
    next(stream)
    child().kill()
    with pytest.raises(VideoError, match="decord died") as caught:
        list(stream)
    assert caught.value.code == "decoder"


def test_a_file_that_changes_is_noticed(video: Video, path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(VideoError) as caught:
        video.frames_at([0])
    assert caught.value.code == "changed"


def test_a_child_needs_neither_torch_nor_typer_nor_pyav() -> None:
    code = """if 1:
        import runpy, sys
        runpy.run_module("vzvideo.video.decord", run_name="__main__", alter_sys=True)
        heavy = {"torch", "typer", "av", "transformers"} & set(sys.modules)
        sys.exit(f"loaded: {heavy}" if heavy or "decord" not in sys.modules else 0)
    """
    done = subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 0


def test_without_decord_the_message_says_how_to_get_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vzvideo.video.decord.find_spec", lambda name: None)
    with pytest.raises(VideoError, match=r"pip install 'vzvideo\[decord\]'"):
        open_video(path, decoder="decord")


def test_what_needs_more_than_scaling_is_refused_unless_that_is_switched_off(
    tmp_path: Path,
) -> None:
    kind = Kind("woven", ".mkv", frames=10, options={"x264-params": "interlaced=1:bframes=0"})
    path = tmp_path / "woven.mkv"
    kind.make(kind, path)
    with pytest.raises(VideoError, match="interlaced"):
        open_video(path, decoder="decord")
    with open_video(path, decoder="decord", deinterlace=False) as video:
        assert [number_in(frame) for frame in video.frames_at([0.0, 0.5]).pixels] == [0, 5]
