"""How much of a video says the same twice: the numbers behind the paper's claim (section 1).

Within a frame, between what is kept and what is not, and from frame to frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vzvideo.show.look import BudgetView, Inspection


def patches_holding_half(by_layer: NDArray[np.float32]) -> NDArray[np.float64]:
    """by_layer (L, P), shares in falling order -> (L,): of the patches, the share that holds half
    of the attention."""
    reached = np.cumsum(by_layer, axis=1) < 0.5
    return (reached.sum(1) + 1) / by_layer.shape[1]


def attention_of_top_tenth(by_layer: NDArray[np.float32]) -> NDArray[np.float64]:
    """by_layer (L, P) -> (L,): of the attention, the share that a tenth of the patches holds."""
    count = max(1, round(by_layer.shape[1] / 10))
    return by_layer[:, :count].sum(1).astype(np.float64)


def attention_kept(look: Inspection, cut: BudgetView) -> float:
    """Of the patches' attention, the share that lies on the dominant ones, mean over frames."""
    dominant = (cut.assignment >= 0) & (cut.assignment < cut.dominant)
    return float((look.attention * dominant).sum(1).mean())


def as_dict(look: Inspection) -> dict[str, Any]:
    """All of it, for `--json`."""
    return {
        "attention_by_layer": {
            "half_of_it_on_this_share_of_patches": _round(patches_holding_half(look.by_layer)),
            "share_of_it_on_a_tenth_of_patches": _round(attention_of_top_tenth(look.by_layer)),
        },
        "budgets": [
            {
                "tokens_per_frame": tokens,
                "dominant": cut.dominant,
                "contextual": tokens - cut.dominant,
                "tokens": tokens * look.frames,
                "attention_on_dominant": round(attention_kept(look, cut), 4),
                "cosine_to_nearest_kept": _quartiles(cut.to_kept),
                "cosine_to_token_merged_into": _quartiles(cut.to_merged),
            }
            for tokens, cut in look.cuts.items()
        ],
        "across_frames": look.across
        and {
            "tokens": look.across.total,
            "static": round(look.across.static, 4),
            "lasting": int((look.across.until - look.across.frame > 1).sum()),
        },
        "cosine_to_next_frame": _round(look.neighbours),
        "cosine_of_random_patches": round(look.chance, 4),
    }


def _quartiles(values: NDArray[np.float32]) -> list[float] | None:
    return _round(np.quantile(values, (0.25, 0.5, 0.75))) if len(values) else None


def _round(values: NDArray[Any]) -> list[float]:
    return [round(float(value), 4) for value in values]
