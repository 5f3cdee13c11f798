"""SmolVLM, SmolVLM2 and Idefics3: s x s patches shuffled into a cell, and one linear layer.

That layer has no bias, so that merging before it and behind it is the same. Frames are pictures;
the text between them says when.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from vzvideo import visionzip
from vzvideo.models.families.base import Item
from vzvideo.models.families.pictures import PictureFamily, mean_pool
from vzvideo.models.tower import Scored


class SmolVlm(PictureFamily):
    arguments: ClassVar = {"image": ("pixel_values", "pixel_attention_mask")}
    towers: ClassVar = {"image": "vision_model"}
    merge: ClassVar = "mean"
    shows: ClassVar = "image"

    @property
    def width(self) -> int:  # type: ignore[override]
        return int(self.core.config.get_text_config().hidden_size)

    @property
    def pooled(self) -> int:  # type: ignore[override]
        return int(self.core.config.scale_factor)

    def feature_layer(self) -> int | None:
        return None

    def shows_cls(self, modality: str) -> bool:
        return True  # there is none

    def features(self, modality: str, hidden: Tensor) -> Tensor:
        connected: Tensor = self.core.connector(hidden)
        return connected

    def pool(self, modality: str, values: Tensor) -> Tensor:
        return mean_pool(values, self.pooled)

    def items(self, modality: str, given: dict[str, Any]) -> list[Item]:
        # Through the model's own method, which knows which of a row's pictures are padding.
        tower = self.tower(modality)
        with tower.watch() as seen:
            out = self.core.get_image_features(**given, return_dict=True)
        features = torch.cat(list(out.pooler_output))
        scores, keys = tower.scores(seen), visionzip.mean_keys(seen["k"])
        values = self.pool(modality, torch.cat([scores[..., None], keys.float()], dim=-1))
        hidden = features.view(*values.shape[:2], -1)
        return self.framed(modality, Scored(hidden, values[..., 0], values[..., 1:]), 1)
