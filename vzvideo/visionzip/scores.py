"""How much attention each token receives: the measure by which VisionZip keeps tokens.

Works from queries and keys, so that the tower itself may run fused attention, which gives no
weights back. B images, H heads, N tokens, d channels a head.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cls_attention(query: Tensor, keys: Tensor, scale: float) -> Tensor:
    """The attention that the CLS pays to every token, summed over heads (paper, section 3.2).

    query (B, H, 1, d) of the CLS, keys (B, H, N, d), scale (usually d ** -0.5) -> (B, N) float32.
    One row of attention: no N x N matrix comes into being.
    """
    logits = (query.float() * scale) @ keys.float().transpose(-1, -2)
    return logits.softmax(dim=-1).sum(dim=1).squeeze(1)


def attention_received(queries: Tensor, keys: Tensor, scale: float, chunk: int = 64) -> Tensor:
    """The attention each token receives, mean over heads and queries: for towers without a CLS.

    queries, keys (B, H, N, d) -> (B, N) float32, summing to 1. Goes over the queries `chunk` at a
    time, so that the peak is B x H x chunk x N and never N x N.
    """
    batch, heads, tokens, _ = queries.shape
    keys_t = keys.float().transpose(-1, -2)
    received = torch.zeros(batch, tokens, device=keys.device)
    for rows in queries.split(chunk, dim=2):
        received += ((rows.float() * scale) @ keys_t).softmax(dim=-1).sum(dim=(1, 2))
    return received / (heads * tokens)


def mean_keys(keys: Tensor) -> Tensor:
    """keys (B, H, N, d) -> (B, N, d): the mean over heads, by which tokens are compared."""
    return keys.mean(dim=1)
