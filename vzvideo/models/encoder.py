"""Frames to visual tokens: a family's cells, and VisionZip behind them.

Knows nothing of prompts and language models: what is left to do for a token is done when it is
read. Of a bare vision tower, the cells are its patches.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vzvideo import visionzip
from vzvideo.config import Fit
from vzvideo.errors import ModelError, SettingsError
from vzvideo.models.families.base import Family
from vzvideo.models.families.pictures import BareTower
from vzvideo.models.preprocess import Preprocess, SmartResize
from vzvideo.models.tower import Scored as Scored
from vzvideo.types import FrameBatch, Role, VisualTokens
from vzvideo.visionzip import NO_COMPRESSION as NO_COMPRESSION
from vzvideo.visionzip import ZipSettings as ZipSettings


@dataclass(frozen=True, eq=False)
class Looked:
    """Some frames of a clip as the tower sees them, G groups, nothing compressed yet.

    scored: cells (G, C, ...). pts_s: float64 (G,). grid: rows and columns of the cells that have a
    place. cropped: of a frame's area, the share that is left out.
    """

    scored: Scored
    pts_s: NDArray[np.float64]
    grid: tuple[int, int]
    cropped: float
    source: str


class Encoder:
    """A family's eyes, their preprocessing, and VisionZip.

    Args:
        eyes: a family bound to a model, or a bare vision tower (CLIP, DINOv2, SigLIP).
        preprocess: what the tower expects of its pixels.
        feature_layer: of a bare tower, index into its hidden states, as transformers'
            `vision_feature_layer`; layers behind it are never run.

    G groups come of T frames: as many, or where a model looks at two frames at once, half.
    """

    def __init__(
        self,
        eyes: Family | nn.Module,
        preprocess: Preprocess | SmartResize,
        feature_layer: int = -2,
    ) -> None:
        self.family = eyes if isinstance(eyes, Family) else BareTower(eyes, feature_layer)
        self.preprocess: Any = preprocess
        self.tower: Any = self.family.vision().eval()
        self.has_cls = self.family.has_frame_cls
        self.grid = self.family.grid(*preprocess.largest)  # of the largest frame
        self.width = self.family.width
        # Of an uncompressed frame, the CLS counted; the most, where frames differ.
        self.tokens = self.grid[0] * self.grid[1] + self.has_cls

    def fitted(self, fit: Fit | None) -> Encoder:
        """This encoder for frames fitted into its square in this way, which is itself where they
        are so anyway; SettingsError where its frames keep their shape."""
        preprocess = self.preprocess.fitted(fit)
        if preprocess is self.preprocess:
            return self
        other = copy.copy(self)  # one family, one tower: nothing that is shared is changed
        other.preprocess = preprocess
        return other

    @property
    def device(self) -> torch.device:
        return next(self.tower.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.tower.parameters()).dtype

    @torch.inference_mode()
    def hidden(self, inputs: Tensor) -> Tensor:
        """Preprocessed (T, 3, H, W) -> features (G, C, E), nothing scored."""
        return self.family.whole_frames(inputs)

    @torch.inference_mode()
    def score(self, inputs: Tensor) -> Scored:
        """Preprocessed (T, 3, H, W) -> features with the scores and keys to compress them by."""
        return self.family.frames(inputs)

    @torch.inference_mode()
    def score_layers(self, inputs: Tensor) -> tuple[Scored, Tensor]:
        """As `score`, and the scores (L, G, C) of every layer that is run."""
        return self.family.frames_by_layer(inputs)

    def encode(
        self, frames: FrameBatch, settings: ZipSettings | None = None, *, apart: bool = False
    ) -> VisualTokens:
        """uint8 frames (T, H, W, 3) -> their tokens, on the tower's device, marked with how they
        were compressed and what share of each frame was cropped.

        apart: each frame by itself, also where a model looks at several at once.
        """
        settings = settings or ZipSettings()
        self.check(settings)
        if apart and (at_once := self.family.frames_per_group) > 1:
            frames = replace(
                frames,
                pixels=np.repeat(frames.pixels, at_once, 0),
                pts_s=np.repeat(frames.pts_s, at_once),
            )
        inputs = self.preprocess(torch.from_numpy(frames.pixels), self.device)
        grid = self.family.grid(*inputs.shape[-2:])
        cells = grid[0] * grid[1] + self.has_cls
        if settings.dominant is None or settings.counts(cells, self.has_cls)[0] > cells:
            features = self.hidden(inputs)
            first = cells - features.shape[1]  # where a CLS is not shown
            patch = torch.arange(first, cells).expand(len(features), -1)
            role = torch.full_like(patch, Role.DOMINANT)
            return self._pack(frames, features, patch, role, settings, grid)
        return self.compress(frames, self.score(inputs), settings, grid)

    def compress(
        self,
        frames: FrameBatch,
        scored: Scored,
        settings: ZipSettings,
        grid: tuple[int, int] | None = None,
    ) -> VisualTokens:
        """The tokens of frames (T, H, W, 3) that `score` has seen; `settings` with a dominant."""
        dominant, contextual = settings.counts(scored.scores.shape[1], self.has_cls)
        features, patch, _ = visionzip.compress(
            *scored, dominant, contextual, merge=settings.merge, has_cls=self.has_cls
        )
        role = torch.full_like(patch, Role.CONTEXTUAL)
        role[:, :dominant] = Role.DOMINANT
        if self.family.has_positions:  # read where they are, not what was merged at the end
            order = patch.argsort(1)
            role, patch = role.gather(1, order), patch.gather(1, order)
            features = features.gather(1, order[..., None].expand_as(features))
        return self._pack(frames, features, patch, role, settings, grid or self.grid)

    def look(self, frames: FrameBatch) -> Looked:
        """uint8 frames (T, H, W, 3) -> what `zip_clip` wants of them."""
        inputs = self.preprocess(torch.from_numpy(frames.pixels), self.device)
        return self.looked(frames, self.score(inputs), self.family.grid(*inputs.shape[-2:]))

    def looked(
        self, frames: FrameBatch, scored: Scored, grid: tuple[int, int] | None = None
    ) -> Looked:
        """The same of frames that `score` has seen."""
        return Looked(
            scored,
            group_times(frames.pts_s, self.family.frames_per_group),
            grid or self.grid,
            self.preprocess.cropped(*frames.pixels.shape[1:3]),
            frames.source,
        )

    def zip_clip(self, parts: Sequence[Looked], settings: ZipSettings) -> VisualTokens:
        """Consecutive parts of one video -> its tokens, as many as `settings` would leave of its
        frames one by one, those that stand still merged across frames."""
        return self.pack_clip(self.zip_looked(parts, settings), parts, settings)

    def zip_looked(self, parts: Sequence[Looked], settings: ZipSettings) -> visionzip.ZippedClip:
        """As `zip_clip`, with what became of each cell."""
        self.check(settings)
        _check_shapes([part.grid for part in parts], parts[0].source)
        scored = Scored(*map(torch.cat, zip(*(part.scored for part in parts), strict=True)))
        groups, cells = scored.scores.shape
        return visionzip.zip_clip(
            *scored,
            groups * settings.tokens_per_frame(cells),
            has_cls=self.has_cls,
            merge=settings.merge,
            prune=self.family.has_positions,
            contextual=settings.contextual_share,
        )

    def pack_clip(
        self, zipped: visionzip.ZippedClip, parts: Sequence[Looked], settings: ZipSettings
    ) -> VisualTokens:
        """The tokens of what `zip_looked` made of these parts."""
        settings = replace(settings, temporal=True)
        patch = (zipped.cell.cpu().numpy() - self.has_cls).astype(np.int32)
        role = np.where(zipped.contextual.cpu().numpy(), Role.CONTEXTUAL, Role.DOMINANT)
        noted = {"static": round(zipped.static, 4), "cropped": round(parts[0].cropped, 4)}
        return VisualTokens(
            features=zipped.features,
            frame=zipped.frame.cpu().numpy().astype(np.int32),
            role=np.where(patch < 0, Role.CLS, role).astype(np.int8),
            patch=patch,
            pts_s=np.concatenate([part.pts_s for part in parts]),
            grid=parts[0].grid,
            source=parts[0].source,
            settings=settings.about() | noted,
            until=zipped.until.cpu().numpy().astype(np.int32),
        )

    def encode_clip(self, batches: Iterable[FrameBatch], settings: ZipSettings) -> VisualTokens:
        """All batches of one video, at least one, to its tokens; across frames where `settings` say
        so."""
        clip = ClipEncoder(self, settings)
        for batch in batches:
            clip.add(batch)
        return clip.tokens()

    def encode_stream(
        self, batches: Iterable[FrameBatch], settings: ZipSettings | None = None
    ) -> Iterator[VisualTokens]:
        """Tokens for each batch of frames as it comes."""
        for batch in batches:
            yield self.encode(batch, settings)

    def check(self, settings: ZipSettings) -> None:
        """Raises SettingsError where a frame of this tower cannot be compressed so."""
        if settings.dominant is None:
            return
        if settings.merge not in ("reference", "mean"):
            raise SettingsError(f'merge={settings.merge!r}: choose "reference" or "mean"')
        dominant, contextual = settings.dominant, settings.contextual
        counts = settings.counts(self.tokens, self.has_cls)
        least = 1 if self.has_cls else 0
        if not least <= counts[0] <= self.tokens or contextual < 0 or sum(counts) < 1:
            raise SettingsError(
                f"dominant={dominant}, contextual={contextual}: this tower makes {self.tokens} "
                f"tokens a frame; dominant must be {least}..{self.tokens}, contextual at least 0, "
                "and one token at least must remain"
            )

    def _pack(
        self,
        frames: FrameBatch,
        features: Tensor,
        patch: Tensor,
        role: Tensor,
        settings: ZipSettings,
        grid: tuple[int, int],
    ) -> VisualTokens:
        """features (G, M, E), the cell (G, M) each stands for, the CLS counted, and its `Role`."""
        cropped = self.preprocess.cropped(*frames.pixels.shape[1:3])
        groups, each = patch.shape
        cells = (patch.cpu().numpy() - self.has_cls).astype(np.int32)
        roles = np.where(cells < 0, Role.CLS, role.cpu().numpy()).astype(np.int8)
        return VisualTokens(
            features=features.flatten(0, 1),
            frame=np.repeat(np.arange(groups, dtype=np.int32), each),
            role=roles.reshape(-1),
            patch=cells.reshape(-1),
            pts_s=group_times(frames.pts_s, self.family.frames_per_group),
            grid=grid,
            source=frames.source,
            settings=replace(settings, temporal=False).about() | {"cropped": round(cropped, 4)},
        )


class ClipEncoder:
    """Frames of one video on their way to tokens: zipped as they come, or across frames at the end,
    until when the features of all of them are held."""

    def __init__(self, encoder: Encoder, settings: ZipSettings) -> None:
        self._encoder, self._settings = encoder, settings
        self._zipped: list[VisualTokens] = []
        self._looked: list[Looked] = []

    @property
    def empty(self) -> bool:
        return not (self._zipped or self._looked)

    def add(self, frames: FrameBatch) -> None:
        """The next frames (T, H, W, 3)."""
        if self._settings.temporal:
            self._looked.append(self._encoder.look(frames))
        else:
            self._zipped.append(self._encoder.encode(frames, self._settings))

    def tokens(self) -> VisualTokens:
        """Of all that were added, at least one."""
        if self._settings.temporal:
            return self._encoder.zip_clip(self._looked, self._settings)
        return join(self._zipped)


def group_times(pts_s: NDArray[np.float64], per_group: int) -> NDArray[np.float64]:
    """Times (T,) of frames -> those (G,) of groups, the mean of each; the last frame is repeated up
    to a whole group, as the models' processors do."""
    if per_group == 1:
        return pts_s
    whole = np.append(pts_s, np.repeat(pts_s[-1:], -len(pts_s) % per_group))
    times_s: NDArray[np.float64] = whole.reshape(-1, per_group).mean(1)
    return times_s


def join(parts: list[VisualTokens]) -> VisualTokens:
    """Consecutive parts of one video as one."""
    _check_shapes([part.grid for part in parts], parts[0].source)
    first = np.cumsum([0, *(part.frames for part in parts[:-1])])
    return replace(
        parts[0],
        features=torch.cat([part.features for part in parts]),
        frame=np.concatenate([p.frame + np.int32(n) for p, n in zip(parts, first, strict=True)]),
        role=np.concatenate([part.role for part in parts]),
        patch=np.concatenate([part.patch for part in parts]),
        until=np.concatenate([p.until + np.int32(n) for p, n in zip(parts, first, strict=True)]),
        pts_s=np.concatenate([part.pts_s for part in parts]),
    )


def _check_shapes(grids: Sequence[tuple[int, int]], source: str) -> None:
    if len(set(grids)) > 1:
        raise ModelError(
            f"{source}: frames change their shape within the video, which this model cannot be "
            "shown as one; ask of a part of it (start_s, end_s)",
            code="shape",
        )
