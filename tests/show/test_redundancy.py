"""The numbers, against plain loops."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.show import made
from vzvideo.show import redundancy

weights = st.lists(st.integers(1, 1000), min_size=1, max_size=40)


def ranked(rows: list[list[int]]) -> np.ndarray:
    falling = -np.sort(-np.array(rows, np.float32), axis=1)
    return falling / falling.sum(1, keepdims=True)


@given(weights)
def test_half_is_reached_with_so_many_and_no_fewer(values: list[int]) -> None:
    row = ranked([values])
    (share,) = redundancy.patches_holding_half(row)
    count = round(share * len(values))
    assert share == pytest.approx(count / len(values))
    assert row[0, :count].sum() >= 0.5 - 1e-6
    assert row[0, : count - 1].sum() < 0.5 + 1e-6


def test_concentration_of_what_is_known() -> None:
    by_layer = ranked([[1] * 20, [20, 10, *[1] * 18], [1_000_000, *[1] * 19]])
    np.testing.assert_allclose(redundancy.patches_holding_half(by_layer), [0.5, 0.1, 0.05])
    np.testing.assert_allclose(
        redundancy.attention_of_top_tenth(by_layer), [0.1, 30 / 48, 1], atol=1e-4
    )


def test_attention_kept_is_that_of_dominant_patches() -> None:
    seen = made.look(3)
    kept = {}
    for tokens, cut in seen.cuts.items():
        each = [
            sum(seen.attention[frame, at] for at in cut.patch[frame, : cut.dominant] if at >= 0)
            for frame in range(seen.frames)
        ]
        kept[tokens] = redundancy.attention_kept(seen, cut)
        assert kept[tokens] == pytest.approx(np.mean(each), abs=1e-6)
    assert 0 < kept[9] < kept[17] <= 1


def test_all_of_it_is_plain_json() -> None:
    seen = made.look(3, chosen=5)
    text = json.dumps(redundancy.as_dict(seen), allow_nan=False)
    about = json.loads(text)
    layers = about["attention_by_layer"]
    assert [len(values) for values in layers.values()] == [3, 3]
    assert about["cosine_to_next_frame"] == pytest.approx(seen.neighbours.tolist(), abs=1e-4)
    assert about["cosine_of_random_patches"] == 0.3
    five, nine, whole = about["budgets"]
    assert (five["tokens_per_frame"], five["dominant"], five["contextual"]) == (5, 4, 1)
    assert (nine["tokens_per_frame"], nine["tokens"]) == (9, 27)
    assert whole["tokens"] == 51
    for budget, cut in zip((five, nine, whole), seen.cuts.values(), strict=True):
        low, middle, high = budget["cosine_to_nearest_kept"]
        assert low < middle < high
        assert middle == pytest.approx(float(np.median(cut.to_kept)), abs=1e-4)


def test_what_there_is_none_of_is_null() -> None:
    about = redundancy.as_dict(made.look(1, chosen=9, contextual=0))
    (nine, _) = about["budgets"]
    assert nine["cosine_to_token_merged_into"] is None
    assert nine["cosine_to_nearest_kept"] is not None
    assert about["cosine_to_next_frame"] == []
    whole = redundancy.as_dict(made.look(1, chosen=17, contextual=0))["budgets"][-1]
    assert whole["cosine_to_nearest_kept"] is None
    assert whole["attention_on_dominant"] == pytest.approx(1, abs=1e-4)


def test_one_patch_is_half_of_itself() -> None:
    seen = replace(made.look(1), by_layer=np.ones((2, 1), np.float32))
    assert redundancy.patches_holding_half(seen.by_layer).tolist() == [1, 1]
    assert redundancy.attention_of_top_tenth(seen.by_layer).tolist() == [1, 1]
