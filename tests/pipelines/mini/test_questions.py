"""Questions from captions: true of what they are made from, and giving nothing away."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from pipelines.mini import questions
from pipelines.mini.concepts import ACTIONS, CONCEPTS, Concept
from pipelines.mini.questions import Asked, Captioned, Presence
from tests.pipelines.made import answers

BY_NAME = {concept.said: concept for concept in (*CONCEPTS, *ACTIONS)}
NOUNS = {
    "dog": 0.5, "man": 0.6, "guitar": 0.05, "snow": 0.1, "boat": 0.08, "fence": 0.15, "hat": 0.3,
    "bench": 0.2, "horse": 0.1, "flower": 0.1, "cat": 0.05, "tree": 0.3, "table": 0.15,
}  # fmt: skip
DOG = Captioned(["A dog runs on grass.", "The dog on the grass.", "Brown fur."])
GUITAR = Captioned(["A guitar on a table.", "Some guitar and a table.", "Wood."])
FENCE = Captioned(["A dog at a fence.", "A dog behind the fence.", "A pet."])


def orders(*scenes: Captioned) -> list[Asked]:
    """All that is ever asked of scenes in sequence."""
    return [asked for seed in range(200) for asked in questions.order(scenes, random.Random(seed))]


@pytest.mark.parametrize(
    ("captions", "concept", "expected"),
    [
        (["A dog runs.", "Two puppies and a dog."], "a dog", True),
        (["A dog runs.", "Something runs."], "a dog", None),
        (["An animal runs.", "Something runs."], "a dog", None),
        (["A cat sleeps.", "The hotdog is good."], "a dog", False),
        (["A DOG, running!", "The dog?"], "a dog", True),
        (["A dog."], "a dog", True),
        (["A boy runs.", "The boys run."], "a child", True),
        (["A boy runs.", "The boys run."], "a man", False),
        (["A child runs.", "The child."], "a girl", None),
        (["He jumps high.", "A boy leaps."], "jumping", True),
    ],
)
def test_what_captions_show(captions: list[str], concept: str, expected: bool | None) -> None:
    assert Captioned(captions).shows(BY_NAME[concept]) is expected


def photographs(count: int, rng: random.Random) -> list[Captioned]:
    made = []
    for _ in range(count):
        shown = [noun for noun, share in NOUNS.items() if rng.random() < share]
        said = [[n for n in shown if rng.random() < 0.7] for _ in range(5)]
        made.append(Captioned([f"Here is {' and '.join(nouns)}." for nouns in said]))
    return made


def test_yes_and_no_are_asked_equally_often_of_each_concept() -> None:
    made = photographs(300, random.Random(0))
    presence = Presence(made, (*CONCEPTS, *ACTIONS))
    asked: Counter[tuple[str, bool]] = Counter()
    for row in range(len(made)):
        drawn = presence.draw([row], 2, random.Random(row))
        assert sum(shown for _, shown in drawn) * 2 == len(drawn) <= 4
        assert len({concept for concept, _ in drawn}) == len(drawn)
        asked.update((concept.said, shown) for concept, shown in drawn)
    often = [said for said in BY_NAME if asked[said, True] + asked[said, False] >= 20]
    assert len(often) >= 8
    for said in often:
        yes, no = asked[said, True], asked[said, False]
        assert abs(yes - no) < 4 * math.sqrt(yes + no), said


def test_weights_expect_as_many_of_either() -> None:
    presence = Presence(photographs(300, random.Random(1)), CONCEPTS)
    yes = Counter(concept.said for row in presence.yes for concept in row)
    no = Counter(concept.said for row in presence.no for concept in row)
    assert set(presence.yes_weight.values()) | set(presence.no_weight.values()) != {1.0}
    for said in yes:
        expected = no[said] * presence.no_weight.get(said, 0.0)
        assert yes[said] * presence.yes_weight[said] == pytest.approx(expected)


@pytest.mark.parametrize("rows", [[3], [3, 4], [5, 6, 7, 8, 9, 10]])
def test_what_is_asked_is_true(rows: list[int]) -> None:
    made = photographs(60, random.Random(2))
    presence = Presence(made, (*CONCEPTS, *ACTIONS))
    seen: set[bool] = set()
    for seed in range(300):
        for concept, shown in presence.draw(rows, 3, random.Random(seed)):
            seen.add(shown)
            named = [_naming(concept, made[row]) for row in rows]
            assert max(named) >= 2 if shown else max(named) == 0
    assert seen == {True, False}


def _naming(concept: Concept, photograph: Captioned) -> int:
    texts = [questions.words(text) for text in photograph.captions]
    return sum(any(word in concept.words for word in text) for text in texts)


def test_questions_of_presence_say_what_was_drawn() -> None:
    rng = random.Random(0)
    dog = [questions.is_there(BY_NAME["a dog"], True, rng) for _ in range(50)]
    running = [questions.is_there(BY_NAME["running"], False, rng) for _ in range(50)]
    assert all("a dog" in asked.question and asked.answer == "Yes." for asked in dog)
    assert all(" running?" in asked.question and asked.answer == "No." for asked in running)
    assert len({asked.question for asked in dog}) > 3


def test_order_is_that_of_the_scenes() -> None:
    asked = orders(DOG, GUITAR)
    by_kind: dict[str, set[tuple[str, str]]] = {}
    for each in asked:
        by_kind.setdefault(each.kind, set()).add((each.question, each.answer))
    assert answers(by_kind, "first") == set(DOG.captions)
    assert answers(by_kind, "last") == answers(by_kind, "after") == set(GUITAR.captions)
    assert answers(by_kind, "which first") <= {"The dog.", "The grass."}
    assert {answer for _, answer in by_kind["before"]} == {"Yes.", "No."}
    for question, answer in by_kind["before"]:
        early = min(question.find(name) % 999 for name in ("the dog", "the grass"))
        late = min(question.find(name) % 999 for name in ("the guitar", "the table"))
        assert answer == ("Yes." if early < late else "No.")
    for question, answer in by_kind["which scene first"]:
        assert answer in DOG.captions
        assert answer[1:-1] in question
    for _, answer in by_kind["story"]:
        first, _, then = answer.removeprefix("First, ").partition(". Then, ")
        assert f"{first.capitalize()}." in DOG.captions
        assert then.capitalize() in GUITAR.captions


def test_what_a_third_scene_shows_is_not_asked_about() -> None:
    assert [c.said for c in questions.only([DOG, GUITAR], 0)] == ["a dog", "grass"]
    assert [c.said for c in questions.only([DOG, GUITAR, FENCE], 0)] == ["grass"]
    assert [c.said for c in questions.only([DOG, GUITAR, FENCE], 2)] == ["a fence"]
    asked = [a for a in orders(DOG, GUITAR, FENCE) if a.kind in ("after", "which first", "before")]
    assert {a.kind for a in asked} == {"after", "which first", "before"}
    assert not any("the dog" in a.question for a in asked)
    which = {(a.question, a.answer) for a in asked if a.kind == "which first"}
    for question, answer in which:
        assert answer == ("The grass." if "the grass" in question else answer)
        assert answer != "The fence."


def test_names_have_one_article() -> None:
    surf = Captioned(["The ocean.", "A big ocean."])
    asked = orders(surf, GUITAR)
    assert any("the sea" in each.question for each in asked)
    assert not [each.question for each in asked if "the the" in each.question]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a dog runs .", "A dog runs."),
        ("  A man , with a dog ", "A man, with a dog."),
        ('" The man \'s hat . "', "The man's hat."),
        ("Done.", "Done."),
    ],
)
def test_tidy(caption: str, expected: str) -> None:
    assert questions.tidy(caption) == expected


def test_at_length_takes_captions_that_differ() -> None:
    photograph = Captioned(["A dog runs.", "A dog runs fast.", "Snow lies everywhere."])
    for seed in range(20):
        asked = questions.at_length(photograph, random.Random(seed))
        assert "Snow lies everywhere." in asked.answer
        assert len(asked.answer.split(".")) == 3
