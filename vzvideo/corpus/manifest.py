"""What a corpus job is to do: which videos, and what is asked of each.

From a manifest (JSONL, CSV or Parquet), or from patterns and questions. Knows no model, and opens
no video.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vzvideo.corpus import rows
from vzvideo.corpus.rows import Row
from vzvideo.errors import SettingsError
from vzvideo.video import storage
from vzvideo.words import parse_time, pluralize

ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".divx", ".ts", ".mts", ".m2ts"),
    *(".mpg", ".mpeg", ".m2v", ".vob", ".flv", ".f4v", ".wmv", ".asf", ".3gp", ".3g2", ".ogv"),
    *(".ogm", ".rm", ".rmvb", ".mxf", ".dv", ".y4m", ".gif"),
)
MANIFESTS = (".jsonl", ".ndjson", ".csv", ".parquet", ".pq")
_SHOWN = 20  # problems that are spelled out: a manifest is mended in one go
_NEEDED = ("id", "video", "question")


@dataclass(frozen=True)
class Task:
    """A video, or a part of it, and everything asked of it.

    start_s, end_s: the part, in seconds; None for the video's ends.
    asked: (id, question) of each row that the output will have. Empty where tokens alone are
        wanted.
    """

    video: str
    start_s: float | None
    end_s: float | None
    asked: tuple[tuple[str, str], ...] = ()

    @property
    def place(self) -> tuple[str, float | None, float | None]:
        """What is decoded once, however often it is asked."""
        return self.video, self.start_s, self.end_s


def read(path: str) -> list[Task]:
    """The tasks of a manifest, or one SettingsError that lists all that is wrong with it by line.

    Columns: `id` (unique), `video` (a path, relative ones from the manifest's own folder, or a
    URI), `question` (a text or, in JSONL and Parquet, a list of them, which get the ids `ID#1`,
    `ID#2` ...), and maybe `start_s`, `end_s`. Others are ignored. Rows of one video become one
    task.
    """
    folder = path.rpartition("/")[0] if storage.is_filesystem_uri(path) else str(Path(path).parent)
    places: dict[tuple[str, float | None, float | None], list[tuple[str, str]]] = {}
    lines: dict[str, str] = {}
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        for row in _rows(storage.local_copy(path, Path(scratch)), path):
            name = row.text("id", number=True)
            video = row.text("video")
            listed = isinstance(row.fields.get("question"), list)
            questions = row.texts("question") if listed else (row.text("question"),)
            start_s, end_s = _seconds(row, "start_s"), _seconds(row, "end_s")
            if (start_s or 0) < 0 or (end_s is not None and end_s <= (start_s or 0)):
                row.add_problem("start_s, end_s: a start from 0 and an end after it are needed")
            asked = [(f"{name}#{n}" if listed else name, q) for n, q in enumerate(questions, 1)]
            for each, _ in asked:
                if name and each in lines:
                    row.add_problem(f"id {each!r} is that of {lines[each]}, too")
                lines.setdefault(each, row.where)
            problems += row.problems
            place = video if "://" in video or Path(video).is_absolute() else None
            video = place or storage.join(folder, video)
            places.setdefault((video, start_s, end_s), []).extend(asked)
    if problems:
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        told = "".join(f"\n  {problem}" for problem in problems[:_SHOWN])
        raise SettingsError(f"{path}: {pluralize(len(problems), 'problem')}{told}{more}")
    if not places:
        raise SettingsError(f"{path}: holds no rows")
    return [Task(*place, tuple(asked)) for place, asked in places.items()]


def tasks_from_videos(
    patterns: Sequence[str],
    questions: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> list[Task]:
    """A task for each video that the patterns name, all with the same questions.

    patterns: files, folders, `clips/**/*.mp4`, `s3://bucket/raw/`, URLs; what of folders and
    patterns is left out (see `storage.list_files`), `say` is told. For the rows' ids see
    `with_ids`.
    """
    asked = with_ids(questions)
    videos: dict[str, None] = {}
    for pattern in patterns:
        url = "://" in pattern and not storage.is_filesystem_uri(pattern)
        found = [pattern] if url else storage.list_files(pattern, ENDINGS, say)
        if not found:
            raise SettingsError(f"{pattern}: no video there; a pattern wants quotes, '**/*.mp4'")
        videos |= dict.fromkeys(v if "://" in v else os.path.normpath(v) for v in found)
    return [Task(video, None, None, asked(rows.to_utf8(video))) for video in videos]


def with_ids(questions: Sequence[str]) -> Callable[[str], tuple[tuple[str, str], ...]]:
    """From a name to (`NAME#1f3a9c04`, question) ...: a question has the same id in every job, so
    that those of another day do not take its place."""
    for question in questions:
        if not question.strip():
            raise SettingsError("a question is empty: write what you want to know")
    if len(set(questions)) < len(questions):
        raise SettingsError("a question is given twice")
    labels = [hashlib.sha256(question.encode(errors="replace")).hexdigest()[:8]
              for question in questions]  # fmt: skip
    return lambda name: tuple(
        (f"{name}#{label}", question) for label, question in zip(labels, questions, strict=True)
    )


def merge_tasks(tasks: Iterable[Task]) -> list[Task]:
    """One task for each video or part; SettingsError where an id comes twice."""
    places: dict[tuple[str, float | None, float | None], list[tuple[str, str]]] = {}
    names: set[str] = set()
    for task in tasks:
        for name, _ in task.asked:
            if name in names:
                raise SettingsError(f"id {name!r} comes twice")
            names.add(name)
        places.setdefault(task.place, []).extend(task.asked)
    return [Task(*place, tuple(asked)) for place, asked in places.items()]


def _rows(path: Path, name: str) -> Iterator[Row]:
    match path.suffix.lower():
        case ".jsonl" | ".ndjson":
            for _, row in rows.read_jsonl(path):
                yield row
        case ".csv":
            yield from rows.read_csv(path, _NEEDED)
        case ".parquet" | ".pq":
            yield from rows.read_parquet(path, _NEEDED)
        case _:
            raise SettingsError(
                f"{name}: no manifest, which is .jsonl, .csv or .parquet; videos follow --videos"
            )


def _seconds(row: Row, name: str) -> float | None:
    """A number, or a time as on the command line; a CSV's empty field is none."""
    value = row.fields.get(name)
    if isinstance(value, str):
        with suppress(SettingsError):  # which `number` will tell
            row.fields[name] = parse_time(value) if value.strip() else None
    return row.number(name)
