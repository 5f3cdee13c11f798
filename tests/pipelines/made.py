"""Photographs and visual tokens made for the tests of the pipelines."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vzvideo.models.encoder import Scored
from vzvideo.types import VisualTokens
from vzvideo.video import open_video

CAPTIONS = [
    ["A dog runs on the grass .", "A brown dog is running .", "A dog on grass .", "Two legs ."],
    ["A man rides a bike .", "The man on a bike .", "A man is riding a bike down a road ."],
    ["A woman plays a guitar .", "A woman with a guitar .", "She plays ."],
    ["Children swim in a pool .", "Two children in a swimming pool .", "Kids swimming ."],
    ["A red boat on a lake .", "A boat on the water .", "A boat sails across a lake ."],
    ["A snowboarder in the snow .", "A snowboarder jumps .", "Someone jumping in the snow ."],
    ["A horse behind a fence .", "A horse at a wooden fence .", "The horse is brown ."],
]  # fmt: skip


def pattern(number: int, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """A smooth picture (height, width, 3), another for each number, not its own mirror image."""
    random = np.random.default_rng(number)
    corners = Image.fromarray(random.integers(30, 226, (3, 4, 3), np.uint8))
    return np.asarray(corners.resize((width, height), Image.Resampling.BICUBIC))


def photograph(number: int, width: int = 64, height: int = 48) -> bytes:
    """`pattern`, encoded without loss."""
    file = io.BytesIO()
    Image.fromarray(pattern(number, width, height)).save(file, "PNG")
    return file.getvalue()


def write_parquet(path: Path, splits: Sequence[str]) -> Path:
    """A file of captioned photographs, one for each name of a split."""
    numbers = range(len(splits))
    table = {
        "webp": [photograph(number) for number in numbers],
        "captions": [CAPTIONS[number % len(CAPTIONS)] for number in numbers],
        "split": list(splits),
    }
    pq.write_table(pa.table(table), path)
    return path


def all_frames(path: Path) -> NDArray[np.uint8]:
    """Every frame of a clip (T, H, W, 3)."""
    with open_video(path) as video:
        return video.frames_at(np.arange(0, video.info.duration_s, 0.03)).pixels


def nearest(frames: NDArray[np.uint8], pictures: Sequence[Image.Image]) -> list[int]:
    """Of each frame, the number of the picture that it is most like."""
    height, width = frames.shape[1:3]
    sized = np.stack([np.asarray(each.resize((width, height)), np.float32) for each in pictures])
    return [int(np.abs(sized - frame).mean((1, 2, 3)).argmin()) for frame in frames]


def visual_tokens(features: Tensor) -> VisualTokens:
    """Features (V, D) as the tokens of a video of one frame."""
    count = len(features)
    return VisualTokens(
        features=features,
        frame=np.zeros(count, np.int32),
        role=np.ones(count, np.int8),
        patch=np.zeros(count, np.int32),
        pts_s=np.zeros(1),
        grid=(4, 4),
    )


def random_features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scored(frames: int = 2, patches: int = 256, width: int = 8) -> Scored:
    """Frames as an encoder leaves them before compression."""
    shape = (frames, patches + 1)
    return Scored(
        random_features(*shape, width, seed=1),
        random_features(*shape, seed=2).softmax(1),
        random_features(*shape, 6, seed=3),
    )


def answers(found: dict[str, set[tuple[str, str]]], kind: str) -> set[str]:
    """All answers to the questions of a kind; found: (question, answer) by kind."""
    return {answer for _, answer in found[kind]}
