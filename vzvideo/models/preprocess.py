"""Frames to a vision tower's input, in torch, as the published CLIP preprocessing does it.

Resize the shortest edge (bicubic, antialiased, in uint8 as Pillow works), crop the centre, scale to
0..1, normalise. Knows no tower: the numbers come from a checkpoint's `preprocessor_config.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vzvideo.errors import ModelError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocess:
    """size: shortest edge in pixels; crop: edge of the square kept; mean, std: of RGB in 0..1.

    squash: resize to size x size whatever the shape, and crop nothing, as SigLIP does.
    """

    size: int = 224
    crop: int = 224
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    squash: bool = False

    def __post_init__(self) -> None:
        if self.crop > self.size or (self.squash and self.crop != self.size):
            raise ModelError(
                f"preprocessing: crop {self.crop} of frames resized to {self.size} given; the crop "
                "may be no larger, and with squash it must be the same"
            )

    @property
    def largest(self) -> tuple[int, int]:
        """Height and width of the largest frame that comes out."""
        return self.crop, self.crop

    @classmethod
    def from_folder(cls, folder: Path) -> Preprocess:
        """Reads a checkpoint's preprocessor configuration; CLIP's values where there is none."""
        for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
            if (folder / name).is_file():
                return cls.from_config(json.loads((folder / name).read_text()))
        return cls()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Preprocess:
        size = config.get("size") or 224  # where a field is not used, it may be null
        squash = isinstance(size, dict) and "shortest_edge" not in size
        edge = _edge(size)
        return cls(
            edge,
            edge if squash else _edge(config.get("crop_size") or edge),
            tuple(config.get("image_mean") or CLIP_MEAN),
            tuple(config.get("image_std") or CLIP_STD),
            squash,
        )

    def to_config(self) -> dict[str, Any]:
        """The published form, as transformers writes it for Video-LLaVA."""
        if self.squash:
            size = {"height": self.size, "width": self.size}
        else:
            size = {"shortest_edge": self.size}
        return {
            "image_processor_type": "VideoLlavaImageProcessor",
            "processor_class": "VideoLlavaProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": size,
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": self.crop, "width": self.crop},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }

    def __call__(self, pixels: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """uint8 (T, H, W, 3) on the CPU -> float32 (T, 3, crop, crop) on `device`."""
        frames = pixels.permute(0, 3, 1, 2)  # still channels last in memory, which resizes fastest
        height, width = frames.shape[-2:]
        short = min(height, width)
        if self.squash:
            resized = (self.size, self.size)
        else:
            resized = (height * self.size // short, width * self.size // short)
        if resized != (height, width):
            frames = F.interpolate(frames, resized, mode="bicubic", antialias=True)
        top, left = (resized[0] - self.crop) // 2, (resized[1] - self.crop) // 2
        frames = frames[..., top : top + self.crop, left : left + self.crop].to(device)
        mean = torch.tensor(self.mean, device=device).view(3, 1, 1)
        std = torch.tensor(self.std, device=device).view(3, 1, 1)
        return (frames.float() / 255 - mean) / std


def _edge(size: int | dict[str, int]) -> int:
    if isinstance(size, int):
        return size
    return size.get("shortest_edge") or size["height"]
