"""What an evaluation has answered: kept whole, gone on with, never mixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vzvideo.errors import SettingsError
from vzvideo.evaluation.ledger import AnswerLog, write_parquet

ABOUT = {"model": "mini", "prompt": "{question}"}
ASKED = {"a": "1", "b": "2"}


def row(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "asked": ASKED[name], "answer": "Yes.", "error": None, **more}


def test_rows_outlast_a_kill_in_the_middle_of_a_line(tmp_path: Path) -> None:
    AnswerLog(tmp_path, ABOUT, ASKED).add([row("a")])
    file = tmp_path / "answers.jsonl"
    file.write_text(file.read_text() + '{"id": "b", "ans')
    again = AnswerLog(tmp_path, ABOUT, ASKED)
    assert again.rows == {"a": row("a")}
    again.add([row("b")])
    assert AnswerLog(tmp_path, ABOUT, ASKED).rows == {"a": row("a"), "b": row("b")}


def test_a_line_separator_within_an_answer_is_no_end_of_a_row(tmp_path: Path) -> None:
    AnswerLog(tmp_path, ABOUT, ASKED).add([row("a", answer="one\u2028two\x85three")])
    assert AnswerLog(tmp_path, ABOUT, ASKED).rows["a"]["answer"] == "one\u2028two\x85three"


def test_what_failed_or_has_changed_is_asked_again(tmp_path: Path) -> None:
    AnswerLog(tmp_path, ABOUT, ASKED).add([row("a", error="decode:not_found"), row("b")])
    assert AnswerLog(tmp_path, ABOUT, ASKED | {"b": "changed"}).rows == {}
    assert AnswerLog(tmp_path, ABOUT, ASKED).rows == {"b": row("b")}


def test_another_run_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    AnswerLog(tmp_path, ABOUT, ASKED).add([row("a")])
    before = (tmp_path / "answers.jsonl").read_bytes()
    with pytest.raises(SettingsError, match=r"model 'mini' -> 'other', seed by default -> 1"):
        AnswerLog(tmp_path, ABOUT | {"model": "other", "seed": 1}, ASKED)
    assert (tmp_path / "answers.jsonl").read_bytes() == before


def test_parquet_has_its_types_where_all_values_are_missing(tmp_path: Path) -> None:
    blank = dict.fromkeys(("id", "answers", "answer_score", "frames", "message"))
    write_parquet([blank], tmp_path / "answers.parquet")
    types = pq.read_schema(tmp_path / "answers.parquet").types
    assert types == [
        pa.string(), pa.list_(pa.string()), pa.float64(), pa.int32(), pa.string()
    ]  # fmt: skip
    assert not list(tmp_path.glob("*.part"))
