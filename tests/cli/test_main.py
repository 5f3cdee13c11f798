"""What all commands share: refusals in one line, statuses, signals, and what help costs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

import vzvideo
from tests.cli.command import OTHER, QUESTION, SMALL, Command, Said, imported_by, process
from tests.video import clips
from vzvideo.cli import main as cli
from vzvideo.errors import VideoError

# -- what goes wrong


REFUSED = {
    "no file": ("none.mp4", "none.mp4: no such file"),
    "a folder": ("{folder}", "a folder; give a video file"),
    "no video": ("{folder}/text.mp4", "not a video"),
    "no tokens": ("{folder}/cut.safetensors", "encode the video again"),
    "model": (
        "{clip} --model minni",
        "video-llava-7b, auto, a hub id (owner/name) or a checkpoint folder",
    ),
    "nearest model": ("{clip} --model minni", "Did you mean mini?"),
    "no start": ("{clip} --start soon", "give seconds, or m:s, or h:m:s"),
    "late start": ("{clip} --start 1:00", "the clip from 60 s to the end"),
    "later start": ("{clip} --start 1:01:01.5", "the clip from 3661.5 s to the end"),
    "latest start": ("{clip} --start 1.6", "choose a start from 0 to below 1.6"),
    "end before start": ("{clip} --start 1 --end 0.5", "choose an end after its start"),
    "negative start": ("{clip} --start -3", "the clip from -3 s to the end"),
    "no end": ("{clip} --end nan", "the clip from 0 s to nan s"),
    "0 frames": ("{clip} --frames 0", "frames: 0 given"),
    "-1 frames": ("{clip} --frames -1", "frames: -1 given"),
    "absurd frames": ("{clip} --frames 1000000", "frames: 1000000 given"),
    "more than a frame has": ("{clip} --tokens-per-frame 18", "a frame of this model has 17"),
    "no room": ("{clip} --frames 300", "what would fit: 21 frames at 17 tokens each"),
    "sampling": ("{clip} --sampling random", "'uniform' or 'fps' or 'keyframes' or 'scenes'"),
    "fps": ("{clip} --fps 0", "a number above 0 is needed"),
    "dominant": ("{clip} --dominant 3", "give both or neither"),
    "two splits": ("{clip} --tokens-per-frame 9 --dominant 5 --contextual 5", "are 10 tokens"),
    "merge": ("{clip} --merge sum", "'reference' or 'mean'"),
    "whole and merged": ("{clip} --no-compress --merge mean", "nothing is merged"),
    "whole and 9": ("{clip} --no-compress --tokens-per-frame 9", "keeps every token"),
    "a rate for another": ("{clip} --fps 2 --sampling uniform", "--fps is for sampling fps"),
    "device": ("{clip} --device tpu", "choose auto, cpu, cuda or mps"),
    "config": ("{clip} --config {folder}/bad.yaml", "did you mean 'frames'?"),
    "no config": ("{clip} --config {folder}/no.yaml", "No such file or directory"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_is_one_line(
    vz: Command, checkpoint: Path, clip: Path, tmp_path: Path, case: str
) -> None:
    (tmp_path / "text.mp4").write_text("once upon a time, there was a text file")
    (tmp_path / "bad.yaml").write_text("frame: 8\n")
    (tmp_path / "cut.safetensors").write_bytes(b"cut")
    template, told = REFUSED[case]
    video, *options = template.format(clip=clip, folder=tmp_path).split()
    said = vz("ask", video, QUESTION, "--model", checkpoint, *options)
    assert (said.status, said.out) == (1, "")
    assert said.line.startswith("vzvideo: ")
    assert told in said.line


def test_a_second_video_is_no_question(vz: Command, checkpoint: Path, clip: Path) -> None:
    said = vz("ask", clip, QUESTION, clip, "--model", checkpoint, *SMALL)
    assert (
        said.line == f"vzvideo: {clip}: is a file, no question; videos stand before the questions"
    )


def test_a_split_may_be_said_with_its_sum(vz: Command, checkpoint: Path, clip: Path) -> None:
    split = ("--dominant", "3", "--contextual", "2")
    said = vz("ask", clip, QUESTION, "--json", "--model", checkpoint, *SMALL, *split)
    assert said.objects[0]["tokens"] == 20


@pytest.mark.parametrize(
    ("arguments", "stage", "error"),
    [
        (["none.mp4"], "decode", "not_found"),
        (["{clip}", "--model", "minni"], "load", "unknown_model"),
        (["{clip}", "--device", "tpu"], "load", "device"),
        (["{clip}", "--start", "60"], "decode", "clip"),
        (["{clip}", "--frames", "300"], "encode", "budget"),
    ],
)
def test_a_failure_is_json_too_one_for_each_question(
    vz: Command, checkpoint: Path, clip: Path, arguments: list[str], stage: str, error: str
) -> None:
    video, *options = [text.format(clip=clip) for text in arguments]
    said = vz("ask", video, QUESTION, OTHER, "--json", "--model", checkpoint, *options)
    assert said.status == 1
    for about, question in zip(said.objects, (QUESTION, OTHER), strict=True):
        assert list(about) == ["question", "source", "stage", "error", "message"]
        assert (about["question"], about["source"]) == (question, video)
        assert (about["stage"], about["error"]) == (stage, error)
        assert said.line == f"vzvideo: {about['message']}"


@pytest.mark.parametrize(
    "arguments",
    [["ask", "clip.mp4"], ["ask", "clip.mp4", "What?", "--frames", "many"], ["answer"], ["--nope"]],
)
def test_a_wrong_command_line_is_told_with_status_2(vz: Command, arguments: list[str]) -> None:
    said = vz(*arguments)
    assert (said.status, said.out) == (2, "")
    assert "Usage:" in said.err
    assert "Traceback" not in said.err


def test_help_and_version(vz: Command) -> None:
    assert vz("--version") == Said(0, f"{vzvideo.__version__}\n", "")
    for arguments in (
        ["--help"],
        ["ask", "--help"],
        ["ask", "-h"],
        ["chat", "--help"],
        ["encode", "--help"],
    ):
        said = vz(*arguments)
        assert (said.status, said.err) == (0, "")
        assert "Usage:" in said.out


def test_debug_shows_the_traceback(vz: Command) -> None:
    said = process("ask", "none.mp4", QUESTION, "--debug")
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("Traceback")
    assert said.err.splitlines()[-1].endswith("VideoError: none.mp4: no such file")
    with pytest.raises(VideoError, match=r"none\.mp4"):
        cli.main(["--debug", "ask", "none.mp4", QUESTION])


def test_what_nobody_expected_says_that_it_is_a_bug(
    vz: Command, checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("one line\nand another")

    monkeypatch.setattr(vzvideo.qa.loading, "load", fails)
    said = vz("ask", clip, QUESTION, "--model", checkpoint)
    assert said.status == 1
    assert said.line == (
        "vzvideo: unexpected ZeroDivisionError: one line and another; this is a bug: run it again "
        "with --debug and report what it prints"
    )


def test_too_little_memory_is_no_bug(
    vz: Command, checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vzvideo.qa.loading, "load", lambda *_, **__: torch.empty(1 << 60))
    said = vz("ask", clip, QUESTION, "--model", checkpoint)
    assert said.status == 1
    assert said.line.startswith("vzvideo: out of memory: choose fewer --frames")


# -- as a process


def test_heavy_imports_wait_until_they_are_needed() -> None:
    """What keeps `--help` under half a second, and a mistyped name from costing five."""
    heavy = {"torch", "transformers", "av", "numpy", "yaml", "huggingface_hub"}
    assert not imported_by("import vzvideo.cli.main") & heavy
    mistyped = (
        "from vzvideo.cli import main\n"
        "try: main.main(['ask', 'none.mp4', 'What?'])\n"
        "except SystemExit: pass"
    )
    assert not imported_by(mistyped) & {"torch", "transformers", "av"}


def test_a_reader_that_has_gone_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "vzvideo", "models", "--json"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


class Trickle(BaseHTTPRequestHandler):
    """Sends a video so slowly that there is time to interrupt whoever reads it."""

    content: bytes
    far: threading.Event

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            for start in range(0, len(self.content), 512):
                self.wfile.write(self.content[start : start + 512])
                if start > len(self.content) // 3:
                    self.far.set()
                    time.sleep(0.02)
        except OSError:
            pass

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def trickle(tmp_path: Path) -> Iterator[tuple[str, threading.Event]]:
    """The address of a slow video, and what tells that a third of it has been read."""
    kind = clips.Kind("long", ".mkv", frames=1000, size=(128, 96), mux={"live": "1"})
    kind.make(kind, tmp_path / "long.mkv")
    far = threading.Event()
    handler = type("Handler", (Trickle,), {"content": (tmp_path / "long.mkv").read_bytes()})
    handler.far = far
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/long.mkv", far
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("sent", "status", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_an_interruption_leaves_nothing_behind(
    checkpoint: Path,
    trickle: tuple[str, threading.Event],
    tmp_path: Path,
    sent: signal.Signals,
    status: int,
    word: str,
) -> None:
    url, far = trickle
    (tmp_path / "work").mkdir()
    command = [sys.executable, "-m", "vzvideo", "encode", url, "--model", str(checkpoint)]
    running = subprocess.Popen(
        [*command, *SMALL[:4], "--sampling", "scenes"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path / "work",
        env=os.environ
        | {"VZVIDEO_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "work")},
    )
    assert far.wait(120)
    running.send_signal(sent)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (status, "")
    assert err == f"vzvideo: {word}\n"
    assert list((tmp_path / "work").iterdir()) == []
    assert not (tmp_path / "cache").exists()
