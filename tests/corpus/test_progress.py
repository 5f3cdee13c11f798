"""How fast a job has been lately."""

from __future__ import annotations

import pytest

from vzvideo.corpus import progress


def test_the_rate_is_that_of_late(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[progress.Progress] = []
    meter = progress.Meter(told.append)
    summary = progress.Summary(rows=1000)

    def tell(at_s: float, left: int) -> progress.Progress:
        monkeypatch.setattr("vzvideo.corpus.progress.time.monotonic", lambda: at_s)
        meter.tell(summary, left)
        return told[-1]

    # What was made while models were loaded comes at once.
    assert all(tell(100 + n / 20, 900).rate is None for n in range(20))
    assert tell(103, 90).left_s is None
    found = [tell(103 + 3.0 * n, 90) for n in range(1, 40)]
    assert found[0].rate is None
    assert [each.rate for each in found[3:]] == pytest.approx([1 / 3] * 36)
    assert found[-1].left_s == pytest.approx(270)
    # Twice as fast from here on: a minute later that is all that counts.
    faster = [tell(220 + 1.5 * n, 90) for n in range(1, 60)]
    assert faster[5].rate == pytest.approx(1 / 3, rel=0.3)
    assert faster[-1].rate == pytest.approx(2 / 3, rel=0.03)
