"""InternVL 2.5 and 3: 2 x 2 patches shuffled into a cell, then a norm and an MLP.

The CLS scores, and is never shown. Frames and tiles are pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from vzvideo.models.families.pictures import PictureFamily, mean_pool
from vzvideo.models.prompts import chatml


class InternVl(PictureFamily):
    arguments: ClassVar = {"image": ("pixel_values",)}
    stacked: ClassVar = ("image",)
    shows: ClassVar = "image"
    mark: ClassVar = "<video>"

    def template(self, word: str) -> str:
        return chatml("<video>\n")

    def clip_arguments(
        self, inputs: Tensor, ids: Tensor, times_s: Sequence[float]
    ) -> dict[str, Any]:
        return {"pixel_values": inputs}

    def layout(self, word: str, times_s: Sequence[float]) -> str:
        return "\n".join(f"Frame{n}: <img>{word}</img>" for n in range(1, len(times_s) + 1))

    @property
    def width(self) -> int:
        return int(self.core.config.vision_config.hidden_size) * self.pooled**2

    @property
    def pooled(self) -> int:
        return round(1 / self.core.config.downsample_ratio)

    def feature_layer(self) -> int | None:
        layer = super().feature_layer()
        return None if layer == -1 else layer

    def has_cls(self, modality: str) -> bool:
        return False  # of cells

    def features(self, modality: str, hidden: Tensor) -> Tensor:
        edge = round((hidden.shape[1] - 1) ** 0.5)
        grid = hidden[:, 1:].unflatten(1, (edge, edge))
        shuffled: Tensor = self.core.pixel_shuffle(grid, self.core.config.downsample_ratio)
        return shuffled.flatten(1, 2)

    def pool(self, modality: str, values: Tensor) -> Tensor:
        return mean_pool(values[:, 1:], self.pooled)

    def project(self, cells: Tensor) -> Tensor:
        projected: Tensor = self.core.multi_modal_projector(cells)
        return projected
