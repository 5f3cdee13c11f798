"""Mini's training: how it is judged, and what is learned from at once."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.mini import train as train_mini
from pipelines.mini.clips import View
from pipelines.mini.data import Data, Example, read_data
from pipelines.mini.features import Features
from pipelines.mini.mixture import Mixture, captioned
from pipelines.mini.packing import packer_for
from pipelines.mini.trainer import DECISIVE, Trainee
from tests.conftest import small_model, small_tokenizer
from tests.models.test_encoder import encoder_of
from tests.pipelines.made import visual_tokens
from tests.pipelines.mini.examples import write_data
from tests.tolerances import LOGITS_F32
from vzvideo.models.language import LanguageModel

BUDGET = 5
YES_NO = ["Yes.", "No."]


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return read_data(write_data(tmp_path / "data"))


@pytest.fixture
def features(data: Data, tmp_path: Path) -> Features:
    features = Features(tmp_path / "features", data.digests)
    features.add(
        encoder_of("dinov2"), data.images, [v for e in data.examples for v in e.views], (BUDGET,)
    )
    return features


def test_evaluation_agrees_with_the_likelihoods_of_the_model(
    data: Data, features: Features
) -> None:
    dev = train_mini.judged(data.examples, None)
    assert len(dev) == 7 + 2 + 1
    language = LanguageModel(small_model(), small_tokenizer())

    def likely(views: list[View], question: str, answers: list[str]) -> list[float]:
        tokens = features.compressed(views, BUDGET).flatten(0, 1)
        prefix = language.prefill(visual_tokens(tokens))
        return language.log_likelihoods(prefix, question, answers)

    def shown(example: Example) -> list[View]:
        return example.views[::2]  # of eight frames four; of one, the one

    nothing = language.prefill_text_only()
    sums = dict.fromkeys(("right", "wrong", "first", "last", "tokens", "yes_no", "answers"), 0.0)
    closed, open_ = 0, 0
    for number, example in enumerate(dev):
        said, after = list(captioned(example).captions), dev[(number + 1) % len(dev)]
        sizes = [len(small_tokenizer()(text).input_ids) + 1 for text in said]
        both = (likely(shown(e), "Describe the video.", said) for e in (example, after))
        mine, others = (-np.dot(sizes, each) for each in both)
        sums["right"], sums["wrong"] = sums["right"] + mine, sums["wrong"] + others
        sums["tokens"] += sum(sizes)
        clip = [example.views[0]] * 2 + [after.views[0]] * 2
        texts = [said[0], captioned(after).captions[0]]
        begins, stops = (
            np.subtract(likely(clip, asked, texts), language.log_likelihoods(nothing, asked, texts))
            for asked in ("What happens first?", "What happens last?")
        )
        sums["first"] += begins[0] > begins[1]
        sums["last"] += stops[1] > stops[0]
        for question, answer in example.qa:
            if answer in YES_NO:
                yes, no = likely(shown(example), question, YES_NO)
                sums["yes_no"] += (yes > no) == (answer == "Yes.")
                closed += 1
            else:
                sums["answers"] -= likely(shown(example), question, [answer])[0]
                open_ += 1
    trainee = Trainee(language.model, None, lora=False).eval()
    with torch.no_grad():
        found = train_mini.evaluate(
            trainee, features, dev, packer_for(language), torch.device("cpu"), BUDGET
        )
    right, wrong = (sums[name] / sums["tokens"] for name in ("right", "wrong"))
    assert found["dev_right"] == pytest.approx(right, abs=LOGITS_F32)
    assert found["dev_wrong"] == pytest.approx(wrong, abs=LOGITS_F32)
    assert found["dev_gap"] == pytest.approx(wrong - right, abs=LOGITS_F32)
    assert found["answers"] == pytest.approx(sums["answers"] / open_, abs=LOGITS_F32)
    assert found["yes_no"] == sums["yes_no"] / closed
    assert (closed, open_) == (3, 3)
    assert (found["first"], found["last"]) == (sums["first"] / 10, sums["last"] / 10)
    assert 0 <= found["presence"] <= 1
    assert 0 <= found["when"] <= 1


def test_only_what_something_is_said_of_is_judged_on(data: Data) -> None:
    dev = train_mini.judged(data.examples, None)
    assert {"cello.jpg", "crab.jpg", "bare.jpg"}.isdisjoint(example.name for example in dev)
    some = train_mini.judged(data.examples, 4)
    assert len(some) == 4
    assert train_mini.judged(data.examples, 4) == some


def test_a_batch_is_learned_from_in_parts_of_like_length(
    data: Data, features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_mini, "AT_ONCE", 400)
    language = LanguageModel(small_model(), small_tokenizer())
    packer = packer_for(language)
    mixture = Mixture(data.split("train"), budgets={(1, BUDGET): 0.5, (4, BUDGET): 0.5})
    clips = mixture.batch(12, random.Random(0))
    parts = train_mini.parts_of(clips, features, packer)
    assert len(parts) > 2
    for visual, batch in parts:
        rows, longest = batch.ids.shape
        # Each part is filled up to its longest, and that may be over the room alone.
        assert rows == 1 or rows * longest <= 400 + rows * 8
        assert len(visual) == int((batch.ids == language.video_token).sum())
    assert sum(len(batch.ids) for _, batch in parts) == 12
    weight = sum(float(batch.weight.sum()) for _, batch in parts)
    alone = [packer([c.asked], len(c.views) * c.budget, decisive=DECISIVE) for c in clips]
    assert weight == sum(float(batch.weight.sum()) for batch in alone)
