"""Frames to a vision tower's input, in torch, as the published preprocessing does it.

Resize (antialiased, in uint8 as Pillow works), crop the centre, scale to 0..1, normalise. Knows no
tower: the numbers come from a checkpoint's `preprocessor_config.json`; only how a frame is fitted
into the square may be asked for otherwise.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vzvideo.config import Fit
from vzvideo.errors import ModelError, SettingsError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocess:
    """size: shortest edge in pixels; crop: edge of the square that comes out; mean, std: of RGB in
    0..1.

    fit: how a frame becomes that square. "crop": its middle. "squash": all of it, whatever its
        shape, as SigLIP has it. "pad": all of it in its shape, what is left of the square filled
        with the mean colour, as LLaVA has it; no configuration says so.
    longest: before that, resize to this longest edge, as SmolVLM's processor does.
    resample: how to interpolate.
    """

    size: int = 224
    crop: int = 224
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    fit: Fit = "crop"
    longest: int | None = None
    resample: str = "bicubic"

    def __post_init__(self) -> None:
        if self.crop > self.size or (self.fit != "crop" and self.crop != self.size):
            raise ModelError(
                f"preprocessing: crop {self.crop} of frames resized to {self.size} given; the crop "
                "may be no larger, and where nothing is cropped it must be the same"
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
            "squash" if squash else "crop",
            resample=_RESAMPLE.get(config.get("resample", 3), "bicubic"),
        )

    def to_config(self) -> dict[str, Any]:
        """The published form, as transformers writes it for Video-LLaVA."""
        if self.fit == "squash":
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
        return normalise(self.square(pixels).to(device), self.mean, self.std)

    def square(self, pixels: Tensor) -> Tensor:
        """uint8 (T, H, W, 3) -> uint8 (T, 3, crop, crop): what of each frame the tower sees."""
        frames = pixels.permute(0, 3, 1, 2)  # still channels last in memory, which resizes fastest
        if self.longest:
            frames = resize(frames, _longest_edge(frames, self.longest), self.resample)
        height, width = self._resized(*frames.shape[-2:])
        frames = resize(frames, (height, width), self.resample)
        if self.fit == "pad":
            return self._padded(frames)
        top, left = (height - self.crop) // 2, (width - self.crop) // 2
        return frames[..., top : top + self.crop, left : left + self.crop]

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        match self.fit:
            case "squash":
                return self.size, self.size
            case "pad":
                long = max(height, width)
                down, across = (max(1, round(edge * self.size / long)) for edge in (height, width))
                return down, across
            case _:
                short = min(height, width)
                return height * self.size // short, width * self.size // short

    def _padded(self, frames: Tensor) -> Tensor:
        """(T, 3, H, W) in the middle of squares of the mean colour."""
        height, width = frames.shape[-2:]
        colour = torch.tensor([int(255 * each) for each in self.mean], dtype=torch.uint8)
        squares = colour.view(3, 1, 1).repeat(len(frames), 1, self.crop, self.crop)
        top, left = (self.crop - height) // 2, (self.crop - width) // 2
        squares[..., top : top + height, left : left + width] = frames
        return squares

    def fitted(self, fit: Fit | None) -> Preprocess:
        """The same with another `fit`; itself where that is what it has, or None."""
        if fit is None or fit == self.fit:
            return self
        return replace(self, fit=fit, size=self.crop, longest=None)

    def enlarged(self, by: int) -> Preprocess:
        """The same for squares of so many times the edge."""
        return replace(self, size=by * self.size, crop=by * self.crop)

    def cropped(self, height: int, width: int) -> float:
        """Of a frame of this shape, the share of its area that is left out, 0..1."""
        if self.fit != "crop":
            return 0.0
        edge = min(height, width) * self.crop / self.size
        return 1 - edge * edge / (height * width)


@dataclass(frozen=True)
class SmartResize:
    """Qwen's: a frame keeps its shape, edges become multiples of `factor` pixels, the area lies
    between min_pixels and max_pixels."""

    factor: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

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

    def fitted(self, fit: Fit | None) -> SmartResize:
        """Itself; SettingsError where a `fit` is asked for."""
        if fit is not None:
            raise SettingsError(
                f"fit: {fit} given, but this model sees frames whole and in their own shape; leave "
                "it out"
            )
        return self

    def cropped(self, height: int, width: int) -> float:
        """See `Preprocess.cropped`."""
        return 0.0

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
