"""Mini's training: how it is judged, and at which budgets it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.mini import train as train_mini
from pipelines.mini.clips import View
from pipelines.mini.features import WHOLE_FRAME, Features
from pipelines.mini.packing import packer_for
from pipelines.mini.photographs import read_photographs
from pipelines.mini.trainer import Trainee
from tests.conftest import small_model, small_tokenizer
from tests.models.test_encoder import encoder_of
from tests.pipelines.made import CAPTIONS, photograph, visual_tokens, write_parquet
from tests.tolerances import LOGITS_F32
from vzvideo.models.language import LanguageModel


def test_one_budget_throughout_or_the_mixture() -> None:
    assert train_mini._budgets(None) == train_mini.BUDGETS
    for tokens, split in ((257, WHOLE_FRAME), (17, (14, 3)), (64, (54, 10))):
        drawn = [budget for budget, _ in train_mini._budgets(tokens)]
        assert drawn == [(1, *split), (2, *split)]


def test_evaluation_agrees_with_the_likelihoods_of_the_model(tmp_path: Path) -> None:
    dev = read_photographs(write_parquet(tmp_path / "captions.parquet", ["dev"] * 7), "dev", None)
    images = [photograph(number, 90, 70) for number in range(7)]
    views = [View(row) for row in range(7)]
    features = Features(tmp_path / "features", encoder_of("dinov2"), images, views)
    language = LanguageModel(small_model(), small_tokenizer())

    def likely(views: list[View], question: str, answers: list[str]) -> list[float]:
        prefix = language.prefill(visual_tokens(features.clips([views], 4, 1)[0]))
        return language.log_likelihoods(prefix, question, answers)

    nothing = language.prefill_text_only()
    right, wrong, first, last, tokens = 0.0, 0.0, 0, 0, 0
    for number, said in enumerate(dev.said):
        captions, after = list(said.captions), (number + 1) % 7
        sizes = [len(small_tokenizer()(text).input_ids) + 1 for text in captions]
        shown = (likely([View(n)], "Describe the video.", captions) for n in (number, after))
        mine, others = (-np.dot(sizes, each) for each in shown)
        right, wrong, tokens = right + mine, wrong + others, tokens + sum(sizes)
        clip = [View(number)] * 2 + [View(after)] * 2
        ends = [captions[0], dev.said[after].captions[0]]
        begins, stops = (
            np.subtract(likely(clip, asked, ends), language.log_likelihoods(nothing, asked, ends))
            for asked in ("What happens first?", "What happens last?")
        )
        first += begins[0] > begins[1]
        last += stops[1] > stops[0]
    trainee = Trainee(language.model, None, lora=False).eval()
    with torch.no_grad():
        found = train_mini.evaluate(
            trainee, features, dev, packer_for(language), torch.device("cpu"), (4, 1)
        )
    assert found["dev_right"] == pytest.approx(right / tokens, abs=LOGITS_F32)
    assert found["dev_wrong"] == pytest.approx(wrong / tokens, abs=LOGITS_F32)
    assert found["dev_gap"] == pytest.approx((wrong - right) / tokens, abs=LOGITS_F32)
    assert (found["first"], found["last"]) == (first / 7, last / 7)
    assert 0 <= found["presence"] <= 1
    assert 0 <= found["when"] <= 1
    assert len(dev.said) == len(CAPTIONS) == 7
