"""LLaVA-OneVision: SigLIP, no CLS; patches are compressed once projected.

A video's are shrunk to half before, with one newline behind all frames; a picture's tiles are put
together, and if they are many, shrunk.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from vzvideo.models.families.items import Item, Part
from vzvideo.models.families.llava_next import LlavaNext, without_padding
from vzvideo.models.prompts import chatml
from vzvideo.models.tower import Scored


class LlavaOnevision(LlavaNext):
    arguments: ClassVar = {
        "image": ("pixel_values", "image_sizes", "batch_num_images", "vision_aspect_ratio"),
        "video": ("pixel_values_videos",),
    }
    stacked: ClassVar = ("video",)
    merge: ClassVar = "mean"
    shows: ClassVar = "video"
    kind: ClassVar = "video"

    @property
    def pooled(self) -> int:
        return 2

    @property
    def width(self) -> int:
        return int(self.core.config.get_text_config().hidden_size)

    def template(self, word: str) -> str:
        return chatml(f"{word}\n")

    def features(self, modality: str, hidden: Tensor) -> Tensor:
        projected: Tensor = self.core.multi_modal_projector(hidden)
        return self.pool(modality, projected)

    def pool(self, modality: str, values: Tensor) -> Tensor:
        pooled: Tensor = self.core.apply_pooling(values) if modality == "video" else values
        return pooled

    def project(self, cells: Tensor) -> Tensor:
        return cells

    def framed(self, modality: str, cells: Scored, frames: int, *_: Any) -> list[Item]:
        return super().framed(modality, cells, frames, self.core.image_newline)

    def items(self, modality: str, given: dict[str, Any]) -> list[Item]:
        if modality == "video":
            return super().items(modality, given)
        tiles = self.tiles(given)
        scored = self.tower(modality).score(without_padding(given["pixel_values"], tiles))
        hidden, scores, keys = self.cells(modality, scored)
        # Scores and keys beside the features, through the model's own packing and shrinking.
        beside = torch.cat([hidden, scores[..., None], keys], dim=-1)
        ratio = given.get("vision_aspect_ratio") or self.core.config.vision_aspect_ratio
        packed, _ = self.core.pack_image_features(
            list(beside.split(tiles)),
            given["image_sizes"],
            image_newline=torch.full_like(beside[0, 0], torch.nan),
            vision_aspect_ratio=ratio,
        )
        return [
            self._picture(values, hidden.shape[-1], hidden.shape[1] if count > 1 else None)
            for values, count in zip(packed, tiles, strict=True)
        ]

    def _picture(self, values: Tensor, width: int, base: int | None) -> Item:
        """values (P, E + 1 + K), nan where a newline is; base: cells of the small whole picture."""
        place = (~values[:, width].isnan()).nonzero()[:, 0]
        parts = []
        for at in (place,) if base is None else (place[:base], place[base:]):
            own = values[at][None]
            cells = Scored(own[..., :width], own[..., width], own[..., width + 1 :])
            parts.append(Part(cells, at[None]))
        return Item(parts, len(values), self.core.image_newline)

    def tiles(self, given: dict[str, Any]) -> list[int]:
        tiles, together = super().tiles(given), given.get("batch_num_images")
        if together is None:
            return tiles
        alone = [count == 1 for count in together for _ in range(count)]  # several: not tiled
        return [count if one else 1 for count, one in zip(tiles, alone, strict=True)]
