"""What is learned in one packed sequence is what is asked later."""

from __future__ import annotations

import itertools

import pytest
import torch

from pipelines.mini.packing import Packer, answer_losses, packer_for
from tests.conftest import small_model, small_tokenizer
from tests.pipelines.made import random_features
from tests.pipelines.trainees import COUNTS, ITEMS, losses_of, made_trainee, same
from tests.tolerances import LOGITS_F32
from vzvideo.models import mini_build
from vzvideo.models.language import LanguageModel


@pytest.fixture(params=["published", "mini"])
def language(request: pytest.FixtureRequest) -> LanguageModel:
    tokenizer = small_tokenizer()
    if request.param == "mini":
        tokenizer.chat_template = mini_build.CHAT_TEMPLATE
    return LanguageModel(small_model(), tokenizer)


def test_packed_answers_cost_what_they_cost_alone(language: LanguageModel) -> None:
    packer, trainee = packer_for(language), made_trainee()
    features = random_features(sum(COUNTS), 32)
    packed = losses_of(trainee, features, packer(ITEMS, COUNTS))
    alone = [
        losses_of(trainee, part, packer([[pair]], len(part)))
        for part, pairs in zip(features.split(COUNTS), ITEMS, strict=True)
        for pair in pairs
    ]
    same(packed, torch.cat(alone))


def test_packed_answers_cost_what_transformers_says(language: LanguageModel) -> None:
    trainee = made_trainee(lora=False)
    before, after = language.prompts.opening(ITEMS[0][0][0])
    answer = [*language.tokenizer("A man rides a bike.").input_ids, language.end]
    features = random_features(5, 32)
    embed = trainee.language_model.get_input_embeddings()
    with torch.no_grad():
        words = [embed(torch.tensor(ids)) for ids in (before, [*after, *answer])]
        row = torch.cat([words[0], trainee.connector(features), words[1]]).unsqueeze(0)
        hidden = trainee.language_model(inputs_embeds=row).last_hidden_state
        scores = trainee.head(hidden)[0, -len(answer) - 1 : -1].log_softmax(-1)
    expected = -scores.gather(1, torch.tensor(answer)[:, None])[:, 0]
    batch = packer_for(language)(ITEMS, [5, 0])
    same(losses_of(trainee, features, batch)[: len(answer)], expected)


def test_wrong_pictures_cost_something_else(packer: Packer) -> None:
    trainee, batch = made_trainee(), packer(ITEMS, 5)
    features = random_features(2, 5, 32)
    right, wrong = (losses_of(trainee, each, batch) for each in (features, features.flip(0)))
    assert (answer_losses(right, batch) - answer_losses(wrong, batch)).abs().min() > LOGITS_F32


def test_one_number_of_visual_tokens_stands_for_all(packer: Packer) -> None:
    for one, each in zip(vars(packer(ITEMS, 5)).values(), vars(packer(ITEMS, [5, 5])).values(),
                         strict=True):  # fmt: skip
        assert torch.equal(one, each)
    with pytest.raises(ValueError, match="zip"):
        packer(ITEMS, [5])


def test_targets_are_the_answers_and_their_end(packer: Packer) -> None:
    said = small_tokenizer().decode(packer(ITEMS, COUNTS).target)
    assert said == "".join(f"{answer}</s>" for _, answer in itertools.chain(*ITEMS))


def test_prompts_are_those_that_are_asked(language: LanguageModel) -> None:
    before, after = language.prompts.opening(ITEMS[0][0][0])
    batch = packer_for(language)(ITEMS[:1], 5)
    prompt = [*before, *[language.video_token] * 5, *after]
    assert batch.ids[0, : len(prompt)].tolist() == prompt
    assert batch.positions[0, : len(prompt)].tolist() == list(range(len(prompt)))
    assert batch.source[0] == len(prompt) - 1


def test_what_decides_short_answers_weighs_more(packer: Packer) -> None:
    batch = packer([[("A?", "Yes."), ("B?", "Two dogs run across a green meadow.")]], 5)
    assert packer([[("A?", "Yes.")]], 5).weight.eq(1).all()
    batch = packer([[("A?", "Yes."), ("B?", "Two dogs run across a green meadow.")]], 5, decisive=3)
    short, long = (batch.weight[batch.answer == number].tolist() for number in (0, 1))
    assert short == [*[3.0] * (len(short) - 1), 1.0]
    assert set(long) == {1.0}


def test_answer_losses_are_means(packer: Packer) -> None:
    batch = packer(ITEMS, COUNTS)
    losses = random_features(len(batch.target))
    sizes = [len(small_tokenizer()(answer).input_ids) + 1 for _, answer in itertools.chain(*ITEMS)]
    expected = torch.stack([part.mean() for part in losses.split(sizes)])
    same(answer_losses(losses, batch), expected)
