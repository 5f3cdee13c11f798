"""Scores against attention computed whole: softmax(Q K^T) of every token, in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.tolerances import FEATURES_F32
from vzvideo.visionzip import attention_received, cls_attention, mean_keys

SHAPES = [(1, 1, 1, 4), (2, 3, 17, 8), (3, 4, 65, 16), (1, 2, 257, 8)]  # B, H, N, d


def queries_and_keys(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=random), torch.randn(shape, generator=random)


def whole_attention(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    """(B, H, N, N): rows are queries."""
    return torch.softmax(queries.double() @ keys.double().transpose(-1, -2) * scale, dim=-1)


def assert_same(scores: Tensor, expected: Tensor) -> None:
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected.float(), rtol=0, atol=FEATURES_F32)


@pytest.mark.parametrize("scale", [1.0, 8**-0.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_cls_attention_is_the_first_row_summed_over_heads(
    shape: tuple[int, ...], scale: float
) -> None:
    queries, keys = queries_and_keys(shape)
    whole = whole_attention(queries, keys, scale)
    assert_same(cls_attention(queries[:, :, :1], keys, scale), whole[:, :, 0].sum(1))


@pytest.mark.parametrize("scale", [1.0, 8**-0.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_attention_received_is_the_mean_over_heads_and_queries(
    shape: tuple[int, ...], scale: float
) -> None:
    queries, keys = queries_and_keys(shape)
    received = attention_received(queries, keys, scale)
    assert_same(received, whole_attention(queries, keys, scale).mean(dim=(1, 2)))
    assert_same(received.sum(1), torch.ones(shape[0]))


@pytest.mark.parametrize("chunk", [1, 7, 64, 65, 1000])
def test_how_many_queries_at_a_time_does_not_matter(chunk: int) -> None:
    queries, keys = queries_and_keys((2, 3, 65, 8))
    expected = whole_attention(queries, keys, 0.5).mean(dim=(1, 2))
    assert_same(attention_received(queries, keys, 0.5, chunk=chunk), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_scored_in_single(dtype: torch.dtype) -> None:
    queries, keys = (10 * values.to(dtype) for values in queries_and_keys((2, 3, 65, 8)))
    whole = whole_attention(queries, keys, 0.1)
    assert_same(cls_attention(queries[:, :, :1], keys, 0.1), whole[:, :, 0].sum(1))
    assert_same(attention_received(queries, keys, 0.1), whole.mean(dim=(1, 2)))


def test_mean_keys_is_the_mean_over_heads() -> None:
    _, keys = queries_and_keys((2, 3, 17, 8))
    expected = sum(keys[:, head].double() for head in range(3)) / 3
    assert_same(mean_keys(keys), expected)
