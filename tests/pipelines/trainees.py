"""Small models that learn, and what they are taught."""

from __future__ import annotations

import torch
from torch import Tensor

from pipelines.mini.packing import Packed
from pipelines.mini.trainer import Trainee
from tests.conftest import small_model
from tests.pipelines.made import random_features
from tests.tolerances import LOGITS_F32

ITEMS = [
    [("What happens?", "A man rides a bike."), ("Who is there?", "Two dogs run."), ("A?", "Yes.")],
    [("And where is this? Who is it?", "A cat."), ("What?", "A man on a dirt track.")],
]
COUNTS = [5, 9]
SAMPLE = random_features(300, 32) * torch.linspace(0.1, 9, 32) + 5


def made_trainee(sample: Tensor | None = SAMPLE, *, lora: bool = True, seed: int = 0) -> Trainee:
    """With a LoRA that does something: a fresh one adds nothing and would hide mistakes."""
    model = small_model()
    torch.manual_seed(seed)
    trainee = Trainee(model, sample, lora=lora)
    with torch.no_grad():
        for name, weight in trainee.language_model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
        for weight in trainee.connector.parameters():
            weight.normal_(std=0.1)
    return trainee.eval()


def losses_of(trainee: Trainee, features: Tensor, batch: Packed) -> Tensor:
    with torch.no_grad():
        losses: Tensor = trainee(features, batch)
    return losses


def same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=LOGITS_F32, rtol=LOGITS_F32)
