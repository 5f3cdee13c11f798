"""Qwen3-VL: packed pictures, with features for several layers of the language model (DeepStack),
and the time of each group as text before it.

A cell's features stand one behind the other: its own, then those of each level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from vzvideo.models.families.packed import PackedFamily
from vzvideo.models.prompts import chatml


class Qwen3Vl(PackedFamily):
    mark: ClassVar = "<|vision_start|><|video_pad|><|vision_end|>"
    tells_time: ClassVar = True

    def template(self, word: str) -> str:
        return chatml(f"<|vision_start|>{word}<|vision_end|>")

    def layout(self, word: str, times_s: Sequence[float]) -> str:
        return "".join(
            f"<{time_s:.1f} seconds><|vision_start|>{word}<|vision_end|>" for time_s in times_s
        )

    @property
    def width(self) -> int:
        return super().width * (1 + len(self._vision.deepstack_visual_indexes))

    def encode(self, modality: str, pixels: Tensor, grids: Tensor) -> list[Tensor]:
        out = getattr(self.core, f"get_{modality}_features")(pixels, grids, return_dict=True)
        levels = zip(out.pooler_output, *out.deepstack_features, strict=True)
        return [torch.cat(each, dim=-1) for each in levels]

    def hand_over(self, modality: str, features: list[Tensor]) -> Any:
        width = self.core.config.get_text_config().hidden_size
        own, *deep = zip(*(each.split(width, dim=-1) for each in features), strict=True)
        handed: Any = {"pooler_output": list(own), "deepstack_features": [*map(list, deep)]}
        return BaseModelOutputWithDeepstackFeatures(**handed)
