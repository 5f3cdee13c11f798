"""Question files: one's own JSONL, and the published formats by name. Knows no model."""

from __future__ import annotations

import dataclasses
import os
import re
import reprlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from vzvideo.corpus import rows
from vzvideo.corpus.rows import Row, Texts
from vzvideo.errors import SettingsError

Metric = Literal["exact", "choice", "caption"]
_ENDINGS = (".mp4", ".mkv", ".webm", ".avi")


@dataclass(frozen=True)
class Question:
    """One thing to ask of one video.

    id: unique within a file. video: path of the file, or a URL.
    answers: those that count as right, or the references of a caption.
    options: what to choose from, without letters; the one answer is among them.
    kind: what the table of results groups by.
    metric: "exact" (match after normalisation), "choice" (of `options`), "caption" (CIDEr, BLEU).
    start_s, end_s: the part of the video that is meant, None for its ends.
    """

    id: str
    video: str
    question: str
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    kind: str = "all"
    metric: Metric = "exact"
    start_s: float | None = None
    end_s: float | None = None


def read(path: Path, *, format: str | None = None, videos: Path | None = None) -> list[Question]:
    """The questions of a file, or one SettingsError that tells all that is wrong with it.

    Args:
        format: a name of `FORMATS`; None takes "jsonl" for files that end so.
        videos: the folder of the videos, the file's own by default. Whether a video exists is not
            asked: one that is missing keeps the name it should have.
    """
    if format is None and path.suffix.lower() == ".jsonl":
        format = "jsonl"
    if format not in FORMATS:
        given = (
            f"{path}: its name tells no format, give one"
            if format is None
            else f"format {format!r}"
        )
        raise SettingsError(f"{given}: {rows.suggest(format or '', FORMATS)}")
    if videos is not None and not videos.is_dir():
        raise SettingsError(f"{videos}: not a folder, the one that the videos lie in is needed")
    own = path if path.is_dir() else path.parent
    questions: list[Question] = []
    problems: list[str] = []
    places: dict[str, str] = {}
    for row, question in FORMATS[format](path, _Videos(videos or own)):
        if not row.problems and question.id in places:
            row.add_problem(f"id {question.id!r} is that of {places[question.id]}, too")
        places.setdefault(question.id, row.where)
        questions.append(question)
        problems += row.problems
    rows.raise_problems(path, problems)
    if not questions:
        raise SettingsError(f"{path}: holds no questions")
    return questions


class _Videos:
    """Where the videos of a question file lie."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._found: dict[Texts, str] = {}
        self._below: dict[str, list[Path]] | None = None

    def find(self, *names: str, endings: Sequence[str] = _ENDINGS) -> str:
        """The first name with the first ending that exists; else the first of all."""
        if names not in self._found:
            paths = [self.folder / f"{name}{ending}" for name in names for ending in endings]
            self._found[names] = str(next(filter(os.path.exists, paths), paths[0]))
        return self._found[names]

    def search(self, name: str, within: str) -> str:
        """`name` in the folder or anywhere below it, where only one is called so.

        within: a folder whose files go before others of the same name.
        """
        if os.path.exists(direct := self.folder / name):
            return str(direct)
        if self._below is None:
            self._below = {}
            for path in sorted(self.folder.rglob("*")):
                self._below.setdefault(path.name, []).append(path)
        tail = Path(name).parts
        paths = [p for p in self._below.get(Path(name).name, []) if p.parts[-len(tail) :] == tail]
        paths = [p for p in paths if within in p.parts] or paths
        # Of two that fit alike, either may be another video: better none than a wrong one.
        return str(paths[0] if len(paths) == 1 else direct)


def _listed(row: Row, answers: Texts, options: Texts) -> Texts:
    """`answers`, each of which has to be one of `options`."""
    for answer in answers:
        if answer and options and answer not in options:
            row.add_problem(f"answer {reprlib.repr(answer)} is none of the {len(options)} options")
    return answers


def _pointed(row: Row, signs: str, options: Sequence[str], name: str = "answer") -> Texts:
    """The option that the field points to by one of `signs`, none where it is wrong."""
    sign, allowed = row.text(name, number=True), list(signs[: len(options)])
    if sign in allowed:
        return (options[allowed.index(sign)],)
    if sign and allowed:
        which = f"{allowed[0]}..{allowed[-1]}"
        row.add_problem(f"{name}: {reprlib.repr(sign)} given, {which} are allowed")
    return ()


def _question(
    row: Row, id: str, video: str, answers: Texts, kind: str, options: Texts = ()
) -> Question:
    metric: Metric = "choice" if options else "exact"
    return Question(id, video, row.text("question"), answers, options, kind, metric)


_Pairs = Iterator[tuple[Row, Question]]  # a question counts where its row has no problems


def _own(path: Path, videos: _Videos) -> _Pairs:
    names = [*(field.name for field in dataclasses.fields(Question)), "answer"]
    metrics = get_args(Metric)
    for number, row in rows.read_jsonl(path):
        for name in row.fields:
            if name not in names:
                row.add_problem(f"unknown field {reprlib.repr(name)}: {rows.suggest(name, names)}")
        answers: Texts = ()
        if row.has("answer") == row.has("answers"):
            row.add_problem("answer or answers: give one of them")
        else:
            answers = (_answer(row),) if row.has("answer") else row.texts("answers")
        options = row.texts("options") if row.has("options") else ()
        if options and len(set(options)) != max(len(options), 2):
            row.add_problem("options: at least two are needed, none of them twice")
        metric: Any = row.text("metric") if row.has("metric") else "choice" if options else "exact"
        if metric and metric not in metrics:
            row.add_problem(f"metric: {metric!r} given, {', '.join(metrics)} are allowed")
        if metric == "choice" and not row.has("options"):
            row.add_problem("metric: choice needs options")
        start_s, end_s = row.number("start_s"), row.number("end_s")
        if (start_s or 0) < 0 or (end_s is not None and end_s <= (start_s or 0)):
            row.add_problem("start_s, end_s: a start from 0 and an end after it are needed")
        video, kind = row.text("video"), row.text("kind") if row.has("kind") else "all"
        # An absolute path takes no folder before it.
        place = video if "://" in video else str(videos.folder / video)
        asked, answers = row.text("question"), _listed(row, answers, options)
        own = row.text("id", number=True) if row.has("id") else str(number)
        yield row, Question(own, place, asked, answers, options, kind, metric, start_s, end_s)


def _answer(row: Row) -> str:
    """A text; or the number of one of the options, which are counted from 1."""
    number, options = row.fields.get("answer"), row.fields.get("options")
    if type(number) is not int or not isinstance(options, list):
        return row.text("answer")
    if 1 <= number <= len(options):
        return str(options[number - 1]).strip()
    row.add_problem(f"answer: option {number} given, 1..{len(options)} are there")
    return ""


def _msvd(path: Path, videos: _Videos) -> _Pairs:
    mapping = _beside(path, videos, "youtube_mapping.txt", path.parent.parent)
    lines = [line.split() for line in rows.read_text(mapping).splitlines()] if mapping else []
    youtube = {line[1]: line[0] for line in lines if len(line) == 2}
    for row in rows.read_json_list(path):
        name = f"vid{row.text('video_id', number=True)}"
        names = [youtube[name], name] if name in youtube else [name]
        yield row, _spoken(row, videos.find(*names, endings=(".avi", *_ENDINGS)))


def _msrvtt(path: Path, videos: _Videos) -> _Pairs:
    for row in rows.read_json_list(path):
        yield row, _spoken(row, videos.find(f"video{row.text('video_id', number=True)}"))


def _spoken(row: Row, video: str) -> Question:
    """Of the kind that is its first word, as the tables of MSVD-QA and MSRVTT-QA have it."""
    first = str(row.fields.get("question")).strip().lower().partition(" ")[0]
    kind = first if first in ("what", "who", "how", "when", "where") else "other"
    return _question(row, row.text("id", number=True), video, (row.text("answer"),), kind)


def _tgif(path: Path, videos: _Videos) -> _Pairs:
    for row in rows.read_csv(path, ("gif_name", "question", "answer", "vid_id"), delimiter="\t"):
        number = row.text("vid_id")  # despite its name, of the question: COUNT12, TRANS23
        sort = f"{path.stem} {number}".lower()
        options: Texts = ()
        if "a1" in row.fields:
            options = tuple(row.text(f"a{i}") for i in range(1, 6))
            answers = _pointed(row, "01234", options)
            kind = "transition" if "trans" in sort else "action"
        else:
            answers = (row.text("answer"),)
            kind = "frameqa" if "type" in row.fields or "frameqa" in sort else "count"
            if kind == "count" and answers[0] and not answers[0].isdecimal():
                row.add_problem(
                    f"answer: {reprlib.repr(answers[0])} given, a whole number is needed"
                )
        video = videos.find(row.text("gif_name"), endings=(".gif", *_ENDINGS))
        yield row, _question(row, number, video, answers, kind, options)


# In the order of their numbers.
_ACTIVITYNET = tuple(
    "motion spatial temporal yes/no colour object location number other".split()  # noqa: SIM905
)


def _activitynet(path: Path, videos: _Videos) -> _Pairs:
    if not path.stem.endswith("_q"):
        raise SettingsError(f"{path}: a name like test_q.json is needed; answers in test_a.json")
    beside = path.with_name(f"{path.stem[:-1]}a{path.suffix}")
    found = {str(row.fields.get("question_id")): row.fields for row in rows.read_json_list(beside)}
    for row in rows.read_json_list(path):
        number, name = row.text("question_id"), row.text("video_name")
        answer, kind = "", ""
        if number in found:
            row.fields = found[number] | row.fields
            answer = row.text("answer")
            kind = "".join(_pointed(row, "012345678", _ACTIVITYNET, "type"))
        elif number:
            row.add_problem(f"question_id {reprlib.repr(number)} has no answer in {beside.name}")
        yield row, _question(row, number, videos.find(f"v_{name}", name), (answer,), kind)


def _next(path: Path, videos: _Videos) -> _Pairs:
    mapping = _beside(path, videos, "map_vid_vidorID.json")
    folders = rows.read_json_object(mapping) if mapping else {}
    # The open-ended test has second answers in a file of its own.
    more = _beside(path, videos, f"add_reference_answer_{path.stem}.json")
    second = {
        (video, number): answer
        for video, answers in (rows.read_json_object(more) if more else {}).items()
        if isinstance(answers, dict)
        for number, answer in answers.items()
    }
    kinds = {"C": "causal", "T": "temporal", "D": "descriptive"}
    for row in rows.read_csv(path, ("video", "question", "answer", "qid", "type")):
        name, number, sort = row.text("video"), row.text("qid"), row.text("type")
        if sort and sort[0] not in kinds:
            row.add_problem(f"type: {reprlib.repr(sort)} given, C.., T.. or D.. are allowed")
        options: Texts = ()
        if "a0" in row.fields:
            options = tuple(row.text(f"a{i}") for i in range(5))
            answers = _pointed(row, "01234", options)
        else:
            further = [row.fields.get("additional_ref_answer"), second.get((name, number))]
            texts = [row.text("answer"), *(text.strip() for text in further if type(text) is str)]
            answers = tuple(dict.fromkeys(filter(None, texts)))
        video = videos.find(*([str(folders[name])] if name in folders else []), name)
        kind = kinds.get(sort[:1], "")
        yield row, _question(row, f"{name}_{number}", video, answers, kind, options)


# Whose videos a task of MVBench asks of, where two of its sources name their files alike.
_MVBENCH = {
    "action_count": "perception",
    "character_order": "perception",
    "counterfactual_inference": "clevrer",
    "moving_attribute": "clevrer",
    "moving_count": "clevrer",
    "moving_direction": "clevrer",
    "object_existence": "clevrer",
    "object_shuffle": "perception",
    "state_change": "perception",
}


def _mvbench(path: Path, videos: _Videos) -> _Pairs:
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        before = f"{file.name} " if path.is_dir() else ""
        for number, row in enumerate(rows.read_json_list(file, before), 1):
            options = row.texts("candidates")
            answers = _listed(row, (row.text("answer"),), options)
            video = videos.search(row.text("video"), _MVBENCH.get(file.stem, ""))
            question = _question(row, f"{file.stem}-{number}", video, answers, file.stem, options)
            start_s, end_s = row.number("start"), row.number("end")
            yield row, dataclasses.replace(question, start_s=start_s, end_s=end_s)


def _video_mme(path: Path, videos: _Videos) -> _Pairs:
    columns = ("duration", "videoID", "question_id", "question", "options", "answer")
    parquet = path.suffix.lower() == ".parquet"
    for row in (
        rows.read_parquet(path, columns)
        if parquet
        else rows.read_json_list(path, inner="questions")
    ):
        # The official JSON has no videoID, only a running number.
        name = row.text("videoID" if row.has("videoID") else "video_id", number=True)
        letters = "ABCDEFGH"
        options = tuple(
            re.sub(rf"^\(?{letter}[.):]\s*(?=\S)", "", option)
            for letter, option in zip(letters, row.texts("options"), strict=False)
        )
        answers, kind = _pointed(row, letters, options), row.text("duration")
        video = videos.find(name)
        yield row, _question(row, row.text("question_id"), video, answers, kind, options)


FORMATS: dict[str, Callable[[Path, _Videos], _Pairs]] = {
    "jsonl": _own,
    "msvd-qa": _msvd,
    "msrvtt-qa": _msrvtt,
    "tgif-qa": _tgif,
    "activitynet-qa": _activitynet,
    "next-qa": _next,
    "mvbench": _mvbench,
    "video-mme": _video_mme,
}


def _beside(path: Path, videos: _Videos, name: str, *more: Path) -> Path | None:
    """Where a second file of a data set lies, if it does."""
    folders = (path.parent, videos.folder, *more)
    return next((folder / name for folder in folders if (folder / name).is_file()), None)
