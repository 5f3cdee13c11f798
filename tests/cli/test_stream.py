"""`vzvideo watch` as a user meets it: answers on stdout, facts on stderr, a true status."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import vzvideo
from tests.cli.command import OTHER, QUESTION, Command, Said
from tests.conftest import small_model, write_checkpoint
from tests.video import clips

SMALL = ["--tokens-per-frame", "5", "--max-new-tokens", "6", "--device", "cpu"]
FAST = [*SMALL, "--speed", "max"]
ANSWER = [
    *("answer", "question", "source", "model", "frame_times_s", "tokens_before", "tokens"),
    *("seconds", "cached", "yes_probability", "time_s", "cropped", "stats"),
]
SLACK_S = 60.0  # for a process, on a busy machine
SUMMARY = r"(\d+) frames in, (\d+) showed nothing new, (\d+) encoded; (\d+) tokens for 0:\d\d"
CROPPED = "; 25 % of each frame cropped"  # of 64 x 48 pixels


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute, at one frame a second."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    kind = clips.Kind("long", ".mp4", frames=60, fps=1.0)
    kind.make(kind, path)
    return path


def summary(said: Said) -> list[int]:
    """What the last line on stderr counts."""
    found = re.fullmatch(SUMMARY + CROPPED, said.err.splitlines()[-1])
    assert found, said.err
    return [int(number) for number in found.groups()]


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def watched(*arguments: object, stdin: bytes = b"") -> Said:
    """As a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "vzvideo", "watch", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        check=False,
        timeout=SLACK_S,
    )
    return Said(done.returncode, done.stdout.decode(), done.stderr.decode())


@contextmanager
def watching(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that goes on; its standard input stays open."""
    running = subprocess.Popen(
        [sys.executable, "-m", "vzvideo", "watch", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def stopped(running: subprocess.Popen[str], number: int) -> Said:
    running.send_signal(number)
    status = running.wait(SLACK_S)
    assert running.stdout is not None
    assert running.stderr is not None
    return Said(status, running.stdout.read(), running.stderr.read())


# -- asking again and again


def test_answers_come_again_and_again_until_the_file_ends(
    vz: Command, checkpoint: Path, clip: Path
) -> None:
    options = ("--fps", "25", "--every", "0.5", "--model", checkpoint, *FAST)
    said = vz("watch", clip, "--ask", QUESTION, *options)
    assert said.status == 0, said.err
    assert all(re.match(r"\[0:0[01]\] ", line) for line in re.split(r"\n(?=\[0:)", said.out))
    assert summary(said) == [40, 0, 40, 200]


def test_json_is_one_object_a_line(vz: Command, checkpoint: Path, clip: Path) -> None:
    options = ("--fps", "25", "--every", "0.5", "--model", checkpoint, *FAST)
    said = vz("watch", clip, "--ask", QUESTION, "--json", *options)
    assert said.status == 0, said.err
    assert 1 <= len(said.objects) <= 4
    for about in said.objects:
        assert list(about) == ANSWER
        assert (about["question"], about["source"]) == (QUESTION, str(clip))
        times = about["frame_times_s"]
        assert times[-1] <= about["time_s"]
        assert times[0] >= times[-1] - 0.5 - 1e-6
        stats = about["stats"]
        assert stats["frames_in"] == sum(stats[n] for n in ("encoded", "skipped", "waiting"))
    assert said.objects[-1]["time_s"] == said.objects[-1]["frame_times_s"][-1] == 1.56


def test_the_answer_is_that_of_the_library(vz: Command, checkpoint: Path, long: Path) -> None:
    options = ("--every", "100", "--since", "0", "--budget", "60", "--model", checkpoint, *FAST)
    said = vz("watch", long, "--ask", QUESTION, "--json", *options)
    assert said.status == 0, said.err
    (about,) = said.objects
    qa = vzvideo.load(str(checkpoint), cache=False, tokens_per_frame=5, max_new_tokens=6)
    with qa.stream(budget=60) as stream:
        stream.attach(long)
        assert stream.wait(SLACK_S)
        answer = stream.ask(QUESTION)
    assert (about["answer"], about["frame_times_s"]) == (answer.text, answer.frame_times_s)
    assert about["stats"]["tokens"] == answer.tokens <= 60
    assert about["stats"]["encoded"] == 60


def test_several_questions_stand_with_their_answers(
    vz: Command, checkpoint: Path, clip: Path
) -> None:
    watch = ("watch", clip, "--ask", QUESTION, "--ask", OTHER, "--model", checkpoint, *FAST)
    said = vz(*watch, "--json")
    assert [about["question"] for about in said.objects] == [QUESTION, OTHER]
    plain = vz(*watch)
    assert f"] {QUESTION} {said.objects[0]['answer']}\n" in plain.out
    assert f"] {OTHER} {said.objects[1]['answer']}\n" in plain.out


@pytest.mark.parametrize(("since", "least_s"), [("0", 0.0), ("10", 49.0), (None, 54.0)])
def test_since_says_how_far_back_to_look(
    vz: Command, checkpoint: Path, long: Path, since: str | None, least_s: float
) -> None:
    look = [] if since is None else ["--since", since]
    options = ("--every", "100", *look, "--model", checkpoint, *FAST)
    if since is None:
        options = ("--every", "5", *options[2:])
    said = vz("watch", long, "--ask", QUESTION, "--json", *options)
    assert said.status == 0, said.err
    times = said.objects[-1]["frame_times_s"]
    assert (times[0], times[-1]) == (least_s, 59.0)


def test_a_video_shorter_than_all_intervals_gets_its_answer(
    vz: Command, checkpoint: Path, tmp_path: Path
) -> None:
    blink = tmp_path / "blink.mp4"
    kind = clips.Kind("blink", ".mp4", frames=5)
    kind.make(kind, blink)
    said = vz("watch", blink, "--ask", QUESTION, "--json", "--model", checkpoint, *FAST)
    assert (said.status, len(said.objects)) == (0, 1), said.err


def test_a_file_plays_in_real_time_unless_told_otherwise(
    vz: Command, checkpoint: Path, clip: Path
) -> None:
    """Two answers on the way, at the least, and none has seen what came later."""
    options = ("--fps", "25", "--every", "0.5", "--model", checkpoint, *SMALL)
    said = vz("watch", clip, "--ask", QUESTION, "--json", *options)
    assert said.status == 0, said.err
    assert len(said.objects) >= 2
    assert said.objects[0]["time_s"] < 1.5


def test_no_change_is_said_to_be_none(vz: Command, checkpoint: Path, clip: Path) -> None:
    options = ("--fps", "25", "--tolerance", "1", "--model", checkpoint, *FAST)
    said = vz("watch", clip, "--ask", QUESTION, *options)
    assert summary(said) == [40, 39, 1, 5]


def test_standard_input_is_a_source(checkpoint: Path, clip: Path, tmp_path: Path) -> None:
    kind = clips.Kind("piped", ".ts", frames=30, fps=25)
    kind.make(kind, tmp_path / "piped.ts")
    video = (tmp_path / "piped.ts").read_bytes()
    options = ("--fps", "25", "--json", "--model", checkpoint, *SMALL)
    said = watched("-", "--ask", QUESTION, *options, stdin=video)
    assert said.status == 0, said.err
    assert said.objects[-1]["source"] == "-"
    assert said.objects[-1]["stats"]["frames_in"] == 30


# -- typed questions


def test_what_is_typed_is_answered(
    vz: Command, checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, f"{QUESTION}\n\n  {OTHER}  ")
    said = vz("watch", clip, "--json", "--model", checkpoint, *FAST)
    assert said.status == 0, said.err
    assert [about["question"] for about in said.objects] == [QUESTION, OTHER]
    assert [list(about) for about in said.objects] == [ANSWER, ANSWER]


def test_one_bad_question_ends_nothing(
    vz: Command, checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, f"What is <video>?\n{OTHER}\n")
    said = vz("watch", clip, "--json", "--model", checkpoint, *FAST)
    assert [about["question"] for about in said.objects] == [OTHER]
    assert "vzvideo: the question contains" in said.err


def test_without_questions_it_watches_to_the_end(
    vz: Command, checkpoint: Path, long: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, "")
    state = tmp_path / "state"
    said = vz("watch", long, "--state", state, "--model", checkpoint, *FAST)
    assert (said.status, said.out) == (0, "")
    assert summary(said)[:3] == [60, 0, 60]
    assert state.exists()


# -- state


def test_what_was_seen_is_kept_and_gone_on_from(
    vz: Command, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    state = tmp_path / "watched.safetensors"
    options = ("--fps", "25", "--since", "0", "--json", "--model", checkpoint, *FAST)
    watch = ("watch", clip, "--ask", QUESTION, *options, "--state", state)
    first, second = vz(*watch), vz(*watch)
    assert (first.status, second.status) == (0, 0), first.err + second.err
    assert first.objects[-1]["stats"]["frames_in"] == 40
    assert second.objects[-1]["stats"]["frames_in"] == 80
    assert second.objects[-1]["frame_times_s"][0] == 0.0
    assert second.objects[-1]["time_s"] == pytest.approx(2 * 1.56 + 0.04)
    said = vz("ask", state, QUESTION, "--json", "--model", checkpoint, "--max-new-tokens", "6")
    assert said.status == 0, said.err
    assert said.objects[0]["tokens"] == second.objects[-1]["stats"]["tokens"]


def test_a_state_that_does_not_fit_is_refused_and_stays(
    vz: Command, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    state, film = tmp_path / "state", tmp_path / "film.mp4"
    film.write_bytes(clip.read_bytes())
    watch = ("watch", clip, "--ask", QUESTION, *FAST)
    assert vz(*watch, "--model", checkpoint, "--state", state).status == 0
    kept = state.read_bytes()
    other = write_checkpoint(tmp_path / "other", small_model(seed=1))
    for model, target, more, told in (
        (other, state, [], "saved with"),
        (checkpoint, state, ["--tokens-per-frame", "9"], "saved with dominant"),
        (checkpoint, film, [], "not a file of visual tokens"),
        (checkpoint, tmp_path, [], "not a file of visual tokens"),
        (checkpoint, tmp_path / "none" / "state", [], "there is no folder"),
    ):
        said = vz(*watch, *more, "--model", model, "--state", target)
        assert (said.status, said.out) == (1, "")
        assert told in said.line
    assert state.read_bytes() == kept
    assert film.read_bytes() == clip.read_bytes()


def test_what_stops_it_saves_the_state(checkpoint: Path, long: Path, tmp_path: Path) -> None:
    """A service with a question of its own, and somebody who types and presses Ctrl-C."""
    states = [tmp_path / "service", tmp_path / "person"]
    options = ("--speed", "4", "--json", "--model", checkpoint, *SMALL, "--state")
    asking = (long, "--ask", QUESTION, "--every", "1", *options, states[0])
    with watching(*asking) as service, watching(long, *options, states[1]) as person:
        assert person.stdin is not None
        person.stdin.write(QUESTION + "\n")
        person.stdin.flush()
        for running, number, state in zip(
            (service, person), (signal.SIGTERM, signal.SIGINT), states, strict=True
        ):
            assert running.stdout is not None
            assert list(json.loads(running.stdout.readline())) == ANSWER
            said = stopped(running, number)
            assert said.status == 0, said.err
            frames, *_, tokens = summary(said)
            assert said.err.strip() == said.err.splitlines()[-1]  # and nothing else
            kept = vzvideo.VisualTokens.load(state)
            assert kept.settings["counts"]["frames_in"] == frames < 60
            assert len(kept) == tokens


def test_a_silent_camera_is_left_at_once(checkpoint: Path, tmp_path: Path) -> None:
    """Though its connection has a deadline of half a minute."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with watching(url, "--ask", QUESTION, "--model", checkpoint, *SMALL) as running:
            server.settimeout(SLACK_S)
            camera, _ = server.accept()
            with camera:
                running.send_signal(signal.SIGTERM)
                assert running.wait(10.0) == 0
    assert not (tmp_path / "state").exists()


# -- what goes wrong

REFUSED = {
    "no file": (["none.mp4"], "none.mp4: no such file"),
    "a folder": (["{folder}"], "a folder; give a video file"),
    "no video": (["{folder}/text.mp4"], "not a video"),
    "speed": (["{clip}", "--speed", "fast"], "choose realtime, max, or a factor"),
    "speed 0": (["{clip}", "--speed", "0"], "choose realtime, max, or a factor"),
    "speed nan": (["{clip}", "--speed", "nan"], "choose realtime, max, or a factor"),
    "speed inf": (["{clip}", "--speed", "inf"], "choose realtime, max, or a factor"),
    "frames": (["{clip}", "--frames", "8"], "--frames: not for `watch`; --fps"),
    "start": (["{clip}", "--start", "1"], "--start: not for `watch`"),
    "end": (["{clip}", "--end", "1"], "--end: not for `watch`"),
    "sampling": (["{clip}", "--sampling", "scenes"], "--sampling: not for `watch`"),
    "decoder": (["{clip}", "--decoder", "decord"], "--decoder: not for `watch`"),
    "policy": (["{clip}", "--policy", "drop"], "choose block or drop_oldest or drop_newest"),
    "budget": (["{clip}", "--budget", "4"], "a frame takes 5 tokens"),
    "since": (["{clip}", "--since", "-3"], "seconds are needed"),
    "since nan": (["{clip}", "--since", "nan"], "seconds are needed"),
    "question": (["{clip}", "--ask", " "], "the question is empty"),
    "fps": (["{clip}", "--fps", "0"], "fps"),
    "model": (["{clip}", "--model", "minni"], "Did you mean mini?"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_is_one_line(
    vz: Command, checkpoint: Path, clip: Path, tmp_path: Path, case: str
) -> None:
    (tmp_path / "text.mp4").write_text("once upon a time, there was a text file")
    arguments, told = REFUSED[case]
    source, *options = [text.format(clip=clip, folder=tmp_path) for text in arguments]
    said = vz("watch", source, "--ask", QUESTION, *FAST, "--model", checkpoint, *options)
    assert (said.status, said.out) == (1, "")
    assert said.line.startswith("vzvideo: ")
    assert told in said.line


def test_standard_input_cannot_be_both(vz: Command, checkpoint: Path) -> None:
    said = vz("watch", "-", "--model", checkpoint)
    assert (said.status, said.out) == (1, "")
    assert "--ask" in said.line


@pytest.mark.parametrize("how", ["asked again", "typed", "not asked"])
def test_nobody_at_that_address_is_one_line(
    vz: Command, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    typed(monkeypatch, f"{QUESTION}\n" if how == "typed" else "")
    questions = ["--ask", QUESTION] if how == "asked again" else []
    with socket.socket() as unused:  # bound, but not listening
        unused.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        said = vz("watch", url, *questions, "--model", checkpoint, *SMALL)
    assert (said.status, said.out) == (1, "")
    assert said.line.startswith(f"vzvideo: {url}: ")


def test_what_can_be_told_at_once_does_not_wait_for_a_model(
    vz: Command, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(vzvideo.qa.loading, "load", never)
    for arguments, told in (
        ([clip, "--speed", "fast"], "speed"),
        ([clip, "--frames", "3"], "frames"),
        (["-"], "--ask"),
        ([clip, "--state", tmp_path / "none" / "state"], "no folder"),
        ([tmp_path / "none.mp4"], "no such file"),
    ):
        assert told in vz("watch", *arguments).line


@pytest.mark.parametrize(
    "options", [["--every", "0"], ["--tolerance", "2"], ["--budget", "many"], ["--nope"]]
)
def test_a_wrong_command_line_is_told_with_status_2(
    vz: Command, clip: Path, options: list[str]
) -> None:
    said = vz("watch", clip, *options)
    assert (said.status, said.out) == (2, "")
    assert "Usage:" in said.err


def test_help(vz: Command) -> None:
    said = vz("watch", "--help")
    assert (said.status, said.err) == (0, "")
    for option in ("--ask", "--every", "--since", "--speed", "--budget", "--state", "--policy"):
        assert option in said.out


def test_help_lists_nothing_that_is_refused(vz: Command) -> None:
    of_files, listed = vz("ask", "--help").out, vz("watch", "--help").out
    for option in ("frames", "start", "end", "sampling", "decoder", "hwaccel"):
        assert re.search(rf"^\W+--{option} ", of_files, re.M)
        assert not re.search(rf"^\W+--{option} ", listed, re.M)
