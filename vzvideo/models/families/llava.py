"""LLaVA-1.5: each patch of CLIP's last layer but one through a projector, the CLS left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from vzvideo.models.families.pictures import PictureFamily


class Llava(PictureFamily):
    arguments: ClassVar = {"image": ("pixel_values",)}
    shows: ClassVar = "image"
    kind: ClassVar[Literal["video", "image"]] = "image"

    @property
    def width(self) -> int:
        return int(self.core.config.vision_config.hidden_size)

    def layout(self, word: str, times_s: Sequence[float]) -> str:
        if self.shows == "video":
            return word
        return "\n".join([word] * len(times_s))  # a frame is a picture

    def clip_arguments(
        self, inputs: Tensor, ids: Tensor, times_s: Sequence[float]
    ) -> dict[str, Any]:
        pixels = inputs if self.shows == "image" else inputs[None]
        return {self.arguments[self.shows][0]: pixels}

    def project(self, cells: Tensor) -> Tensor:
        projected: Tensor = self.core.multi_modal_projector(cells)
        return projected
