"""Qwen2.5-VL: packed pictures, of which the tower looks at windows.

Kept cells keep their rotary positions in time, height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from transformers.vision_utils import get_vision_window_index

from vzvideo.models.families.packed import PackedFamily
from vzvideo.models.prompts import chatml


class Qwen25Vl(PackedFamily):
    arguments: ClassVar = {
        "image": ("pixel_values", "image_grid_thw"),
        "video": ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts"),
    }

    def in_rows(self, cells: Tensor, grids: Tensor) -> Tensor:
        tower = self.core.visual
        index, _ = get_vision_window_index(
            grids, tower.spatial_merge_size, tower.window_size, tower.patch_size
        )
        return cells[index.argsort().to(cells.device)]

    def template(self, word: str) -> str:
        visual = f"<|vision_start|>{word}<|vision_end|>"
        return chatml(visual, system="You are a helpful assistant.")

    def told(self, ids: Tensor, times_s: Sequence[float]) -> dict[str, Tensor]:
        apart_s = (times_s[-1] - times_s[0]) / max(1, len(times_s) - 1)
        between = torch.tensor([apart_s or 1.0], device=ids.device)
        return {**super().told(ids, times_s), "second_per_grid_ts": between}
