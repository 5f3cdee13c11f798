"""One line a kind: what counts, against what, and from how many videos on there is an interval."""

from __future__ import annotations

from typing import Any

import pytest

from vzvideo.evaluation.table import FEWEST, table


def row(number: int, score: float | None, **more: Any) -> dict[str, Any]:
    about = {"video": f"{number}.mp4", "kind": "all", "metric": "exact", "error": None}
    about |= {"answer": "yes", "answer_score": score, "answers": ["yes"]}
    for shown in ("no_video", "wrong_video"):
        about |= {shown: None, f"{shown}_score": None}
    return about | more


def test_a_failure_counts_in_no_column() -> None:
    failed = row(1, None, answer=None, error="decode:not_found")
    [line] = table([row(0, 1.0, no_video="yes", no_video_score=1.0), failed])
    assert (line.score, line.questions, line.failed) == (1.0, 2, 1)
    assert (line.no_video, line.wrong_video) == (1.0, None)
    [line] = table([failed])
    assert (line.score, line.no_video, line.failed) == (0.0, None, 1)


def test_an_interval_wants_ten_videos_and_not_ten_questions() -> None:
    rows = [row(number, number % 2) for number in range(FEWEST - 1)]
    [few] = table([*rows, *rows])
    assert (few.low, few.high) == (None, None)
    [enough] = table([*rows, row(FEWEST, 1.0)])
    assert enough.low is not None
    assert enough.high is not None
    assert 0 < enough.low < enough.score < enough.high < 1


def test_kinds_and_metrics_are_lines_of_their_own() -> None:
    lines = table([row(0, 1.0), row(0, 0.0, kind="where"), row(0, 0.0, metric="choice")])
    assert [(line.kind, line.metric, line.score) for line in lines] == [
        ("all", "choice", 0.0), ("all", "exact", 1.0), ("where", "exact", 0.0),
        ("overall", "right", pytest.approx(1 / 3)),
    ]  # fmt: skip


def test_captions_are_scored_over_all_of_them_at_once() -> None:
    pytest.importorskip("pycocoevalcap")
    said = ("a dog runs along the beach", "two men play chess in a park")
    rows = [
        row(n, None, metric="caption", kind="tell", answer=text, answers=[text], no_video="a cat")
        for n, text in enumerate(said)
    ]
    cider, bleu = table(rows)
    assert (cider.metric, bleu.metric) == ("CIDEr", "BLEU-4")
    assert cider.score == pytest.approx(10.0)
    assert bleu.score == pytest.approx(1.0)
    assert cider.no_video == pytest.approx(0.0)
    assert (bleu.low, cider.wrong_video) == (None, None)
