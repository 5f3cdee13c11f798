"""LLaVA-NeXT-Video: pictures as LLaVA-NeXT; of a video's frames 2 x 2 patches are pooled."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from vzvideo.models.families.llava_next import LlavaNext
from vzvideo.models.families.pictures import mean_pool
from vzvideo.models.preprocess import Preprocess
from vzvideo.models.prompts import vicuna


class LlavaNextVideo(LlavaNext):
    arguments: ClassVar = {**LlavaNext.arguments, "video": ("pixel_values_videos",)}
    shows: ClassVar = "video"
    newline: ClassVar = 0  # behind pictures alone
    kind: ClassVar = "video"

    @property
    def pooled(self) -> int:
        return int(self.core.config.spatial_pool_stride)

    def preprocess(self, folder: Path) -> Preprocess:
        return Preprocess.from_folder(folder)

    def template(self, word: str) -> str:
        return vicuna(word)

    def features(self, modality: str, hidden: Tensor) -> Tensor:
        if modality == "image":
            return hidden
        return self._behind_cls(hidden, self.core.vision_resampler(hidden[:, self._cls :]))

    def pool(self, modality: str, values: Tensor) -> Tensor:
        if modality == "image":
            return values
        return self._behind_cls(values, mean_pool(values[:, self._cls :], self.pooled))

    @property
    def _cls(self) -> int:
        return int(self.has_cls("video"))

    def _behind_cls(self, whole: Tensor, pooled: Tensor) -> Tensor:
        return torch.cat([whole[:, : self._cls], pooled], dim=1)
