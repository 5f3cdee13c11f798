"""Rows that stand, and why others do not; in a job, `test_job` has it with files."""

from __future__ import annotations

from typing import Any

import pytest

from vzvideo.corpus.standing import standing_rows

ROW = {
    "video": "a.mp4", "start_s": None, "end_s": None, "settings": "{}", "version": "1",
    "question": "Who?", "error": None, "message": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("before", "wanted", "said"),
    [
        ({}, {}, "there already: 1 row"),
        ({"settings": "{1}"}, {}, "1 row made with other settings: made again"),
        ({"question": "Where?"}, {}, "1 row of another question: made again"),
        ({"end_s": 2.0}, {}, "1 row of another video: made again"),
        ({"version": "0"}, {}, "1 row of a video changed since: made again"),
        # A video that cannot be looked at now may well be the one that was ...
        ({}, {"version": ""}, "there already: 1 row"),
        # ... but what failed then has no reason to stay.
        (
            {"error": "decode:invalid"},
            {"version": ""},
            "1 row of a video changed since: made again",
        ),
        ({"error": "decode:invalid"}, {}, "there already: 1 row, 1 of them failed"),
        ({"video": "/there/a.mp4"}, {}, "there already: 1 row"),
        ({"video": "b.mp4", "version": ""}, {"version": ""}, "1 row of another video: made again"),
    ],
)
def test_a_row_stands_where_nothing_it_depends_on_has_changed(
    before: dict[str, Any], wanted: dict[str, Any], said: str
) -> None:
    told: list[str] = []
    standing, stale = standing_rows({"1": ROW | before}, {"1": ROW | wanted}, False, told.append)
    assert told[0].startswith(said)
    stands = said.startswith("there already")
    assert (list(standing), stale) == ((["1"], 0) if stands else ([], 1))


def test_failures_are_made_again_when_asked_for_and_others_are_left() -> None:
    told: list[str] = []
    before = {"1": ROW | {"error": "decode:invalid"}, "2": ROW, "3": ROW}
    standing, stale = standing_rows(before, {"1": ROW, "2": ROW}, True, told.append)
    assert (list(standing), stale) == (["2"], 1)
    assert told == [
        "1 row that failed: made again",
        "of other questions, left where they are: 1 row",
        "there already: 1 row",
    ]
