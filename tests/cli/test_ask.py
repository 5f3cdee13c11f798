"""`vzvideo ask` as a user meets it: answers on stdout, facts on stderr, a true status."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import vzvideo
from tests.cli.command import OTHER, QUESTION, SETTINGS, SMALL, Command, imported_by, process
from tests.video import clips
from vzvideo.types import VisualTokens


def test_the_answer_alone_is_on_stdout(
    checkpoint: Path, clip: Path, answers: dict[str, str]
) -> None:
    said = process("ask", clip, QUESTION, "--model", checkpoint, *SMALL)
    assert (said.status, said.out) == (0, answers[QUESTION] + "\n"), said.err
    facts = rf"\[{re.escape(str(checkpoint))}\] 4 frames \(0\.2-1\.4 s\), 68 -> 20 tokens"
    times = ", ".join(rf"{stage} \d+\.\d\d s" for stage in ("decode", "encode", "prefill"))
    cropped = "; 25 % of each frame cropped"  # of 64 x 48 pixels
    assert re.fullmatch(rf"{facts}, {times}, generate \d+\.\d\d s{cropped}\n", said.err)


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
            "yes_probability",
            *("duration_s", "promised_s", "asked", "decoded", "lost", "cropped"),
            "static",
        ]
        assert (about["asked"], about["decoded"], about["lost"]) == (4, 4, 0)
        assert about["cropped"] == 0.25
        assert about["duration_s"] == pytest.approx(1.6)
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


def test_across_frames_says_how_much_stands_still(
    vz: Command, checkpoint: Path, clip: Path
) -> None:
    ask = ["ask", clip, QUESTION, "--model", checkpoint, *SMALL, "--temporal", "on"]
    said = vz(*ask)
    assert said.status == 0, said.err
    (share,) = re.findall(r"; (\d+) % of the places static", said.err)
    (about,) = vz(*ask, "--json").objects
    assert round(100 * about["static"]) == int(share)
    assert about["tokens"] == 20
    wrong = vz("ask", clip, QUESTION, "--model", checkpoint, "--temporal", "on", "--no-compress")
    assert "nothing is compressed here" in wrong.line


def test_wide_frames_may_be_padded(vz: Command, checkpoint: Path, tmp_path: Path) -> None:
    wide = replace(clips.KINDS[0], size=(128, 48), frames=8)
    wide.make(wide, tmp_path / "wide.mp4")
    ask = ("ask", tmp_path / "wide.mp4", QUESTION, "--model", checkpoint, *SMALL)
    cropped = vz(*ask)
    assert cropped.err.endswith("; 62 % of each frame cropped (--fit pad keeps it)\n")
    padded = vz(*ask, "--fit", "pad")
    assert (padded.status, "cropped" in padded.err) == (0, False), padded.err
    (about,) = vz(*ask, "--fit", "pad", "--json").objects
    assert (about["cropped"], about["cached"], about["lost"]) == (0, True, 0)
    wrong = vz(*ask, "--fit", "stretch").line
    assert wrong == ("vzvideo: fit: 'stretch' given, 'crop' or 'pad' or 'squash' or null is needed")


def test_frames_the_video_does_not_have_are_told(vz: Command, checkpoint: Path, clip: Path) -> None:
    said = vz("ask", clip, QUESTION, "--model", checkpoint, *SMALL, "--frames", "60")
    assert said.status == 0
    assert "; 60 frames asked for, different ones in the video: 40;" in said.line


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
    assert "20 tokens, decode " in said.err  # no "from the cache": the facts tell what it took


# -- several videos, standard input, quiet


def test_several_videos_are_asked_the_same(
    vz: Command, checkpoint: Path, clip: Path, answers: dict[str, str], tmp_path: Path
) -> None:
    other = tmp_path / "other.mp4"
    other.write_bytes(clip.read_bytes())
    ask = ("--model", checkpoint, *SMALL)
    said = vz("ask", clip, other, QUESTION, *ask)
    assert said.status == 0, said.err
    assert said.out == f"{clip}: {answers[QUESTION]}\n{other}: {answers[QUESTION]}\n"
    said = vz("ask", clip, other, QUESTION, OTHER, "--json", *ask)
    found = [(about["source"], about["question"]) for about in said.objects]
    assert found == [(str(path), q) for path in (clip, other) for q in (QUESTION, OTHER)]


def test_a_video_that_fails_keeps_no_other_from_its_answer(
    vz: Command, checkpoint: Path, clip: Path, answers: dict[str, str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video at all")
    said = vz("ask", broken, clip, QUESTION, "--json", "--model", checkpoint, *SMALL)
    failure, answer = said.objects
    assert (failure["source"], failure["stage"]) == (str(broken), "decode")
    assert (answer["source"], answer["answer"]) == (str(clip), answers[QUESTION])
    assert said.status == 1


def test_videos_without_a_question_are_told(vz: Command, clip: Path) -> None:
    assert vz("ask", clip, clip).line == f"vzvideo: {clip}: is a video; what to ask of it?"
    assert "no such file" in vz("ask", clip, "misspelt.mp4", QUESTION).line


def test_a_video_may_be_piped_in(checkpoint: Path, clip: Path, answers: dict[str, str]) -> None:
    command = [sys.executable, "-m", "vzvideo", "ask", "-", QUESTION, "--json", "--quiet"]
    with clip.open("rb") as file:
        done = subprocess.run(
            [*command, "--model", str(checkpoint), *SMALL],
            stdin=file,
            capture_output=True,
            text=True,
        )
    about = json.loads(done.stdout)
    assert (about["source"], about["answer"]) == ("-", answers[QUESTION])
    assert done.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows names are all Unicode")
def test_a_name_that_is_no_utf8_is_answered_in_json_too(
    checkpoint: Path, clip: Path, answers: dict[str, str], tmp_path: Path
) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.mp4"
    with open(path, "wb") as file:
        file.write(clip.read_bytes())
    said = process("ask", os.fsdecode(path), QUESTION, "--json", "--model", checkpoint, *SMALL)
    assert said.status == 0, said.err
    (about,) = said.objects
    assert (os.fsencode(about["source"]), about["answer"]) == (path, answers[QUESTION])


# -- before any model is loaded


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "not a video"),
        (["--start", "99"], "the clip from 99 s to the end holds nothing of a video of 1.600 s"),
    ],
)
def test_what_cannot_be_costs_no_model(
    options: list[str], why: str, clip: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video at all")
    code = (
        "from vzvideo.cli.main import main\n"
        f"try: main({['ask', str(clip if options else text), 'What?', *options]})\n"
        "except SystemExit as end: print(end.code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert why in done.stderr
    assert done.stdout.split() == ["1"]
    assert not imported_by(code) & {"torch", "transformers"}


def test_a_file_that_breaks_off_is_not_answered_as_if_whole(
    vz: Command, checkpoint: Path, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole.mkv", tmp_path / "cut.mkv"
    kind = next(kind for kind in clips.KINDS if kind.suffix == ".mkv")
    clips.write(replace(kind, frames=240), whole)  # eight seconds
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    ask = (QUESTION, "--model", checkpoint, *SMALL)
    assert "breaks off" not in vz("ask", whole, *ask).err
    for _ in ("first", "from the cache"):
        said = vz("ask", cut, *ask, "--json")
        (about,) = said.objects
        assert about["promised_s"] == pytest.approx(8.0, abs=0.1)
        assert about["duration_s"] < 6
        assert "the video breaks off: 0:0" in said.err
        assert "of 0:08 could be read" in said.err
