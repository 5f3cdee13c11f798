"""What an evaluation has answered, on the disk: as it comes, and as a table at the end.

Knows no model, nor how anything is scored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vzvideo.errors import SettingsError


class AnswerLog:
    """The rows that are there already, in a file that only ever grows by whole lines.

    about: what made them; a file that something else made is refused.
    asked: digests of the questions by id; rows of others stay in the file and count for nothing.
    """

    def __init__(self, out: Path, about: dict[str, Any], asked: dict[str, str]) -> None:
        self.about = about
        self.rows: dict[str, dict[str, Any]] = {}
        self._path = out / "answers.jsonl"
        try:
            out.mkdir(parents=True, exist_ok=True)
            text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{out}: cannot be used for results ({error})") from None
        # The last line may be half written.
        lines = text.split("\n")[:-1]
        if lines:
            self._check(lines[0], out)
            # What failed is asked again: the file may be there by now.
            rows = [row for row in map(json.loads, lines[1:]) if row["error"] is None]
            write_atomic(self._path, _lines([{"about": about}, *rows]))
            self.rows = {r["id"]: r for r in rows if asked.get(r["id"]) == r["asked"]}
        else:
            write_atomic(self._path, _lines([{"about": about}]))

    def _check(self, line: str, out: Path) -> None:
        try:
            before = json.loads(line)["about"]
        except (ValueError, KeyError, TypeError):
            raise SettingsError(
                f"{self._path}: is there, and no file of answers; give another folder"
            ) from None
        now = json.loads(json.dumps(self.about))
        changed = [
            f"{name} {_given(before.get(name))} -> {_given(now.get(name))}"
            for name in {**before, **now}
            if before.get(name) != now.get(name)
        ]
        if changed:
            raise SettingsError(
                f"{out} holds answers of another run ({', '.join(changed)}): give another folder "
                "(--out), or delete it"
            )

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Keeps the rows of a video; they are on the disk when this returns."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_lines(rows))
            file.flush()
            os.fsync(file.fileno())
        self.rows |= {row["id"]: row for row in rows}


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_atomic(path: Path, text: str) -> None:
    """A file that is there whole, or as it was before."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.list_(pa.string())
    kinds = {"answers": texts, "options": texts, "frames": pa.int32(), "tokens": pa.int32()}
    kinds |= {name: pa.float64() for name in rows[0] if name.endswith("_score")}
    kinds["probability"] = pa.float64()
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in rows[0]])
    part = path.with_name(path.name + ".part")
    pq.write_table(pa.Table.from_pylist(rows, schema), part)
    part.replace(path)


def _given(value: Any) -> str:
    return "by default" if value is None else repr(value)
