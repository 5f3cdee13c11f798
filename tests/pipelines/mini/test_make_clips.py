"""The test made of photographs: files that decode, questions that `vzvideo eval` reads."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from pipelines.mini import make_clips, questions
from pipelines.mini.concepts import CONCEPTS
from pipelines.mini.questions import Captioned
from tests.pipelines.made import CAPTIONS, all_frames, nearest, pattern, write_parquet
from vzvideo.evaluation.questions import Question, read

FRAMES = {"still": 16, "pan": 32, "cut": 32, "long": 96}
SPLITS = ["dev"] * 7 + ["test", "train"]
SAID = [[questions.tidy(text) for text in captions] for captions in CAPTIONS]


def make(folder: Path, *options: str) -> list[Question]:
    """The questions that `main` writes about seven photographs, or as `options` have it."""
    parquet = write_parquet(folder / "captions.parquet", SPLITS)
    with pytest.MonkeyPatch.context() as patch:
        given = ["--captions", str(parquet), "--out", str(folder / "clips"), *options]
        patch.setattr(sys, "argv", ["make_clips", *given])
        make_clips.main()
    return read(folder / "clips" / "questions.jsonl")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    return make(tmp_path_factory.mktemp("made"), "--split", "dev")


def scenes_of(path: str) -> list[int]:
    """Which photograph each scene of a clip with no camera moves shows."""
    from PIL import Image

    pictures = [Image.fromarray(pattern(number)) for number in range(7)]
    found = nearest(all_frames(Path(path)), pictures)
    scenes = [set(found[start : start + 16]) for start in range(0, len(found), 16)]
    assert all(len(scene) == 1 for scene in scenes)
    return [number for scene in scenes for number in scene]


def number_in(path: str) -> int:
    return int(Path(path).stem.partition("-")[2])


def test_every_clip_asked_about_decodes(asked: list[Question]) -> None:
    clips = {question.video for question in asked}
    folder = Path(asked[0].video).parent
    assert clips == {str(path) for path in folder.glob("*.mp4")}
    assert len(clips) == 7 * 3 + 2
    for path in clips:
        assert all_frames(Path(path)).shape == (FRAMES[Path(path).name.split("-")[0]], 48, 64, 3)


def test_clips_show_their_photographs(asked: list[Question]) -> None:
    for path in {question.video for question in asked}:
        number = number_in(path)
        if "still-" in path:
            assert scenes_of(path) == [number]
        elif "cut-" in path:
            assert scenes_of(path) == [number, (number + 1) % 7]
        elif "pan-" in path:
            frames = all_frames(Path(path)).astype(float)
            assert np.abs(frames[0] - frames[-1]).mean() > np.abs(frames[0] - frames[1]).mean()


def test_a_long_clip_shows_six_photographs(asked: list[Question]) -> None:
    paths = {question.video for question in asked if "long-" in question.video}
    assert {number_in(path) for path in paths} == {0, 6}
    for path in paths:
        assert len(set(scenes_of(path))) == 6


def test_yes_and_no_agree_with_the_captions(asked: list[Question]) -> None:
    seen = defaultdict(set)
    for question in asked:
        if question.answers not in (("Yes.",), ("No.",)) or question.kind == "before":
            continue
        shown = [Captioned(SAID[number]) for number in scenes_of_question(question)]
        for concept in CONCEPTS:
            if question.question in {form.format(concept.said) for form in questions._IS_THERE}:
                there = [scene.shows(concept) for scene in shown]
                assert (True in there) == (question.answers == ("Yes.",))
                seen[question.kind].add(question.answers)
    assert set(map(len, seen.values())) == {2}
    assert {"presence", "presence, pan"} <= seen.keys()


def scenes_of_question(question: Question) -> list[int]:
    number = number_in(question.video)
    return [number] if "long-" not in question.video else scenes_of(question.video)


def test_captions_and_ends_are_those_of_the_photographs(asked: list[Question]) -> None:
    kinds = {question.kind for question in asked}
    assert {"caption", "caption, pan", "which scene", "which first", "before", "who"} <= kinds
    for question in asked:
        number = number_in(question.video)
        if question.metric == "caption":
            assert list(question.answers) == SAID[number]
        if question.kind == "which scene":
            late = "last" in question.question
            assert question.answers[0] in SAID[(number + late) % 7]
            assert question.answers[0] in question.options
            assert len(question.options) == 2


def test_the_same_seed_makes_the_same(asked: list[Question], tmp_path: Path) -> None:
    again = make(tmp_path, "--split", "dev", "--seed", "0")
    assert [(q.id, q.question, q.answers, q.options) for q in again] == [
        (q.id, q.question, q.answers, q.options) for q in asked
    ]


def test_one_photograph_is_enough(tmp_path: Path) -> None:
    names = {Path(q.video).name for q in make(tmp_path, "--split", "test", "--limit", "1")}
    assert names == {"still-0000.mp4", "pan-0000.mp4"}
