"""Questions from labels: well put, true, and giving nothing away."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from pipelines.mini import labels
from pipelines.mini.data import Example
from pipelines.mini.labels import Labels, alike, phrase

CALTECH = "MachineLearning2020/Homework2-Caltech101"
STANFORD = "dicky1207/dashboard_stanford40"
PACS = "MachineLearning2020/Homework3-PACS"
SCENES = "bruvduroiu/comp3204-scene-classification"


def example(source: str, *named: str, written: str = "") -> Example:
    return Example("x", (0,), source, "train", labels=named, written=written)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accordion", "an accordion"),
        ("water lily", "a water lily"),
        ("unicycle", "a unicycle"),
        ("hourglass", "an hourglass"),
        ("bus", "a bus"),
        ("skis", "skis"),
        ("broccoli", "broccoli"),
        ("ice cream", "ice cream"),
    ],
)
def test_a_name_has_its_article(name: str, expected: str) -> None:
    assert phrase(name) == expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("motorbike", "motorcycle", True),
        ("soccer ball", "golf ball", True),
        ("accordion", "piano", True),
        ("accordion", "crab", False),
        ("riding a bike", "riding a horse", True),
    ],
)
def test_what_may_be_the_same_is_no_no(one: str, other: str, expected: bool) -> None:
    # An article in common would make all deeds alike: it is left out.
    assert alike(one, other) is expected
    assert alike(other, one) is expected


def test_a_thing_is_asked_for_where_it_is_and_where_it_is_not() -> None:
    names = ("accordion", "crab", "sunflower", "pizza", "wrench")
    examples = [example(CALTECH, name) for name in names]
    drawn = Labels(examples)
    asked: Counter[tuple[str, str]] = Counter()
    for seed in range(500):
        shown = examples[seed % 5]
        for each in drawn.draw(shown, random.Random(seed)):
            if each.answer in ("Yes.", "No."):
                name = next(name for name in names if name in each.question)
                assert (name in shown.labels) == (each.answer == "Yes.")
                asked[name, each.answer] += 1
            else:
                assert each.answer.lower() == phrase(shown.labels[0]) + "."
    for name in names:
        assert asked[name, "Yes."] == 100
        assert abs(asked[name, "No."] - 100) < 40


def test_what_the_text_speaks_of_is_not_denied() -> None:
    examples = [
        example(CALTECH, "crab", written="A crab beside a wrench."),
        example(CALTECH, "wrench"),
    ]
    for seed in range(50):
        for each in Labels(examples).draw(examples[0], random.Random(seed)):
            assert each.answer != "No."


def test_deeds_places_and_styles_have_their_own_questions() -> None:
    deeds = [example(STANFORD, "riding a horse", "person"), example(STANFORD, "cooking", "person")]
    places = [example(SCENES, "kitchen", "scene"), example(SCENES, "highway", "scene")]
    styles = [example(PACS, "giraffe", "sketch"), example(PACS, "house", "photo")]
    everything = Labels([*deeds, *places, *styles])
    said: dict[str, set[str]] = {}
    for seed in range(60):
        for shown in (deeds[0], places[0], styles[0]):
            for each in everything.draw(shown, random.Random(seed)):
                said.setdefault(each.question, set()).add(each.answer)
    assert said["Is the person riding a horse?"] == {"Yes."}
    assert said["Is the person cooking?"] == {"No."}
    assert "Riding a horse." in said["What is the person doing?"]
    assert said["Where is this?"] == {"In a kitchen."}
    assert said["Is this a highway?"] == {"No."}
    assert said["Is this a sketch?"] == {"Yes."}
    assert said["Is this a photo?"] == {"No."}
    assert not any("person?" in question and "Is there" in question for question in said)


def test_other_sources_say_nothing() -> None:
    assert labels.names(example("made/brands", "arla milk")) == []
    assert Labels([]).draw(example("made/brands", "arla milk"), random.Random(0)) == []
