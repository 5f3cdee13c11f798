"""Bags of words: what they ask of the connector, and that it learns it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipelines.mini.bags import Bags, warm_up
from pipelines.mini.data import Example
from pipelines.mini.features import Features
from tests.conftest import small_tokenizer
from tests.pipelines.made import random_features
from tests.pipelines.trainees import made_trainee

LETTERS, DIGITS = "qxzjvkwy", "01234567"


class Made(Features):
    """Each picture's tokens, by its row."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens

    def compressed(self, views: object, budget: int) -> Tensor:
        assert budget == 3
        return self.tokens[[view.row for view in views]]  # type: ignore[attr-defined]


def examples() -> list[Example]:
    """Every picture shows two of sixteen things, and its texts say so; a letter is a token."""
    return [
        Example(str(n), (n,), "made", "train", captions=(LETTERS[n % 8],), labels=(DIGITS[n // 8],))
        for n in range(64)
    ]


def test_the_connector_learns_which_words_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    trainee, some = made_trainee(None), examples()
    words = trainee.language_model.get_input_embeddings().weight
    bags = Bags(some, small_tokenizer(), words)
    shown = torch.zeros(64, 3, 32)
    for n in range(64):
        shown[n, :, n % 8] += 3
        shown[n, :, 8 + n // 8] += 3
    features = Made(shown + random_features(64, 3, 32) / 10)
    before = bags.loss(trainee.connector, features, bags.usable, 3).item()
    warm_up(trainee.connector, features, bags, bags, 12, random.Random(0), budget=3, rate=1e-2)
    after = bags.loss(trainee.connector, features, bags.usable, 3).item()
    assert after < before - 0.3
    assert f"dev {after:.3f}" in capsys.readouterr().out.splitlines()[-1]


def test_the_loss_is_the_cross_entropy_of_rare_words_above_all() -> None:
    trainee, some = made_trainee(None), examples()
    tokenizer = small_tokenizer()
    words = trainee.language_model.get_input_embeddings().weight
    bags = Bags(some, tokenizer, words)
    features = Made(random_features(64, 3, 32))
    count = {token: 0 for token in bags._column}
    for example in some:
        for token in {*tokenizer(" " + example.captions[0]).input_ids,
                      *tokenizer(" " + example.labels[0]).input_ids}:  # fmt: skip
            if token in count:
                count[token] += 1
    assert len(count) == 16
    assert set(count.values()) == {8}
    example = some[5]
    with torch.no_grad():
        pooled = trainee.connector(features.tokens[5]).mean(0)
        logs = (pooled @ words[list(bags._column)].T).log_softmax(0)
        total, weights = 0.0, 0.0
        for text in (example.captions[0], example.labels[0]):
            for token in set(tokenizer(" " + text).input_ids) & set(count):
                weight = torch.tensor(64 / count[token]).log().item()
                total -= weight * logs[bags._column[token]].item()
                weights += weight
        found = bags.loss(trainee.connector, features, [5], 3).item()
    assert found == pytest.approx(total / weights, abs=1e-4)


def test_dev_shares_the_vocabulary_and_yes_is_no_word() -> None:
    words = made_trainee(None).language_model.get_input_embeddings().weight
    tokenizer = small_tokenizer()
    bags = Bags(examples(), tokenizer, words)
    dev = [Example("x", (0,), "made", "dev", qa=(("Is it?", "Yes."),)), examples()[1]]
    other = Bags(dev, tokenizer, words, bags)
    assert other._column is bags._column
    assert other.usable == [1]
