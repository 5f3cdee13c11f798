"""What has been read: cut back, copied, compared, and used by one at a time."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from vzvideo.errors import ModelError
from vzvideo.models.prefix import Prefix, common_prefix_length, copy_cache


def filled(lengths: tuple[int, ...] = (5, 5)) -> DynamicCache:
    """A layer for each length: 1 row, 2 heads, so many tokens, 3 wide."""
    cache = DynamicCache()
    for number, length in enumerate(lengths):
        torch.manual_seed(number)
        cache.update(torch.randn(1, 2, length, 3), torch.randn(1, 2, length, 3), number)
    return cache


def test_a_forward_that_failed_half_way_is_cut_back() -> None:
    whole, cut = filled(), filled((7, 5))
    cut.layers[0].keys[..., :5, :] = whole.layers[0].keys
    prefix = Prefix(torch.zeros(1, 5, dtype=torch.long), cut)
    prefix.crop(5)
    assert [layer.keys.shape[2] for layer in cut.layers] == [5, 5]
    assert [layer.values.shape[2] for layer in cut.layers] == [5, 5]
    assert torch.equal(cut.layers[0].keys, whole.layers[0].keys)


@pytest.mark.parametrize(("rows", "length", "kept"), [(1, None, 5), (3, None, 5), (2, 4, 4)])
def test_a_copy_is_as_long_as_asked_and_nobody_elses(
    rows: int, length: int | None, kept: int
) -> None:
    cache = filled()
    copied = copy_cache(cache, rows, length)
    for mine, theirs in zip(copied.layers, cache.layers, strict=True):
        assert mine.keys.shape == (rows, 2, kept, 3)
        assert all(torch.equal(row, theirs.keys[0, :, :kept]) for row in mine.keys)
        assert all(torch.equal(row, theirs.values[0, :, :kept]) for row in mine.values)
    more = torch.ones(rows, 2, 1, 3)
    copied.update(more, more, 0)
    assert cache.get_seq_length() == 5


def test_one_use_at_a_time_also_after_an_error() -> None:
    prefix = Prefix(torch.zeros(1, 5, dtype=torch.long), filled())
    with prefix.in_use(), pytest.raises(ModelError, match="still being generated"), prefix.in_use():
        pass
    with pytest.raises(ZeroDivisionError), prefix.in_use():
        1 / 0  # noqa: B018
    with prefix.in_use():
        assert prefix.busy
    assert not prefix.busy


def test_how_far_two_begin_alike() -> None:
    one = torch.arange(12.0).view(4, 3)
    other = one.clone()
    other[2, 1] += 1
    assert common_prefix_length(one, one) == 4
    assert common_prefix_length(one, other) == 2
    assert common_prefix_length(one, one[:3]) == common_prefix_length(one[:3], one) == 3
    assert common_prefix_length(one, one[:0]) == 0
    assert common_prefix_length(one, one + 1) == 0
