"""The values that flow through the house, each frozen and checking itself when it is made.

Knows no model and no file. `torch` is imported for type checking alone, so that `video/` stays
free of it; saving and loading are in `store`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


# What becomes of frames that come faster than they are encoded; see `VideoQA.stream`.
Policy = Literal["block", "drop_oldest", "drop_newest"]


MAX_HEADER_BYTES = 1 << 27  # of a safetensors file


class Role(IntEnum):
    """What a visual token is; the values are those stored on disk."""

    CLS = 0
    DOMINANT = 1
    CONTEXTUAL = 2


@dataclass(frozen=True, eq=False)
class FrameBatch:
    """Decoded frames of one source.

    pixels: uint8 (T, H, W, 3), RGB.
    pts_s: float64 (T,), the source's own timestamps in seconds, counted from its first frame's
        container time; never index / fps.
    source: path or URL.
    asked: how many frames were asked for (several times may name one frame).
    lost: how many packets or frames were damaged and passed over on the way.
    """

    pixels: NDArray[np.uint8]
    pts_s: NDArray[np.float64]
    source: str = ""
    asked: int = 0
    lost: int = 0

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 4 or self.pixels.shape[3] != 3:
            raise ValueError(
                f"pixels must be uint8 (T, H, W, 3), not {self.pixels.dtype} {self.pixels.shape}"
            )
        if self.pts_s.dtype != np.float64 or self.pts_s.shape != self.pixels.shape[:1]:
            raise ValueError(
                f"pts_s must be float64 ({len(self.pixels)},), "
                f"not {self.pts_s.dtype} {self.pts_s.shape}"
            )

    def __len__(self) -> int:
        return len(self.pts_s)

    def __repr__(self) -> str:
        return f"FrameBatch({self.pixels.shape}, {_span(self.pts_s)}, source={self.source!r})"


@dataclass(frozen=True, eq=False)
class VisualTokens:
    """A video as the language model will see it, packed so that frames may differ in tokens.

    features: (N, D), from the vision tower's feature layer, before the projector.
    frame: int32 (N,), ascending index into `pts_s`.
    role: int8 (N,), values of `Role`.
    patch: int32 (N,), raster index in the grid, -1 for the CLS.
    pts_s: float64 (T,), seconds.
    grid: patches of a frame, (rows, columns).
    source: path or URL the frames came from.
    settings: what made them: model, tower, dominant, contextual, sampling and the like (JSON).
    until: int32 (N,), up to which frame, not counted, a token stands for its place; of tokens that
        are zipped frame by frame, the next one, which is what None means.
    """

    features: Tensor
    frame: NDArray[np.int32]
    role: NDArray[np.int8]
    patch: NDArray[np.int32]
    pts_s: NDArray[np.float64]
    grid: tuple[int, int]
    source: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    until: NDArray[np.int32] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.until is None:
            object.__setattr__(self, "until", self.frame + np.int32(1))
        count, frames = len(self.frame), len(self.pts_s)
        if self.features.ndim != 2 or self.features.shape[0] != count:
            raise ValueError(f"features {tuple(self.features.shape)} must be ({count}, D)")
        for name, dtype in (
            ("frame", np.int32), ("role", np.int8), ("patch", np.int32), ("until", np.int32),
        ):  # fmt: skip
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != (count,):
                raise ValueError(
                    f"{name} must be {np.dtype(dtype)} ({count},), not {array.dtype} {array.shape}"
                )
        if self.pts_s.dtype != np.float64 or self.pts_s.ndim != 1:
            raise ValueError("pts_s must be float64 (T,)")
        if count == 0 or frames == 0:
            raise ValueError("at least one frame and one token are needed")
        if self.frame.min() < 0 or self.frame.max() >= frames or (np.diff(self.frame) < 0).any():
            raise ValueError(f"frame must ascend within 0..{frames - 1}")
        if (self.until <= self.frame).any() or self.until.max() > frames:
            raise ValueError(f"until must lie behind frame, up to {frames}")
        if not np.isin(self.role, list(Role)).all():
            raise ValueError("role must hold values of Role")
        if self.patch.min() < -1 or self.patch.max() >= self.grid[0] * self.grid[1]:
            raise ValueError(f"patch must lie in -1..{self.grid[0] * self.grid[1] - 1}")

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def frames(self) -> int:
        return len(self.pts_s)

    def covers(self) -> NDArray[np.bool_]:
        """Which token stands for its place in which frame (T, N)."""
        at = np.arange(self.frames)[:, None]
        found: NDArray[np.bool_] = (self.frame <= at) & (at < self.until)
        return found

    @property
    def tokens_before(self) -> int:
        """Tokens these frames would take uncompressed, those of a stream counted that they stand
        for."""
        has_cls = bool((self.role == Role.CLS).any())
        return int(self.settings.get("stand_for", self.frames)) * (
            self.grid[0] * self.grid[1] + has_cls
        )

    def __repr__(self) -> str:
        return (
            f"VisualTokens({tuple(self.features.shape)} from {self.frames} frames, "
            f"{self.tokens_before} tokens before, {_span(self.pts_s)}, source={self.source!r})"
        )

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file, whole or not at all."""
        from vzvideo.qa import store

        store.save(self, Path(path))

    @staticmethod
    def load(path: str | Path) -> VisualTokens:
        """Reads what `save` wrote; raises TokenFileError where it is damaged."""
        from vzvideo.qa import store

        return store.load(Path(path))


@dataclass(frozen=True)
class Answer:
    """One answer and what it cost.

    seconds: per stage: decode, encode, prefill, generate. yes_probability: of yes, 0..1, where the
    answer says yes or no and is no part of a conversation.
    """

    text: str
    question: str
    source: str
    model: str
    frame_times_s: list[float]
    tokens_before: int
    tokens: int
    seconds: dict[str, float]
    cached: bool = False
    yes_probability: float | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Failure:
    """A question that got no answer: where it stopped, a short code, and a line for a person."""

    question: str
    source: str
    stage: str
    error: str
    message: str


def is_token_file(path: Path) -> bool:
    """Whether a file begins as safetensors do: a video never does."""
    try:
        if not path.is_file():  # what is read of a pipe is gone
            return False
        with path.open("rb") as file:
            head = file.read(9)
    except OSError:
        return False
    return path.name.endswith(".safetensors") or (
        len(head) == 9
        and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES
        and head[8:] == b"{"
    )


def _span(pts_s: NDArray[np.float64]) -> str:
    return f"{pts_s[0]:.3f}..{pts_s[-1]:.3f} s" if len(pts_s) else "no frames"
