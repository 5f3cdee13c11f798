"""The rows of a job: what was written stands, whatever became of the process that wrote it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.video.test_storage import full_disk
from vzvideo.corpus.results import DAMAGED, Format, Results, Row
from vzvideo.errors import SettingsError

COLUMNS = {"id": pa.string(), "answer": pa.string(), "times": pa.list_(pa.float64())}
FORMATS: tuple[Format, ...] = ("parquet", "jsonl")
each_format = pytest.mark.parametrize("format", FORMATS)


def row(name: str, answer: str | None = "a dog") -> Row:
    return {"id": name, "answer": answer, "times": [0.1, 2.5]}


def written(out: Path | str, *parts: str, format: Format = "parquet") -> None:
    """A file of rows for each part, whose letters are the ids."""
    with Results(str(out), COLUMNS, format) as results:
        for part in parts:
            results.add(row(name) for name in part)
            results.flush()


def existing(out: Path | str, format: Format = "parquet") -> tuple[str, list[str]]:
    """The ids that stand, and what is told."""
    told: list[str] = []
    with Results(str(out), COLUMNS, format) as results:
        return "".join(results.existing(COLUMNS, told.append)), told


def parts(out: Path) -> list[Path]:
    return sorted(path for path in out.iterdir() if path.name.startswith("part-"))


@each_format
def test_what_is_written_is_read_back(tmp_path: Path, format: Format) -> None:
    rows = [row("a"), row("b", None), row("ü#1", 'two\nlines "and" {more}'), row("d", "")]
    rows[1]["times"] = None
    for out in (str(tmp_path / "path"), (tmp_path / "uri").as_uri()):
        with Results(out, COLUMNS, format) as results:
            assert results.existing(COLUMNS) == {}
            results.add(rows[:2])
            results.add(iter(rows[2:]))
        with Results(out, COLUMNS, format) as results:
            assert list(results.existing(COLUMNS).values()) == rows
            few = results.existing(["id", "times"])
        assert few["b"] == {"id": "b", "times": None}


def test_the_files_are_what_they_are_called(tmp_path: Path) -> None:
    written(tmp_path / "p", "ab")
    written(tmp_path / "j", "ab", format="jsonl")
    (parquet,), (jsonl,) = parts(tmp_path / "p"), parts(tmp_path / "j")
    assert (parquet.suffix, jsonl.suffix) == (".parquet", ".jsonl")
    rows = [row("a"), row("b")]
    assert pq.read_table(parquet).to_pylist() == rows
    assert pq.read_schema(parquet).names == list(COLUMNS)
    assert [json.loads(line) for line in jsonl.read_text(encoding="utf-8").splitlines()] == rows


@each_format
def test_each_flush_makes_one_more_file_that_sorts_behind(tmp_path: Path, format: Format) -> None:
    with Results(str(tmp_path), COLUMNS, format) as results:
        results.flush()
        assert parts(tmp_path) == []
        results.add([row("c"), row("a")])
        assert parts(tmp_path) == []
        results.flush()
        results.flush()
        assert len(parts(tmp_path)) == 1
        results.add([row("b")])
    assert len(parts(tmp_path)) == 2
    written(tmp_path, "A", format=format)
    assert len(parts(tmp_path)) == 3
    assert existing(tmp_path, format) == ("cabA", [])


def test_line_breaks_within_a_text_break_no_line(tmp_path: Path) -> None:
    with Results(str(tmp_path), COLUMNS, "jsonl") as results:
        results.add([row("a", "one\u2028two\u0085three")])
    assert existing(tmp_path, "jsonl") == ("a", [])


@each_format
def test_a_name_that_is_not_utf8_is_kept_somehow(tmp_path: Path, format: Format) -> None:
    with Results(str(tmp_path), COLUMNS, format) as results:
        results.add([row(os.fsdecode(b"\xff.mp4#1"))])
    names, told = existing(tmp_path, format)
    assert names
    assert told == []


# -- damage


@each_format
def test_a_cut_file_is_set_aside_and_told_and_the_others_stand(
    tmp_path: Path, format: Format
) -> None:
    written(tmp_path, "ab", "cd", "ef", format=format)
    _, cut, _ = parts(tmp_path)
    content = cut.read_bytes()[:-1]
    cut.write_bytes(content)
    names, (told,) = existing(tmp_path, format)
    assert names == "abef"
    assert cut.name in told
    assert f"moved to {DAMAGED}/" in told
    assert (tmp_path / DAMAGED / cut.name).read_bytes() == content
    assert len(parts(tmp_path)) == 2
    assert existing(tmp_path, format) == ("abef", [])  # and is told once


@each_format
@pytest.mark.parametrize("left", [0.0, 0.4, 0.8])
def test_wherever_it_was_cut(tmp_path: Path, format: Format, left: float) -> None:
    written(tmp_path, "abc", format=format)
    (path,) = parts(tmp_path)
    os.truncate(path, int(path.stat().st_size * left))
    names, told = existing(tmp_path, format)
    assert (names, len(told)) == ("", 1)
    assert parts(tmp_path) == []


def test_lines_that_are_no_rows_are_damage(tmp_path: Path) -> None:
    for number, content in enumerate([b"{\n", b"\xff\n", b"\n"]):
        (tmp_path / f"part-{number}.jsonl").write_bytes(content)
    names, told = existing(tmp_path, "jsonl")
    assert (names, len(told)) == ("", 3)


@pytest.mark.parametrize(
    "line", ["3", "null", "[1]", '"id"', '{"id": [], "answer": 1, "times": 1}']
)
def test_lines_that_are_no_objects_are_damage(tmp_path: Path, line: str) -> None:
    (tmp_path / "part-0.jsonl").write_text(line + "\n")
    names, told = existing(tmp_path, "jsonl")
    assert (names, len(told)) == ("", 1)


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "part-1" / "out"
    written(out, "a")
    others = [out / "notes.parquet", out / "job.jsonl", out / ".part-x", out / DAMAGED / "part-0"]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    (out / "part-2.parquet").mkdir()
    assert existing(out) == ("a", [])
    assert all(path.read_text() == "mine" for path in others)


# -- settle


def test_files_sort_as_they_were_written_whatever_the_clock_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = 10**9  # from its last nanosecond into the next; twice the same; put back
    clock = iter([second - 1, second, second, second - 5, 3 * second])
    monkeypatch.setattr(time, "time_ns", lambda: next(clock))
    written(tmp_path, "e", "d", "c", "b", "a")
    assert existing(tmp_path) == ("edcba", [])


@each_format
def test_of_rows_with_one_id_the_later_one_stays(tmp_path: Path, format: Format) -> None:
    written(tmp_path, "abc", "de", "fg", format=format)
    first, second, third = parts(tmp_path)
    untouched = third.stat()
    with Results(str(tmp_path), COLUMNS, format) as results:
        results.add([row(name, "later") for name in "bde"])
        results.flush()
        assert results.existing(COLUMNS)["b"]["answer"] == "later"  # before it is settled, too
        results.compact()
        rows = results.existing(COLUMNS)
    assert {name: each["answer"] for name, each in rows.items()} == {
        **dict.fromkeys("acfg", "a dog"),
        **dict.fromkeys("bde", "later"),
    }
    assert parts(tmp_path)[:2] == [first, third]
    assert len(parts(tmp_path)) == 3
    assert not second.exists()
    assert third.stat().st_mtime_ns == untouched.st_mtime_ns


def test_settling_survives_damage_that_standing_did_not_see(tmp_path: Path) -> None:
    written(tmp_path, "ab", "a")
    path = parts(tmp_path)[0]
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    content = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)
    told: list[str] = []
    with Results(str(tmp_path), COLUMNS) as results:
        assert set(results.existing(["id"], told.append)) == {"a", "b"}
        results.compact(told.append)
        assert set(results.existing(["id"])) == {"a"}
    assert len(told) == 1
    assert "was moved to damaged/" in told[0]


def test_who_only_reads_moves_nothing(tmp_path: Path) -> None:
    written(tmp_path, "ab")
    (path,) = parts(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(SettingsError, match="damaged"):
        Results(str(tmp_path), COLUMNS).existing(["id"], mend=False)
    assert parts(tmp_path) == [path]


@each_format
def test_rows_of_another_kind_are_left_alone(tmp_path: Path, format: Format) -> None:
    written(tmp_path, "ab", format=format)
    more = {**COLUMNS, "file": COLUMNS["answer"]}
    with (
        Results(str(tmp_path), more, format) as results,
        pytest.raises(SettingsError, match=r"another kind \(no file\)"),
    ):
        results.existing(["id", "file"])
    assert existing(tmp_path, format) == ("ab", [])


# -- one job, one format, one folder


@each_format
def test_a_folder_in_the_other_format_is_refused(tmp_path: Path, format: Format) -> None:
    written(tmp_path, "a", format=format)
    other: Format = "jsonl" if format == "parquet" else "parquet"
    with pytest.raises(SettingsError, match=f"go on with --format {format}"):
        existing(tmp_path, other)
    with Results(str(tmp_path), COLUMNS, other) as results, pytest.raises(SettingsError):
        results.compact()
    assert existing(tmp_path, format) == ("a", [])


def test_a_second_job_in_the_folder_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    first, second = Results(str(tmp_path), COLUMNS), Results(str(tmp_path), COLUMNS)
    with first:
        with pytest.raises(SettingsError, match="another job is writing there"), second:
            pass
        with Results(str(tmp_path / "other"), COLUMNS):
            pass
        first.add([row("a")])
    with second:
        assert list(second.existing(COLUMNS)) == ["a"]


HOLD = """
import sys
from vzvideo.corpus.results import Results
with Results(sys.argv[1], {}):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_lock_holds_between_processes_and_dies_with_its_own(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(SettingsError, match="another job"):
            existing(tmp_path)
        holder.kill()
        holder.wait()
        assert existing(tmp_path) == ("", [])


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SettingsError, match="cannot be written"):
            written(out, "a")


# -- the process ends


def test_rows_stand_though_an_error_ends_the_job(tmp_path: Path) -> None:
    def job() -> None:
        with Results(str(tmp_path), COLUMNS) as results:
            results.add([row("a")])
            raise KeyError

    with pytest.raises(KeyError):
        job()
    assert existing(tmp_path) == ("a", [])


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    written(tmp_path, "a", format="jsonl")
    with Results(str(tmp_path), COLUMNS, "jsonl") as results:
        results.add([row("b", "x" * 100_000)])
        with full_disk(10_000), pytest.raises(SettingsError) as caught:
            results.flush()
        assert caught.value.code == "disk"
        assert str(tmp_path) in str(caught.value)
        assert list(results.existing(["id"])) == ["a"]
    assert existing(tmp_path, "jsonl") == ("ab", [])
    assert sorted(os.listdir(tmp_path)) == [".lock", *(path.name for path in parts(tmp_path))]


WRITE = """
import itertools, resource, signal, sys
from tests.corpus.test_results import COLUMNS, row
from vzvideo.corpus.results import Results
out, format, limit = sys.argv[1:]
if int(limit):
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which kills
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
text = bytes(range(32, 127)).decode() * 10_000
with Results(out, COLUMNS, format) as results:
    for number in itertools.count():
        results.add([row(str(number), str(number) if int(limit) and number < 3 else text)])
        results.flush()
        print(number, flush=True)
"""


def writer(out: Path, format: Format, limit: int = 0) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WRITE, str(out), format, str(limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])


def whole(out: Path, format: Format) -> list[int]:
    """The rows that stand after a kill, where none of the files is damaged."""
    told: list[str] = []
    with Results(str(out), COLUMNS, format) as results:
        rows: dict[str, Any] = results.existing(COLUMNS, told.append)
    assert told == []
    return [int(name) for name in rows]


@each_format
def test_a_kill_in_the_middle_of_a_write_leaves_whole_files(tmp_path: Path, format: Format) -> None:
    limit = 4000 if format == "parquet" else 100_000
    with writer(tmp_path, format, limit) as process:
        output, _ = process.communicate(timeout=100)
    assert process.returncode == -signal.SIGXFSZ
    assert output.split() == [b"0", b"1", b"2"]
    assert whole(tmp_path, format) == [0, 1, 2]


@each_format
@pytest.mark.parametrize("flushed", [1, 4])
def test_a_kill_at_any_time_leaves_whole_files(
    tmp_path: Path, format: Format, flushed: int
) -> None:
    with writer(tmp_path, format) as process:
        assert process.stdout is not None
        for _ in range(flushed):
            process.stdout.readline()
        process.kill()
        told = flushed + len(process.stdout.read().split())
    assert process.returncode == -signal.SIGKILL
    numbers = whole(tmp_path, format)
    assert numbers == list(range(len(numbers)))
    assert len(numbers) in (told, told + 1)  # one may stand that it had no time to tell
    written(tmp_path, "z", format=format)  # and it goes on
