"""Results in one table: of every part what a person wants to know first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vzvideo.bench.summary import summary

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def results() -> Any:
    return json.loads((DOCS / "benchmark-cpu.json").read_text())


def test_every_stage_is_in_it(results: Any) -> None:
    lines = {what: rest for what, *rest in summary(results)}
    assert lines["32 frames all over 60 s of 360p h264, GOP 12"] == [
        "0.11 s", "0.12 s torchcodec", "0.94x of the time",
    ]  # fmt: skip
    assert lines["encode 1 frame, VisionZip included"][1].endswith("plain tower")
    assert lines["read 8 frames at 17 tokens each"] == ["0.35 s", "5.1 s at 257", "14.1x sooner"]
    assert "ask 8 frames of texture-1080p-600s.mp4" in lines
    assert lines["ten questions in one call"][0] == "1.4x one"
    assert "first word, 10800 s of video" in lines


def test_a_part_that_failed_says_why(results: Any) -> None:
    assert summary({"encoder": {"error": "out of memory"}}) == [
        ("encoder", "failed", "", "out of memory")
    ]
    assert summary({}) == []
