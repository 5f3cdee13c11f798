"""The method itself: keep the dominant tokens, merge the rest into a few contextual ones.

Follows the authors' reference to the last index (paper, sections 3.2 and 3.3). B images, N tokens,
D channels of features, K of keys; R = N - dominant tokens are left to merge.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class ZipSettings:
    """How a group of tokens (a frame, a tile) is compressed.

    dominant: tokens kept, a CLS counted; a float is a share of the group. None keeps all (no
        compression).
    contextual: tokens the rest is merged into, or a share.
    merge: see `compress`.
    temporal: whether what stands still is merged across the frames of a clip, see `zip_clip`.
    """

    dominant: float | None = 14
    contextual: float = 3
    merge: Literal["reference", "mean"] = "reference"
    temporal: bool = False

    @classmethod
    def share(cls, keep: float, merge: Literal["reference", "mean"] = "reference") -> ZipSettings:
        """Keeps a share of the tokens, above 0 and below 1, split as the paper does: 54 + 10."""
        return cls(keep * 54 / 64, keep * 10 / 64, merge)

    def counts(self, tokens: int, has_cls: bool = False) -> tuple[int, int]:
        """Of a group of `tokens`, how many are kept and how many the rest is merged into."""
        if self.dominant is None:
            return tokens, 0
        dominant = _count(self.dominant, tokens)
        if isinstance(self.dominant, float):  # a share of few tokens may be none
            dominant = max(dominant, 1 if has_cls or self.contextual == 0 else 0)
        return dominant, min(_count(self.contextual, tokens), tokens - dominant)

    def tokens_per_frame(self, tokens: int) -> int:
        """Of a frame's `tokens`, how many come out."""
        return sum(self.counts(tokens))

    def about(self) -> dict[str, Any]:
        """What tokens are marked with (JSON): as before there was `temporal`, where it is off."""
        return {name: value for name, value in asdict(self).items() if name != "temporal" or value}

    @property
    def contextual_share(self) -> float:
        """Of the tokens that come out, the share that others are merged into."""
        total = (self.dominant or 0) + self.contextual
        return self.contextual / total if total else 0.0


NO_COMPRESSION = ZipSettings(dominant=None, contextual=0)


def _count(wanted: float, tokens: int) -> int:
    return wanted if isinstance(wanted, int) else round(wanted * tokens)


class Zipped(NamedTuple):
    """What `compress` returns; M = dominant + min(contextual, R).

    features (B, M, D): dominant tokens in raster order, contextual ones after them.
    patch (B, M) int64: the index, in the input, of the token each output stands for.
    assignment (B, N) int64: the output each input went into, -1 where it was dropped, which
        happens only with contextual=0.
    """

    features: Tensor
    patch: Tensor
    assignment: Tensor


def compress(
    hidden: Tensor,
    scores: Tensor,
    keys: Tensor,
    dominant: int,
    contextual: int,
    *,
    merge: Literal["reference", "mean"] = "reference",
    has_cls: bool = True,
) -> Zipped:
    """hidden (B, N, D), scores (B, N), keys (B, N, K) -> Zipped. Differentiable in `hidden`.

    dominant: tokens kept as they are, the CLS (index 0, kept whatever its score) counted among
        them: `dominant=54` keeps the CLS and 53 patches. 1..N, or 0..N with `has_cls=False`.
        Of equal scores the earlier token wins, so that the choice is the same on every device.
    contextual: how many tokens the R others are merged into; no more than R come out. Targets are
        every `max(1, R // contextual)`-th of them; every other one joins the target whose
        L2-normalised key is most like its own.
    merge: "reference": target + mean of those that joined it, as the authors' code does.
        "mean": the mean of the whole group, target included, which keeps the features' scale.

    Raises ValueError where shapes disagree or the counts lie outside their ranges.
    """
    least = 1 if has_cls else 0
    if scores.ndim != 2 or hidden.shape[:-1] != scores.shape or keys.shape[:-1] != scores.shape:
        raise ValueError(
            f"hidden {tuple(hidden.shape)}, scores {tuple(scores.shape)} and keys "
            f"{tuple(keys.shape)} must be (B, N, D), (B, N) and (B, N, K)"
        )
    batch, tokens = scores.shape
    if not least <= dominant <= tokens or contextual < 0 or dominant + contextual < 1:
        raise ValueError(
            f"dominant={dominant}, contextual={contextual}: of {tokens} tokens, dominant must be "
            f"{least}..{tokens}, contextual at least 0, and one token at least must remain"
        )
    if merge not in ("reference", "mean"):
        raise ValueError(f'merge={merge!r}: choose "reference" or "mean"')

    kept, rest = _split_by_score(scores, dominant, has_cls)
    features = _gather(hidden, kept)
    assignment = torch.full((batch, tokens), -1, dtype=torch.int64, device=hidden.device)
    assignment.scatter_(1, kept, torch.arange(dominant, device=hidden.device).expand(batch, -1))

    left = tokens - dominant
    contextual = min(contextual, left)
    if contextual == 0:
        return Zipped(features, kept, assignment)

    # By arithmetic: a mask would have a GPU stop and count, and nothing here depends on the data.
    step = max(1, left // contextual)
    targets = rest[:, : step * contextual : step]
    place = torch.arange(left - contextual, device=rest.device)
    before = (place // (step - 1) + 1).clamp(max=contextual) if step > 1 else contextual
    others = rest[:, place + before]

    unit_keys = F.normalize(keys.float(), dim=-1)
    similarity = _gather(unit_keys, others) @ _gather(unit_keys, targets).transpose(1, 2)
    group = similarity.argmax(dim=-1)  # (B, R - contextual)

    # In single precision at least: the sum of many tokens may exceed what half precision holds.
    precise = torch.promote_types(hidden.dtype, torch.float32)
    members = F.one_hot(group, contextual).to(precise)  # (B, R - contextual, contextual)
    counts = members.sum(dim=1).unsqueeze(-1)
    summed = members.transpose(1, 2) @ _gather(hidden, others).to(precise)
    merged = _gather(hidden, targets).to(precise)
    if merge == "reference":
        merged = merged + summed / counts.clamp(min=1)
    else:
        merged = (merged + summed) / (counts + 1)

    outputs = torch.arange(dominant, dominant + contextual, device=hidden.device)
    assignment.scatter_(1, targets, outputs.expand(batch, -1))
    assignment.scatter_(1, others, group + dominant)
    features = torch.cat([features, merged.to(hidden.dtype)], dim=1)
    return Zipped(features, torch.cat([kept, targets], dim=1), assignment)


def _split_by_score(scores: Tensor, dominant: int, has_cls: bool) -> tuple[Tensor, Tensor]:
    """scores (B, N) -> indices kept (B, dominant) and left (B, N - dominant), both ascending."""
    if has_cls:
        scores = scores.clone()
        scores[:, 0] = torch.inf
    # A stable sort, where topk would settle ties differently from device to device.
    order = scores.argsort(dim=1, descending=True, stable=True)
    return order[:, :dominant].sort(dim=1).values, order[:, dominant:].sort(dim=1).values


def _gather(values: Tensor, index: Tensor) -> Tensor:
    """values (B, N, D), index (B, M) -> (B, M, D)."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
