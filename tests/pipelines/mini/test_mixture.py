"""Clips of all sources: what is asked of them agrees with what they show."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from pipelines.mini import mixture as module
from pipelines.mini import questions
from pipelines.mini.concepts import ACTIONS, CONCEPTS
from pipelines.mini.data import Data, Example, move_of, read_data
from pipelines.mini.mixture import Mixture, captioned
from tests.pipelines.mini.examples import write_data


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return read_data(write_data(tmp_path / "data"))


def test_what_was_answered_with_no_is_not_counted_as_said(data: Data) -> None:
    kitchen = next(e for e in data.examples if e.name == "kitchen.jpg")
    by_name = {concept.said: concept for concept in CONCEPTS}
    said = captioned(kitchen)
    assert said.shows(by_name["a man"]) is False
    assert said.shows(by_name["a dog"]) is False
    assert said.shows(by_name["a tree"]) is None  # one caption may well leave it out
    rider = captioned(next(e for e in data.examples if e.name == "rider.jpg"))
    assert rider.shows(by_name["a man"]) is True
    assert rider.shows(by_name["a child"]) is None


def test_clips_have_their_frames_and_true_answers(data: Data) -> None:
    train = data.split("train")
    of = {row: example for example in train for row in example.rows}
    forms = {
        form.format(concept.said): concept
        for concepts, texts in ((CONCEPTS, questions._IS_THERE), (ACTIONS, questions._IS_SOMEONE))
        for concept in concepts
        for form in texts
    }
    mixture = Mixture(train, ready=lambda _: True)
    kinds, frames, answers = set(), set(), set()
    for seed in range(60):
        for clip in mixture.batch(8, random.Random(seed)):
            scenes = list(dict.fromkeys(of[view.row].name for view in clip.views))
            shown = [of[view.row] for view in dict.fromkeys(clip.views)]
            kinds.add("cuts" if len(scenes) > 1 else "clip" if shown[0].moves else "picture")
            frames.add((len(clip.views), clip.budget))
            for view in clip.views:
                example = of[view.row]
                move = move_of(example)
                assert view in (*example.views, move.start, move.end)
            assert clip.asked
            for question, answer in clip.asked:
                if question in forms and (question, answer) not in shown[0].qa:
                    found = [captioned(each).shows(forms[question]) for each in shown]
                    right = (
                        any(found) if answer == "Yes." else not any(f is not False for f in found)
                    )
                    assert right, (question, answer, scenes)
                    answers.add(answer)
                elif question in questions._FIRST:
                    assert answer in captioned(of[clip.views[0].row]).captions
                elif question in questions._LAST:
                    assert answer in captioned(of[clip.views[-1].row]).captions
    assert kinds == {"picture", "clip", "cuts"}
    assert answers == {"Yes.", "No."}
    assert frames <= {*module.STILL, *module.MOVING}
    assert len(frames) > 8


def test_frames_of_a_real_clip_keep_their_order(data: Data) -> None:
    mixture = Mixture([e for e in data.split("train") if e.moves])
    seen = set()
    for seed in range(40):
        for clip in mixture.batch(2, random.Random(seed)):
            rows = [view.row for view in clip.views]
            assert rows == sorted(rows)
            assert rows[0] == data.examples[0].rows[0]  # clips.parquet is read first
            seen.add(len(set(rows)))
    assert 8 in seen


def test_no_source_has_more_than_its_cap() -> None:
    examples = [
        Example(f"{source}{n}", (n,), source, "train", written="A cat.", qa=(("Who?", "A cat."),))
        for source, count in (("large", 500), ("a", 20), ("b", 20), ("c", 20), ("d", 5))
        for n in range(count)
    ]
    numbers = {example.name: example.source for example in examples}
    assert len(numbers) == len(examples)
    mixture = Mixture(examples)
    by_row: Counter[str] = Counter()
    drawn = mixture._single

    def noted(number: int, rng: random.Random) -> module.Clip:
        by_row[examples[number].source] += 1
        return drawn(number, rng)

    mixture._single = noted  # type: ignore[method-assign]
    for seed in range(30):
        by_row.clear()
        mixture.batch(20, random.Random(seed))
        assert max(by_row.values()) <= 6


def test_common_answers_are_asked_for_less() -> None:
    answers = {"Red.": 1800, "Pink.": 100}
    examples = [
        Example(f"{answer}{n}", (0,), "made", "train", written="A cat.", qa=(("Which?", answer),))
        for answer, count in answers.items()
        for n in range(count)
    ]
    mixture = Mixture(examples)
    rng = random.Random(0)
    kept = {answer: sum(mixture._asks(answer, rng) for _ in range(900)) for answer in answers}
    assert kept["Pink."] == 900
    assert 240 < kept["Red."] < 360  # a third: the root of 200 / 1800
    assert all(mixture._asks("Yes.", rng) for _ in range(50))


def test_one_budget_throughout(data: Data) -> None:
    mixture = Mixture(data.split("train"), budgets={(1, 257): 0.7, (2, 257): 0.3})
    clips = [clip for seed in range(20) for clip in mixture.batch(4, random.Random(seed))]
    assert {(len(clip.views), clip.budget) for clip in clips} == {(1, 257), (2, 257)}


def test_sources_of_one_kind_of_thing_are_heard_less() -> None:
    assert module._heard("coco", 100) == 10
    assert module._heard("droid-dataset/droid-dataset.github.io", 100) == pytest.approx(2)
