"""The training script's parts: what is learned in one packed sequence is what is asked later."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from pipelines import train_mini
from pipelines.train_mini import Connector, Example, Packer, Trainee
from tests.conftest import small_model, small_tokenizer
from tests.tolerances import LOGITS_F32
from vzvideo.models import mini_build
from vzvideo.models.video_llava import VideoLlava

ITEMS = [
    ("What happens?", ["A man rides a bike.", "Two dogs run.", "A woman signs with her hands."]),
    ("Who is there? And where is this?", ["A cat.", "A man on a dirt track."]),
]


@pytest.fixture
def packer() -> Packer:
    tokenizer = small_tokenizer()
    tokenizer.chat_template = mini_build.CHAT_TEMPLATE
    return Packer(tokenizer)


@pytest.fixture
def trainee() -> Trainee:
    torch.manual_seed(0)
    made = Trainee(small_model(), torch.randn(200, 32) * 3 + 1)
    with torch.no_grad():  # a fresh LoRA adds nothing, and would hide a mistake in folding it
        for name, weight in made.language_model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    return made.eval()


def test_packed_answers_cost_what_they_cost_alone(packer: Packer, trainee: Trainee) -> None:
    features = torch.randn(2, 5, 32)
    with torch.no_grad():
        packed = trainee(features, packer(ITEMS, 5))
        alone = [
            trainee(features[row : row + 1], packer([(question, [answer])], 5))
            for row, (question, answers) in enumerate(ITEMS)
            for answer in answers
        ]
    torch.testing.assert_close(packed, torch.cat(alone), atol=LOGITS_F32, rtol=0)


def test_wrong_pictures_cost_something_else(packer: Packer, trainee: Trainee) -> None:
    features = torch.randn(2, 5, 32)
    batch = packer(ITEMS, 5)
    with torch.no_grad():
        assert (trainee(features, batch) - trainee(features.flip(0), batch)).abs().max() > 1e-3


def test_targets_are_the_answers_and_their_end(packer: Packer) -> None:
    said = packer.tokenizer.decode(packer(ITEMS, 5).target)
    assert said == "".join(f"{answer}</s>" for _, answers in ITEMS for answer in answers)


def test_prompts_are_those_that_are_asked(packer: Packer) -> None:
    language = VideoLlava(small_model(), packer.tokenizer)
    before, after = language.opening(ITEMS[0][0])
    batch = packer(ITEMS[:1], 5)
    prompt = [*before, *[packer.video] * 5, *after]
    assert batch.ids[0, : len(prompt)].tolist() == prompt
    assert batch.source[0] == len(prompt) - 1


def test_folding_the_standardisation_changes_nothing() -> None:
    torch.manual_seed(0)
    sample = torch.randn(500, 32) * torch.linspace(0.1, 9, 32) + 5
    connector = Connector(small_model().model.multi_modal_projector, sample)
    plain = small_model(seed=7).model.multi_modal_projector
    plain.load_state_dict(connector.folded())
    with torch.no_grad():
        torch.testing.assert_close(plain(sample), connector(sample), atol=1e-5, rtol=1e-4)
        assert connector(sample).std().item() == pytest.approx(train_mini.EMBEDDING_STD, rel=0.2)


def test_export_and_adapter_give_the_trained_model_back(
    packer: Packer, trainee: Trainee, tmp_path: Path
) -> None:
    train_mini.export(trainee, tmp_path / "adapter.safetensors", {"step": 1})
    model = small_model()
    mini_build.apply_adapter(model, tmp_path / "adapter.safetensors")
    batch = packer(ITEMS[:1], 5)
    features = torch.randn(1, 5, 32)
    with torch.no_grad():
        embeds = model.get_input_embeddings()(batch.ids)
        video = (batch.ids == packer.video).unsqueeze(-1)
        embeds = embeds.masked_scatter(video, model.model.multi_modal_projector(features))
        hidden = model.model.language_model(
            inputs_embeds=embeds, attention_mask=batch.mask, position_ids=batch.positions
        ).last_hidden_state
        logits = model.lm_head(hidden[batch.row, batch.source])
        losses = torch.nn.functional.cross_entropy(logits, batch.target, reduction="none")
        # The file holds half precision.
        torch.testing.assert_close(losses, trainee(features, batch), atol=2e-2, rtol=0)


def test_questions_of_a_subject_get_captions_of_it() -> None:
    captions = ["A man runs.", "The man is running.", "Somebody runs.", "A runner.", "Sport."]
    rng = random.Random(0)
    asked = [train_mini.ask(Example((0,), captions), 2, rng) for _ in range(300)]
    of_man = [answers for question, answers in asked if question == "What is the man doing?"]
    assert of_man
    assert all("man" in answer for answers in of_man for answer in answers)
    assert all(len(answers) == 2 for _, answers in asked)
