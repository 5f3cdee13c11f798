"""Families whose tower looks at one picture at a time: all but Qwen's.

B pictures of N patches with D channels become C cells with E channels each.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vzvideo.errors import ModelError
from vzvideo.models.families.base import Family
from vzvideo.models.families.items import Item, Part, places, with_cls
from vzvideo.models.tower import Scored, Tower


class PictureFamily(Family):
    """Patches are cells, unless `features` and `pool` say otherwise."""

    towers: ClassVar[dict[str, str]] = {"image": "vision_tower", "video": "vision_tower"}

    def __init__(self, core: Any) -> None:
        super().__init__(core)
        self._towers: dict[str, Tower] = {}

    def tower(self, modality: str) -> Tower:
        """The tower, up to the layer whose features this family reads."""
        if modality not in self._towers:
            module = getattr(self.core, self.towers[modality])
            self._towers[modality] = Tower(module, self.feature_layer())
        return self._towers[modality]

    def feature_layer(self) -> int | None:
        layer = self.core.config.vision_feature_layer
        if isinstance(layer, int):
            return layer
        raise ModelError(f"several vision feature layers ({list(layer)}) are not supported")

    @property
    def pooled(self) -> int:
        """Patches along the edge of a cell, of a frame."""
        return 1

    def features(self, modality: str, hidden: Tensor) -> Tensor:
        """(B, N, D) -> (B, C, E)."""
        return hidden

    def pool(self, modality: str, values: Tensor) -> Tensor:
        """(B, N, c) -> (B, C, c): scores and keys go the way of the features."""
        return values

    def has_cls(self, modality: str) -> bool:
        """Whether the first cell of a picture is a CLS."""
        return self.tower(modality).has_cls

    def shows_cls(self, modality: str) -> bool:
        """Whether the model is shown the CLS without compression, too. With compression it is, as
        in the authors' code."""
        return self.core.config.vision_feature_select_strategy == "full"

    def cells(self, modality: str, patches: Scored) -> Scored:
        """Patches (B, N, ...) -> cells (B, C, ...)."""
        hidden, scores, keys = patches
        values = self.pool(modality, torch.cat([scores[..., None], keys.float()], dim=-1))
        return Scored(self.features(modality, hidden), values[..., 0], values[..., 1:])

    # -- frames of a clip

    def vision(self) -> nn.Module:
        module: nn.Module = self.tower(self.shows).module
        return module

    @property
    def has_frame_cls(self) -> bool:
        return self.has_cls(self.shows)

    @property
    def frame_cls_shown(self) -> bool:
        return not self.has_frame_cls or self.shows_cls(self.shows)

    def whole_frames(self, inputs: Tensor) -> Tensor:
        cells = self.features(self.shows, self.tower(self.shows).hidden(inputs))
        return cells if self.frame_cls_shown else cells[:, 1:]

    def frames(self, inputs: Tensor) -> Scored:
        return self.cells(self.shows, self.tower(self.shows).score(inputs))

    def frames_by_layer(self, inputs: Tensor) -> tuple[Scored, Tensor]:
        patches, layers = self.tower(self.shows).score_layers(inputs)
        pooled = self.pool(self.shows, rearrange(layers, "l b n -> b n l"))
        return self.cells(self.shows, patches), rearrange(pooled, "b c l -> l b c")

    def grid(self, height: int, width: int) -> tuple[int, int]:
        patch = self.tower(self.shows).patch * self.pooled
        return math.ceil(height / patch), math.ceil(width / patch)

    # -- pictures and videos of a call

    def items(self, modality: str, given: dict[str, Any]) -> list[Item]:
        pixels = given[self.arguments[modality][0]]
        frames = pixels.shape[1] if modality == "video" else 1
        patches = self.tower(modality).score(pixels.flatten(0, -4))
        return self.framed(modality, self.cells(modality, patches), frames)

    def framed(
        self, modality: str, cells: Scored, frames: int, newline: Tensor | None = None
    ) -> list[Item]:
        """Cells (B, C, ...) as items of so many frames each, a newline behind each item."""
        has_cls, device = self.has_cls(modality), cells.scores.device
        hidden_cls = has_cls and not self.shows_cls(modality)
        shown = cells.scores.shape[1] - hidden_cls
        place = places(frames, shown, device)
        place = with_cls(place) if hidden_cls else place
        size = frames * shown + (newline is not None)
        split = zip(*(each.split(frames) for each in cells), strict=True)
        return [Item([Part(Scored(*own), place, has_cls)], size, newline) for own in split]


def mean_pool(values: Tensor, stride: int) -> Tensor:
    """(B, N, c) of a square -> (B, N / stride^2, c): means of stride x stride patches."""
    grid = rearrange(values, "b (h w) c -> b c h w", h=round(values.shape[1] ** 0.5))
    return rearrange(F.avg_pool2d(grid, stride), "b c h w -> b (h w) c")


class BareTower(PictureFamily):
    """A tower without a language model, whose cells are its patches, a CLS among them."""

    def __init__(self, module: nn.Module, feature_layer: int | None) -> None:
        super().__init__(module)
        self._towers[self.shows] = Tower(module, feature_layer)

    @property
    def width(self) -> int:
        return self._towers[self.shows].width

    def shows_cls(self, modality: str) -> bool:
        return True
