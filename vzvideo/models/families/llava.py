"""LLaVA-1.5: each patch of CLIP's last layer but one through a projector, the CLS left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

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
        return "\n".join([word] * len(times_s))  # a frame is a picture

    def project(self, cells: Tensor) -> Tensor:
        projected: Tensor = self.core.multi_modal_projector(cells)
        return projected
