"""LLaVA-NeXT: a small picture of the whole, then tiles of it in full, a newline behind each row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from vzvideo.models.families.items import Item, Part, with_cls
from vzvideo.models.families.llava import Llava
from vzvideo.models.preprocess import Preprocess
from vzvideo.models.prompts import mistral
from vzvideo.models.tower import Scored


class LlavaNext(Llava):
    arguments: ClassVar = {"image": ("pixel_values", "image_sizes")}
    newline: ClassVar = 1

    def preprocess(self, folder: Path) -> Preprocess:
        # A frame is the small picture of the whole, which is squashed, and has no tiles.
        own = Preprocess.from_folder(folder)
        return replace(own, size=own.crop, fit="squash")

    def template(self, word: str) -> str:
        return mistral(word)

    def items(self, modality: str, given: dict[str, Any]) -> list[Item]:
        if modality == "video":
            return super().items(modality, given)
        tiles = self.tiles(given)
        scored = self.tower(modality).score(without_padding(given["pixel_values"], tiles))
        has_cls = self.has_cls(modality)
        each = scored.scores.shape[1] - has_cls  # that a tile may show
        # The model's own packing, of numbers in place of features, says where each cell lands.
        numbers = [torch.arange(n * each).view(n, each, 1).float() for n in tiles]
        packed, _ = self.core.pack_image_features(
            numbers, given["image_sizes"], self.core.config.vision_feature_select_strategy,
            image_newline=torch.tensor([-1.0]),
        )  # fmt: skip
        split = zip(packed, *(values.split(tiles) for values in scored), strict=True)
        return [self._item(shown[:, 0].long(), Scored(*own), has_cls) for shown, *own in split]

    def _item(self, shown: Tensor, tiles: Scored, has_cls: bool) -> Item:
        """shown (P,): of each placeholder the cell at it, -1 for a newline; tiles (T, N, ...)."""
        place = torch.full((tiles.scores[:, int(has_cls) :].numel(),), -1)
        place[shown[shown >= 0]] = (shown >= 0).nonzero()[:, 0]
        place = place.view(len(tiles.scores), -1)
        parts = []
        for tile, at in enumerate(place):
            stay, at = at >= 0, at[at >= 0][None]  # the others are padding
            if has_cls:
                stay, at = torch.cat([stay.new_ones(1), stay]), with_cls(at)
            chosen = stay.nonzero()[:, 0].to(tiles.scores.device)
            cells = Scored(*(values[tile : tile + 1, chosen] for values in tiles))
            parts.append(Part(cells, at.to(chosen.device), has_cls))
        return Item(parts, len(shown), self.core.image_newline, tiled=True)

    def tiles(self, given: dict[str, Any]) -> list[int]:
        """Of each picture, how many tiles it is cut into, the small whole one counted."""
        points, size = (
            self.core.config.image_grid_pinpoints,
            self.core.config.vision_config.image_size,
        )
        return [image_size_to_num_patches(each, points, size) for each in given["image_sizes"]]


def without_padding(pixels: Tensor, tiles: list[int]) -> Tensor:
    """(B, most tiles, 3, H, W) -> (T, 3, H, W), without the padding up to most."""
    if pixels.ndim == 4:
        return pixels
    return torch.cat([own[:count] for own, count in zip(pixels, tiles, strict=True)])
