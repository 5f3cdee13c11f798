"""Ways from a whole frame to fewer tokens: VisionZip, either half of it, and plainer ones.

Each takes whole frames (B, N, D) and gives (B, tokens, D), the CLS always first.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vzvideo import visionzip
from vzvideo.models.encoder import Scored

Reduce = Callable[[Scored, int], Tensor]


def by_visionzip(scored: Scored, tokens: int) -> Tensor:
    """Dominant and contextual."""
    split = visionzip.split_tokens(tokens)
    return visionzip.compress(scored.hidden, scored.scores, scored.keys, *split).features


def by_attention(scored: Scored, tokens: int) -> Tensor:
    """Dominant ones alone."""
    return visionzip.compress(scored.hidden, scored.scores, scored.keys, tokens, 0).features


def by_merging(scored: Scored, tokens: int) -> Tensor:
    """Contextual ones alone, as means."""
    parts = scored.hidden, scored.scores, scored.keys
    return visionzip.compress(*parts, 1, tokens - 1, merge="mean").features


def by_grid(scored: Scored, tokens: int) -> Tensor:
    """Patches at even distances, whatever they show."""
    rows, columns = _grid(tokens - 1)
    edge = _edge(scored)
    down = ((torch.arange(rows) + 0.5) * edge / rows).long()
    across = ((torch.arange(columns) + 0.5) * edge / columns).long()
    index = (down[:, None] * edge + across[None, :]).flatten() + 1
    return torch.cat([scored.hidden[:, :1], scored.hidden[:, index]], 1)


def by_pooling(scored: Scored, tokens: int) -> Tensor:
    """Means over the cells of a coarser grid."""
    edge = _edge(scored)
    patches = scored.hidden[:, 1:].float().unflatten(1, (edge, edge)).permute(0, 3, 1, 2)
    pooled = F.adaptive_avg_pool2d(patches, _grid(tokens - 1)).flatten(2).transpose(1, 2)
    return torch.cat([scored.hidden[:, :1], pooled.to(scored.hidden.dtype)], 1)


def by_chance(scored: Scored, tokens: int) -> Tensor:
    """Patches drawn at random, of the same frames always the same."""
    # By the scores, so that another clip is drawn otherwise and the same one alike.
    generator = torch.Generator().manual_seed(int(scored.scores.double().sum() * 1e9) % (1 << 31))
    batch, count, _ = scored.hidden.shape
    order = torch.rand(batch, count - 1, generator=generator).argsort(1)[:, : tokens - 1]
    index = order.sort(1).values + 1
    return torch.cat(
        [scored.hidden[:, :1], scored.hidden[torch.arange(batch).unsqueeze(1), index]], 1
    )


METHODS: dict[str, Reduce] = {
    "VisionZip": by_visionzip,
    "dominant only": by_attention,
    "contextual only": by_merging,
    "average pooling": by_pooling,
    "even subsampling": by_grid,
    "random": by_chance,
}


def _grid(patches: int) -> tuple[int, int]:
    """Rows and columns of a grid as square as may be."""
    rows = next(r for r in range(int(patches**0.5), 0, -1) if patches % r == 0)
    return rows, patches // rows


def _edge(scored: Scored) -> int:
    return round((scored.hidden.shape[1] - 1) ** 0.5)
