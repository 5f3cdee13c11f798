"""Questions on details: true of the captions they are made from."""

from __future__ import annotations

import random

from pipelines.mini import details
from pipelines.mini.questions import Captioned
from tests.pipelines.made import answers


def all_of(*captions: str) -> dict[str, set[tuple[str, str]]]:
    """All that is ever asked and answered of a photograph, by kind."""
    found: dict[str, set[tuple[str, str]]] = {}
    for seed in range(40):
        for asked in details.draw(Captioned(captions), random.Random(seed)):
            found.setdefault(asked.kind, set()).add((asked.question, asked.answer))
            assert asked.answer in asked.others or not asked.others
    return found


def test_details_of_a_photograph() -> None:
    found = all_of(
        "Two boys in red shirts are playing soccer on the grass while it rains.",
        "Two boys playing soccer.",
        "Two young boys run across a field.",
    )
    assert found["doing"] == {("What are the boys doing?", "Playing soccer on the grass."),
                              ("What are the boys doing?", "Playing soccer.")}  # fmt: skip
    assert answers(found, "who") == {"Two boys.", "Two young boys."}
    assert answers(found, "where") == {"On the grass.", "Across a field."}
    assert found["how many"] == {("How many boys are there?", "Two.")}
    assert found["colour"] == {("What colour are the shirts?", "Red.")}


def test_details_of_one_dog() -> None:
    found = all_of("A gray dog is wearing a hat.", "A grey dog sits.", "A dog.")
    assert found["colour"] == {("What colour is the dog?", "Grey.")}
    assert found["how many"] == {("How many dogs are there?", "One.")}
    assert "doing" not in found
    assert "where" not in found


def test_captions_that_say_nothing_are_asked_nothing() -> None:
    assert not all_of("Something interesting.", "Colourful things.", "")


def test_captions_that_disagree_are_not_asked_about() -> None:
    found = all_of("Two dogs and a red ball.", "Three dogs and a blue ball.")
    assert "how many" not in found
    assert "colour" not in found


def test_two_dogs_named_one_by_one_are_not_one() -> None:
    found = all_of("A brown dog plays with a white dog.", "A brown dog chases a black dog.")
    assert answers(found | {"how many": found.get("how many", set())}, "how many") <= {"Two."}


def test_a_dog_of_two_colours_is_not_of_one() -> None:
    assert "colour" not in all_of("A black and white dog runs.", "The black and white dog.")
