"""Rows of answers in, one line a kind of question out, the baselines beside each score."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vzvideo.evaluation import scoring

SHOWN = ("answer", "no_video", "wrong_video")  # the video itself, and the two baselines
FEWEST = 10  # videos for an interval
OVERALL = "overall"  # the line over all kinds


@dataclass(frozen=True)
class Score:
    """One line of the table.

    score, low, high: mean over the questions of a kind that have an answer (0..1; CIDEr may reach
        10) and its 95 % bootstrap interval, None below ten videos.
    no_video, wrong_video: the baselines, over those of them that have one.
    failed: questions without an answer, which count in no column.
    """

    kind: str
    metric: str
    questions: int
    score: float
    low: float | None
    high: float | None
    no_video: float | None
    wrong_video: float | None
    failed: int


def table(rows: Sequence[dict[str, Any]]) -> list[Score]:
    """Rows of answers -> a line for each kind and metric, and one over all kinds of questions that
    are right or wrong, where there are several."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["metric"]), []).append(row)
    lines = [
        line
        for (kind, metric), group in sorted(groups.items())
        for line in (_captions if metric == "caption" else _accuracy)(kind, metric, group)
    ]
    decided = [row for row in rows if row["metric"] != "caption"]
    if len({(row["kind"], row["metric"]) for row in decided}) > 1:
        lines += _accuracy(OVERALL, "right", decided)
    return lines


def _accuracy(kind: str, metric: str, rows: list[dict[str, Any]]) -> list[Score]:
    scores = {
        shown: np.array([row[f"{shown}_score"] for row in _seen(rows, shown)]) for shown in SHOWN
    }
    return [_score(kind, metric, rows, scores)]


def _captions(kind: str, _metric: str, rows: list[dict[str, Any]]) -> list[Score]:
    scores, bleu = {}, {}
    for shown in SHOWN:
        if some := _seen(rows, shown):
            texts = [row[shown] for row in some]
            references = [row["answers"] for row in some]
            scores[shown] = scoring.cider(texts, references)
            bleu[shown] = scoring.bleu4(texts, references)
    first = _score(kind, "CIDEr", rows, scores)
    second = dataclasses.replace(
        first,
        metric="BLEU-4",
        score=bleu.get("answer", 0.0),
        low=None,
        high=None,
        no_video=bleu.get("no_video"),
        wrong_video=bleu.get("wrong_video"),
    )
    return [first, second]


def _seen(rows: list[dict[str, Any]], shown: str) -> list[dict[str, Any]]:
    """Those that have an answer of this sort, and one of the video itself."""
    return [row for row in rows if row[shown] is not None and row["error"] is None]


def _score(kind: str, metric: str, rows: list[dict[str, Any]], scores: dict[str, Any]) -> Score:
    means = {shown: float(values.mean()) for shown, values in scores.items() if len(values)}
    videos = [row["video"] for row in _seen(rows, "answer")]
    low, high = None, None
    if len(set(videos)) >= FEWEST:
        low, high = scoring.bootstrap_interval(scores["answer"], videos)
    failed = sum(row["error"] is not None for row in rows)
    return Score(
        kind, metric, len(rows), means.get("answer", 0.0), low, high,
        means.get("no_video"), means.get("wrong_video"), failed,
    )  # fmt: skip
