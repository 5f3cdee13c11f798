"""The rows that a corpus job writes, which are at the same time its ledger.

A folder of Parquet (or JSONL) files, each of them whole; what stands in them is done. Knows nothing
of what the rows mean beyond their `id`.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Literal, get_args

from vzvideo.corpus.rows import to_utf8
from vzvideo.errors import SettingsError
from vzvideo.video import storage

Format = Literal["parquet", "jsonl"]
Row = dict[str, Any]
# What reading a damaged file may raise.
_READ_ERRORS = (OSError, ValueError, LookupError, TypeError, RecursionError)
DAMAGED = "damaged"  # the folder within the output that unreadable files are moved to


def check_format(format: str) -> None:
    """SettingsError where rows cannot be written so."""
    if format not in get_args(Format):
        raise SettingsError(f"format {format!r}: {' or '.join(get_args(Format))}")


class Results:
    """The output folder of one job, by path or URI. Use as a context manager: it is locked."""

    def __init__(self, out: str, columns: dict[str, Any], format: Format = "parquet") -> None:
        """columns: of every row, with their pyarrow types."""
        self.out = out
        self._columns, self._format = columns, format
        self._waiting: list[Row] = []
        self._lock: Any = None
        self._system, self._folder = storage.filesystem(out)
        if out.startswith("file://"):
            self.out = self._folder  # so that it is locked and written as every other folder
        self._written_ns = 0

    def __enter__(self) -> Results:
        if not storage.is_filesystem_uri(self.out):
            self._lock = _lock(Path(self.out))
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.flush()
        finally:
            if self._lock is not None:
                self._lock.close()  # and with it the lock goes

    # -- what stands

    def existing(
        self,
        columns: Collection[str],
        say: Callable[[str], None] = lambda _: None,
        *,
        mend: bool = True,
    ) -> dict[str, Row]:
        """Rows by id, these columns of them; of two with one id the later written.

        mend: damaged files are set aside, and `say` is told; else they are an error.
        Raises SettingsError where the folder cannot be read, or holds something else.
        """
        rows: dict[str, Row] = {}
        for path in self._parts():
            try:
                found = self._read(path, columns)
            except _READ_ERRORS as error:
                if not mend:
                    raise SettingsError(f"{path}: damaged ({error}); run what wrote it") from None
                self._set_aside(path, error, say)
                continue
            rows |= {row["id"]: row for row in found}
        return rows

    def compact(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Of rows with one id keeps the one written last; a row goes when another stands for it."""
        later: set[str] = set()
        for path in reversed(self._parts()):
            try:
                names = [row["id"] for row in self._read(path, ["id"])]
                if later.intersection(names):
                    rows = self._read(path, self._columns)
                    kept = [row for row in rows if row["id"] not in later]
                    if kept:
                        self._write(path.rpartition("/")[2], kept)
                    else:
                        self._system.delete_file(path)
            except _READ_ERRORS as error:
                self._set_aside(path, error, say)
            else:
                later.update(names)

    # -- what comes

    def add(self, rows: Iterable[Row]) -> None:
        """Takes rows in; they stand once `flush` has returned."""
        for row in rows:
            texts = {name: to_utf8(v) for name, v in row.items() if isinstance(v, str)}
            self._waiting.append(row | texts)

    def flush(self) -> None:
        """Writes what was added since the last time, as one more file."""
        if self._waiting:
            # Later files sort behind earlier ones, in one run also where the clock was put back.
            self._written_ns = max(time.time_ns(), self._written_ns + 1)
            second, ns = divmod(self._written_ns, 10**9)
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(second))
            self._write(f"part-{stamp}-{ns:09d}.{self._format}", self._waiting)
            self._waiting = []

    # -- files

    def _parts(self) -> list[str]:
        from pyarrow import fs

        selector = fs.FileSelector(self._folder, allow_not_found=True)
        try:
            infos = self._system.get_file_info(selector)
        except OSError as error:
            raise SettingsError(f"{self.out}: {' '.join(str(error).split())}") from None
        names = [info.path for info in infos if info.is_file and info.base_name.startswith("part-")]
        other = "jsonl" if self._format == "parquet" else "parquet"
        if any(name.endswith(f".{other}") for name in names):
            raise SettingsError(
                f"{self.out}: holds rows as {other}: go on with --format {other}, or give another "
                "folder"
            )
        return sorted(name for name in names if name.endswith(f".{self._format}"))

    def _read(self, path: str, columns: Collection[str]) -> list[Row]:
        try:
            with self._system.open_input_file(path) as file:
                content = file.read()
        except OSError as error:  # no damage: a disk or a store that cannot be reached
            line = " ".join(str(error).split())
            raise SettingsError(f"{path}: cannot be read ({line})", code="disk") from None
        if self._format == "jsonl":
            *lines, rest = content.decode().split("\n")
            if rest or not lines:
                raise ValueError("it does not end with a whole line")
            rows: list[Row] = [json.loads(line) for line in lines]
            if not all(isinstance(row, dict) and isinstance(row.get("id"), str) for row in rows):
                raise ValueError("a line is no row")
            self._check(path, columns, rows[0])
            return [{name: row[name] for name in columns} for row in rows]
        import pyarrow.parquet as pq

        file = pq.ParquetFile(io.BytesIO(content))
        self._check(path, columns, file.schema_arrow.names)
        rows = file.read(list(columns)).to_pylist()
        return rows

    def _check(self, path: str, columns: Collection[str], there: Collection[str]) -> None:
        missing = [name for name in columns if name not in there]
        if missing:
            raise SettingsError(
                f"{path}: rows of another kind (no {', '.join(missing)}): give another folder"
            )

    def _write(self, name: str, rows: list[Row]) -> None:
        if self._format == "jsonl":
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            content = text.encode()
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            buffer = io.BytesIO()
            table = pa.Table.from_pylist(rows, pa.schema(list(self._columns.items())))
            pq.write_table(table, buffer)
            content = buffer.getvalue()
        try:
            storage.write_atomic(storage.join(self.out, name), content)
        except OSError as error:
            raise SettingsError(f"{self.out}: cannot be written ({error})", code="disk") from None

    def _set_aside(self, path: str, error: Exception, say: Callable[[str], None]) -> None:
        folder, _, name = path.rpartition("/")
        self._system.create_dir(f"{folder}/{DAMAGED}", recursive=True)
        self._system.move(path, f"{folder}/{DAMAGED}/{name}")
        reason = " ".join(str(error).split())[:200]
        say(f"{self.out}: {name} is damaged ({reason}) and was moved to {DAMAGED}/")


def _lock(folder: Path) -> Any:
    """An open file whose lock keeps a second job from writing into the same folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise SettingsError(f"{folder}: cannot be written ({error.strerror})") from None
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # not on Windows
        pass
    except OSError:
        file.close()
        raise SettingsError(
            f"{folder}: another job is writing there; wait for it, or give another folder"
        ) from None
    return file
