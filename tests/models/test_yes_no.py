"""How sure of a yes: the two words by their first tokens, and the odds between them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import vzvideo
from tests.conftest import small_tokenizer
from vzvideo.models import catalog, weights
from vzvideo.models.yes_no import YesNo, yes_or_no


def words(vocabulary: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer that knows whole words."""
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(vocabulary)}, "?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?")


@pytest.mark.parametrize(
    ("text", "says"),
    [("Yes.", True), ("no", False), ("**No**, there is none", False), ("YES!", True), ("", None),
     ("Nobody.", None), ("A yes.", None), ("Yesterday", None), ("Two.", None)],
)  # fmt: skip
def test_an_answer_says_yes_or_no_where_it_begins_so(text: str, says: bool | None) -> None:
    assert yes_or_no(text) is says


def test_all_spellings_count_together() -> None:
    tokenizer = words(["?", "Yes", "yes", "YES", "No", "no", "NO", "maybe"])
    chances = torch.tensor([0.02, 0.3, 0.2, 0.1, 0.1, 0.05, 0.03, 0.2])
    assert YesNo(tokenizer).probability(chances.log()) == pytest.approx(0.6 / 0.78)


def test_the_odds_are_scaled_and_shifted() -> None:
    tokenizer = words(["?", "Yes", "yes", "YES", "No", "no", "NO"])
    sure = torch.tensor([0.0, 400, 0, 0, -400, 0, 0])
    assert YesNo(tokenizer).probability(sure) == pytest.approx(1)
    assert YesNo(tokenizer).probability(-sure) == pytest.approx(0)
    odds = YesNo(tokenizer).log_odds(0.01 * sure)
    assert odds is not None
    fitted = YesNo(tokenizer, 0.5, -1.0).probability(0.01 * sure)
    assert fitted == pytest.approx(torch.tensor(0.5 * odds - 1).sigmoid().item())


def test_words_that_begin_alike_say_nothing() -> None:
    assert YesNo(words(["?", "maybe"])).probability(torch.zeros(2)) is None


def test_a_tokenizer_of_bytes_tells_them_apart() -> None:
    tokenizer = small_tokenizer()
    logits = torch.zeros(len(tokenizer))
    logits[tokenizer("yes").input_ids[0]] = 9.0
    found = YesNo(tokenizer).probability(logits)
    assert found is not None
    assert found > 0.9


def test_what_mini_says_is_what_it_holds_for_likelier(real_clips: list[Path]) -> None:
    if weights.locate(catalog.find("mini")) is None:
        pytest.skip("mini has not been pulled: `vzvideo pull mini` gets it")
    clips = {path.name: str(path) for path in real_clips}
    qa = vzvideo.load("mini", device="cpu", cache=False, frames=2)
    asked = ["Is there a bike?", "Is there a boat?", "What is happening?"]
    answers = qa.ask_many(clips["bikes.mp4"], asked, max_new_tokens=6)
    *sure, none = [answer.yes_probability for answer in answers]
    assert none is None
    odds = [qa.language.yes_no.log_odds(qa.language.logits(qa.prefill(qa.encode(
        clips["bikes.mp4"]))[0], question)) for question in asked[:2]]  # fmt: skip
    for answer, probability, each in zip(answers, sure, odds, strict=False):
        assert probability is not None
        assert each is not None
        assert 0 < probability < 1
        assert answer.text.startswith("Yes" if each > 0 else "No")
