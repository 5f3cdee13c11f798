"""The measures: what counts as right, and that many answers at a time are what each would be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.mini import measure
from pipelines.mini.data import Example
from pipelines.mini.measure import Speaker, contains, content_f1, head
from tests.conftest import small_model, small_tokenizer
from tests.pipelines.made import random_features, visual_tokens
from tests.tolerances import LOGITS_F32
from vzvideo.models.language import LanguageModel

QUESTIONS = ["What?", "Where is the dog on the grass?", "Is there a man?", "Who is riding a bike?"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("A dog.", "dog"),
        ("In a blue kitchen with a cat.", "kitchen"),
        ("Red and white.", "red"),
        ("Dark blue.", "blue"),
        ("On.", "on"),
        ("Two.", "2"),
        ("Playing a video game.", "game"),
        ("", ""),
    ],
)
def test_the_word_that_decides(answer: str, expected: str) -> None:
    assert head(answer) == expected


@pytest.mark.parametrize(
    ("said", "answer", "expected"),
    [
        ("Two dogs.", "A dog.", 1),
        ("A man rides a bike.", "A bicycle.", 1),
        ("A hotdog.", "A dog.", 0),
        ("Grey.", "Gray.", 1),
        ("2", "Two.", 1),
        ("Buses.", "A bus.", 1),
        ("A glass.", "Glasses.", 1),
        ("Blue.", "Dark blue.", 1),
        ("Dark.", "Dark blue.", 0),
        ("", "A dog.", 0),
    ],
)
def test_an_answer_contains_the_right_word(said: str, answer: str, expected: int) -> None:
    assert contains(said, answer) == expected


def test_content_words_are_compared_without_the_rest() -> None:
    assert content_f1("A dog is on the grass.", "The dogs of the grass.") == 1
    assert content_f1("A man.", "A dog runs.") == 0
    assert content_f1("A dog.", "A brown dog runs.") == pytest.approx(2 / (1 + 3))


@pytest.fixture
def speaker(monkeypatch: pytest.MonkeyPatch) -> Speaker:
    monkeypatch.setattr(measure, "MOST", 6)
    return Speaker(small_model(), small_tokenizer())


def test_many_answers_are_what_each_would_be(speaker: Speaker) -> None:
    language = LanguageModel(small_model(), small_tokenizer())
    asked = [(random_features(5 + 3 * n, 32, seed=n), q) for n, q in enumerate(QUESTIONS)]
    expected = [
        language.answer(language.prefill(visual_tokens(features)), question, max_new_tokens=6)
        for features, question in asked
    ]
    assert len(set(expected)) > 1
    assert speaker.answers(asked, batch=3) == expected


def test_gains_are_what_the_video_adds(speaker: Speaker) -> None:
    language = LanguageModel(small_model(), small_tokenizer())
    features, texts = random_features(7, 32), ["A dog runs.", "A man."]
    seen = language.log_likelihoods(language.prefill(visual_tokens(features)), "What?", texts)
    blind = language.log_likelihoods(language.prefill_text_only(), "What?", texts)
    found = speaker.gains(features, [("What?", text) for text in texts])
    assert found == pytest.approx(np.subtract(seen, blind), abs=LOGITS_F32)


class Fixed(Speaker):
    """Says what it is told to by question."""

    def __init__(self, said: dict[str, str]) -> None:
        self.said = said

    def answers(self, asked, batch=24):  # type: ignore[no-untyped-def]
        return [self.said.get(question, "A dog.") for _, question in asked]


def example(name: str, *qa: tuple[str, str], written: str = "A dog runs.") -> Example:
    return Example(name, (0,), "made", "dev", written=written, qa=qa)


def test_yes_and_no_count_equally_often() -> None:
    dev = [example(f"yes{n}", ("Is it?", "Yes.")) for n in range(9)]
    dev += [example(f"no{n}", ("Is it?", "No.")) for n in range(3)]
    found = measure.written(Fixed({"Is it?": "Yes."}), lambda _: torch.empty(0), dev)["yes or no"]
    assert (len(found.scores), np.mean(found.scores)) == (6, 0.5)
    assert found.aside == "says yes to 1.00"


def test_colours_and_numbers_are_told_with_their_most_frequent_answer() -> None:
    dev = [
        example("a", ("What colour is it?", "Red."), ("Who?", "A man.")),
        example("b", ("How many dogs?", "Two."), ("What color?", "Blue.")),
        example("c", ("What colour is it?", "Red.")),
    ]
    said = {"What colour is it?": "Red.", "What color?": "Red.", "How many dogs?": "Two dogs."}
    found = measure.written(Fixed(said), lambda _: torch.empty(0), dev)
    assert list(found["open"].scores) == [1, 0, 1, 0, 1]
    assert len(found["colours and numbers"].scores) == 4
    assert "'red' 0.75, in truth 'red' 0.50" in found["colours and numbers"].aside
