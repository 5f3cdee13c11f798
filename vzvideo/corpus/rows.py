"""Rows of JSONL, JSON, CSV and Parquet files, and all that is wrong with each.

Knows nothing of what the rows mean.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vzvideo.errors import SettingsError

Texts = tuple[str, ...]
_SHOWN = 5  # problems of a file that are spelled out


class Row:
    """One row of a file, and all that is wrong with it.

    A wrong field reads as an empty one, so that those after it are looked at, too.
    """

    def __init__(self, where: str, fields: Any, problem: str = "an object is expected") -> None:
        self.where = where
        self.fields: dict[str, Any] = fields if isinstance(fields, dict) else {}
        self.problems = [] if isinstance(fields, dict) else [f"{where}: {problem}"]
        self._readable = isinstance(fields, dict)

    def add_problem(self, message: str) -> None:
        """Notes a problem."""
        if self._readable:  # of a row that is none, its fields are no further problem
            self.problems.append(f"{self.where}: {message}")

    def has(self, name: str) -> bool:
        """Whether the field is there, and not null."""
        return self.fields.get(name) is not None

    def text(self, name: str, *, number: bool = False) -> str:
        """A text that is not empty; number: whole numbers will do."""
        if not self.has(name):
            self.add_problem(f"{name} is missing")
            return ""
        value = self.fields[name]
        if type(value) is not str and not (number and type(value) is int):
            needed = "text or a whole number" if number else "text"
            self.add_problem(f"{name}: {reprlib.repr(value)} given, {needed} is needed")
            return ""
        if not str(value).strip():
            self.add_problem(f"{name} is empty")
        return self._valid(name, str(value).strip())

    def texts(self, name: str) -> Texts:
        """A list of texts, none of them empty."""
        values = self.fields.get(name)
        if not isinstance(values, list) or not values or not all(type(v) is str for v in values):
            shown = f"{reprlib.repr(values)} given" if self.has(name) else "missing"
            self.add_problem(f"{name}: {shown}, a list of texts is needed")
            return ()
        if not all(value.strip() for value in values):
            self.add_problem(f"{name}: one of them is empty")
        return tuple(self._valid(name, value.strip()) for value in values)

    def _valid(self, name: str, value: str) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:  # JSON may spell half a character
            self.add_problem(f"{name} is not valid UTF-8")
            return ""
        return value

    def number(self, name: str) -> float | None:
        """A finite number, or None where there is none."""
        value = self.fields.get(name)
        if value is None:
            return None
        if type(value) in (int, float) and abs(value) < 1e300:  # JSON knows larger ones, and NaN
            return float(value)
        self.add_problem(f"{name}: {reprlib.repr(value)} given, a number is needed")
        return None


def raise_problems(path: Path, problems: Sequence[str], shown: int = _SHOWN) -> None:
    """One SettingsError for all problems of a file, the first `shown` spelled out."""
    if problems:
        more = len(problems) - shown
        tail = f"; and {more} more" if more > 0 else ""
        raise SettingsError(f"{path}: {'; '.join(problems[:shown])}{tail}")


def to_utf8(read_text: str) -> str:
    """The text in UTF-8: names of files may hold bytes that are none, and show as `\\xff` then."""
    return read_text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def suggest(name: str, names: Iterable[str]) -> str:
    """What a wrong name may have been meant to be."""
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"


def read_text(path: Path) -> str:
    """A file's content; SettingsError where it is not UTF-8."""
    content = b""
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path}: line {line}: not in UTF-8, which is needed") from None


def read_jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    """The objects of a JSONL file with their numbers; empty lines count, and are passed over."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, Row(f"line {number}", json.loads(line))
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", error)  # without the place, which counts another line 1
            yield number, Row(f"line {number}", None, f"no JSON ({reason})")


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: no JSON ({error})") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: an object is expected")
    return content


def read_json_list(path: Path, before: str = "", inner: str = "") -> Iterator[Row]:
    """The objects of a list; those in the list `inner` of each, where they have one."""
    content = read_json(path)
    if not isinstance(content, list):
        raise SettingsError(f"{path}: a list of objects is expected")
    for number, fields in enumerate(content, 1):
        where = f"{before}entry {number}"
        if isinstance(fields, dict) and isinstance(parts := fields.get(inner), list):
            for n, part in enumerate(parts, 1):
                yield Row(f"{where}.{n}", fields | part if isinstance(part, dict) else part)
        else:
            yield Row(where, fields)


def read_csv(path: Path, needed: Sequence[str], delimiter: str = ",") -> Iterator[Row]:
    """The rows of a CSV file with the columns `needed`, all fields texts."""
    content = io.StringIO(read_text(path), newline="")
    # Strict, or a quote that nobody closes would swallow the rows behind it.
    reader = csv.DictReader(content, delimiter=delimiter, strict=True)
    try:
        _check_columns(path, needed, reader.fieldnames or [])
        for fields in reader:
            row = Row(f"line {reader.line_num}", fields)
            if None in fields:
                row.add_problem("more cells than columns")
            yield row
    except csv.Error as error:
        reason = "a quote is never closed" if "end of data" in str(error) else str(error)
        raise SettingsError(f"{path}: line {reader.line_num}: {reason}") from None


def read_parquet(path: Path, needed: Sequence[str]) -> Iterator[Row]:
    """The rows of a Parquet file with the columns `needed`."""
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise SettingsError("parquet needs pyarrow: pip install 'vzvideo[eval]'") from None
    try:
        read_csv = pq.read_table(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise SettingsError(f"{path}: not readable as parquet ({reason})") from None
    _check_columns(path, needed, read_csv.column_names)
    for number, fields in enumerate(read_csv.to_pylist(), 1):
        yield Row(f"row {number}", fields)


def _check_columns(path: Path, needed: Sequence[str], there: Sequence[str]) -> None:
    missing = [name for name in needed if name not in there]
    if missing:
        given = ", ".join(map(repr, there)) or "none"
        raise SettingsError(f"{path}: columns {', '.join(missing)} are missing; there are {given}")
    twice = [name for name in dict.fromkeys(there) if list(there).count(name) > 1]
    if twice:
        raise SettingsError(f"{path}: two columns are called {twice[0]!r}: rename one")
