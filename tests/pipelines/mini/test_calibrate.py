"""Odds that are worth something else than they say."""

from __future__ import annotations

import pytest
import torch

from pipelines.mini.calibrate import calibration_error, fit


def drawn(count: int, scale: float, shift: float) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    odds = 3 * torch.randn(count, generator=rng)
    return odds, torch.rand(count, generator=rng) < (scale * odds + shift).sigmoid()


def test_what_the_odds_are_worth_is_found() -> None:
    odds, truth = drawn(20_000, 0.4, -0.8)
    scale, shift = fit(odds, truth)
    assert scale == pytest.approx(0.4, abs=0.03)
    assert shift == pytest.approx(-0.8, abs=0.05)
    assert calibration_error((scale * odds + shift).sigmoid(), truth) < 0.02
    assert calibration_error(odds.sigmoid(), truth) > 0.1


def test_few_that_are_all_right_give_no_certainty() -> None:
    scale, shift = fit(torch.tensor([2.0, -2.0]), torch.tensor([True, False]))
    assert 0 < scale < 5
    assert shift == pytest.approx(0, abs=1e-3)


def test_the_error_of_a_constant_is_what_it_misses_by() -> None:
    truth = torch.tensor([True, False, False, False])
    assert calibration_error(torch.full((4,), 0.75), truth) == pytest.approx(0.5)
