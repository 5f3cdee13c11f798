"""Curves have the sizes asked for, and a corpus job is one. Never a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bench import spreads
from tests.waiting import RAY_S
from vzvideo.bench import growth
from vzvideo.bench.models import Setup

pytestmark = pytest.mark.timeout(2 * RAY_S)


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = tmp_path_factory.mktemp("growth")
    model = growth.tiny(folder / "model")
    return Setup(model=str(model), quick=True, repeats=1, scratch=folder / "scratch")


def test_curves_by_length_and_by_questions(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "rows", missing)
    found = growth.measure(setup)
    assert [cell["seconds"] for cell in found["length"]] == [10, 60]
    for cell in found["length"]:
        assert spreads.check(cell, 1) == 3
        assert cell["first_token_cold_s"]["low"] > cell["decode_s"]["low"]
        assert cell["resident_peak_bytes"]["low"] > 50 << 20
    assert found["length"][1]["clip_bytes"] > 5 * found["length"][0]["clip_bytes"]
    assert [cell["questions"] for cell in found["questions"]] == [1, 3]
    assert all(spreads.check(cell, 1) == 3 for cell in found["questions"])
    # What one curve lacks does not stop the others.
    assert found["rows"] == {"error": "ModuleNotFoundError: No module named 'ray'"}


def missing(_setup: Setup) -> Any:
    raise ModuleNotFoundError("No module named 'ray'")


def test_a_length_that_fails_is_one_cell(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    def once(_function: Any, _setup: Setup, path: Path) -> Any:
        if "60s" in path.name:
            raise RuntimeError("the process died")
        return {"first_token_cold_s": 1.0}

    monkeypatch.setattr(growth, "in_child", once)
    ten, sixty = growth.length(setup)
    assert ten["first_token_cold_s"]["each"] == [1.0]
    assert sixty["error"] == "the process died"


def test_rows_asked_for(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(_function: Any, _clip: Path, count: int, deadline_s: float) -> Any:
        if count == 1000:
            raise RuntimeError("ModuleNotFoundError: No module named 'ray'")
        return {"time_s": float(count)}

    monkeypatch.setattr(growth, "in_child", asked)
    thorough, hasty = (Setup(scratch=setup.scratch, repeats=repeats) for repeats in (3, 2))
    assert [cell["rows"] for cell in growth.rows(thorough)] == [10, 100, 1000, 10_000]
    assert [cell["rows"] for cell in growth.rows(hasty)] == [10, 100, 1000]
    assert growth.rows(hasty)[2] == {
        "rows": 1000, "error": "ModuleNotFoundError: No module named 'ray'",
    }  # fmt: skip


def test_a_corpus_of_ten(setup: Setup) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'vzvideo[corpus]'")
    (cell,) = growth.rows(setup)
    assert cell["rows"] == 10
    assert spreads.check(cell, 1) == 3
    assert cell["resident_peak_bytes"]["low"] > 100 << 20
