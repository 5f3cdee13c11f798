"""Visual tokens as moments of a memory, and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from vzvideo.types import VisualTokens
from vzvideo.visionzip.memory import Moment


def tokens_to_moments(tokens: VisualTokens) -> Iterator[Moment]:
    """Each frame's tokens as a moment of no length, on the CPU."""
    features = tokens.features.cpu()
    role, patch = torch.from_numpy(tokens.role), torch.from_numpy(tokens.patch)
    ends = np.flatnonzero(np.diff(tokens.frame, append=tokens.frames)) + 1
    first = 0
    for pts_s, end in zip(tokens.pts_s.tolist(), ends.tolist(), strict=True):
        count = end - first
        yield Moment(
            features[first:end], role[first:end], patch[first:end],
            torch.full((count,), pts_s, dtype=torch.float64), torch.ones(count),
            pts_s, pts_s, tokens.grid,
        )  # fmt: skip
        first = end


def moments_to_tokens(
    moments: tuple[Moment, ...], source: str, about: dict[str, Any]
) -> VisualTokens:
    """Moments of one grid as the language model reads them; each token keeps its own time."""
    whole = {
        name: torch.cat([getattr(moment, name) for moment in moments]) for name in Moment.TENSORS
    }
    pts_s, frame = np.unique(whole["pts_s"].numpy(), return_inverse=True)
    return VisualTokens(
        features=whole["features"],
        frame=frame.astype(np.int32),
        role=whole["role"].numpy(),
        patch=whole["patch"].numpy(),
        pts_s=pts_s,
        grid=moments[0].grid,
        source=source,
        settings=about,
    )
