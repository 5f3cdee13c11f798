"""Frames to a vision tower's input, in torch, as the published preprocessing does it.

Resize (antialiased, in uint8 as Pillow works), crop the centre, scale to 0..1, normalise. Knows no
tower: the numbers come from a checkpoint's `preprocessor_config.json`.
"""

from __future__ import annotations

import json
import math
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
    longest: before that, resize to this longest edge, as SmolVLM's processor does.
    resample: how to interpolate.
    """

    size: int = 224
    crop: int = 224
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    squash: bool = False
    longest: int | None = None
    resample: str = "bicubic"

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
            resample=_RESAMPLE.get(config.get("resample", 3), "bicubic"),
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
            "resample": {name: number for number, name in _RESAMPLE.items()}[self.resample],
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
        if self.longest:
            frames = resize(frames, _longest_edge(frames, self.longest), self.resample)
        height, width = frames.shape[-2:]
        short = min(height, width)
        if self.squash:
            resized = (self.size, self.size)
        else:
            resized = (height * self.size // short, width * self.size // short)
        frames = resize(frames, resized, self.resample)
        top, left = (resized[0] - self.crop) // 2, (resized[1] - self.crop) // 2
        frames = frames[..., top : top + self.crop, left : left + self.crop].to(device)
        return normalise(frames, self.mean, self.std)


@dataclass(frozen=True)
class SmartResize:
    """Qwen's: a frame keeps its shape, edges become multiples of `factor` pixels, the area lies
    between min_pixels and max_pixels."""

    factor: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    squash = True  # nothing is cropped

    @classmethod
    def from_folder(cls, folder: Path, factor: int) -> SmartResize:
        """Reads a checkpoint's configuration; never more than 768 tokens a frame, as the reference
        implementation (qwen-vl-utils) has it."""
        config: dict[str, Any] = {}
        for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
            if (folder / name).is_file():
                config = json.loads((folder / name).read_text())
                break
        size, area = config.get("size") or {}, factor * factor
        least = size.get("shortest_edge") or config.get("min_pixels") or 128 * area
        most = size.get("longest_edge") or config.get("max_pixels") or 768 * area
        return cls(
            factor,
            int(least),
            min(int(most), 768 * area),
            tuple(config.get("image_mean") or CLIP_MEAN),
            tuple(config.get("image_std") or CLIP_STD),
        )

    @property
    def size(self) -> int:
        """Half the shortest edge that frames are decoded at."""
        return math.isqrt(self.max_pixels) // 2

    @property
    def crop(self) -> int:
        return self.size

    @property
    def largest(self) -> tuple[int, int]:
        """Height and width of a frame of the largest area."""
        return self.factor, self.max_pixels // self.factor

    def target(self, height: int, width: int) -> tuple[int, int]:
        """Of a frame of so many pixels, height and width that come out."""
        factor = self.factor
        found = [max(factor, round(edge / factor) * factor) for edge in (height, width)]
        if found[0] * found[1] > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            edges = [math.floor(edge / shrink / factor) * factor for edge in (height, width)]
            found = [max(factor, edge) for edge in edges]
        elif found[0] * found[1] < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            found = [math.ceil(edge * grow / factor) * factor for edge in (height, width)]
        return found[0], found[1]

    def __call__(self, pixels: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """uint8 (T, H, W, 3) on the CPU -> float32 (T, 3, h, w) on `device`."""
        frames = pixels.permute(0, 3, 1, 2)
        frames = resize(frames, self.target(*frames.shape[-2:]), "bicubic").to(device)
        return normalise(frames, self.mean, self.std)


_RESAMPLE = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers


def resize(frames: Tensor, size: tuple[int, int], resample: str) -> Tensor:
    """uint8 (T, 3, H, W) -> (T, 3, *size)."""
    if size == tuple(frames.shape[-2:]):
        return frames
    try:
        return F.interpolate(frames, size, mode=resample, antialias=True)
    except NotImplementedError:  # Lanczos came with torch 2.12; the published code does the same
        return F.interpolate(frames, size, mode="bicubic", antialias=True)


def normalise(frames: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """0..255 (T, 3, H, W) -> float32."""
    centre, spread = (
        torch.tensor(values, device=frames.device).view(3, 1, 1) for values in (mean, std)
    )
    return (frames.float() / 255 - centre) / spread


def _longest_edge(frames: Tensor, edge: int) -> tuple[int, int]:
    """The size at which the longest edge is `edge`, the other one even."""
    height, width = frames.shape[-2:]
    if width >= height:
        other = int(edge * height / width)
        return max(1, other + other % 2), edge
    other = int(edge * width / height)
    return edge, max(1, other + other % 2)


def _edge(size: int | dict[str, int]) -> int:
    if isinstance(size, int):
        return size
    return size.get("shortest_edge") or size.get("height") or size["longest_edge"]
