"""Asks a model every question of a file, and says how many it answered.

Each question is asked three times: of its video, of none, and of another video of the same file.
What the first is worth shows only beside the other two. Answers are kept as they come; the same
command goes on where it was stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from vzvideo._version import __version__
from vzvideo.errors import SettingsError, VideoError, VzVideoError
from vzvideo.evaluation import scoring
from vzvideo.evaluation.ledger import AnswerLog, write_atomic, write_parquet
from vzvideo.evaluation.questions import Question
from vzvideo.evaluation.table import SHOWN, Score, table
from vzvideo.models import catalog, weights
from vzvideo.models.prefix import Prefix
from vzvideo.models.yes_no import yes_or_no
from vzvideo.qa.video_qa import VideoQA
from vzvideo.types import VisualTokens

Choose = Literal["likelihood", "pmi", "letter"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LONGEST = 20  # questions, by letters, among which the one of most tokens is looked for
_OTHERS = 5  # videos tried for a wrong one before a question goes without


def sample(questions: Sequence[Question], limit: int | None) -> list[Question]:
    """`limit` questions at random, always the same, in the file's order."""
    if limit is None or limit >= len(questions):
        return list(questions)
    kept = sorted(random.Random(0).sample(range(len(questions)), limit))
    return [questions[i] for i in kept]


def run(
    qa: VideoQA,
    questions: Sequence[Question],
    out: Path,
    *,
    prompt: str = "{question}",
    choose: Choose = "likelihood",
    baselines: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Score]:
    """Asks what has not been asked yet, writes `out`, and returns the table.

    Args:
        out: folder for `answers.jsonl` (as they come), `answers.parquet` and `scores.json`.
        prompt: what is asked, `{question}` in it.
        choose: how one of several options is taken: "likelihood", the text that the model finds
            likeliest, mean a token; "pmi", the one whose likelihood the video raises most (Holtzman
            et al. 2021, arXiv 2104.08315: some texts are likely of anything); "letter", the
            likeliest letter after a list of them, as the benchmarks prescribe.
        progress: called with ("questions", done, in all).
        say: called with a line for whatever goes wrong.

    Raises SettingsError where `out` holds another run; what goes wrong with a video becomes a row
    with an error.
    """
    check(questions, prompt, choose)
    asked = {q.id: _digest(dataclasses.asdict(q)) for q in questions}
    ledger = AnswerLog(out, _signature(qa, prompt, choose, baselines), asked)
    videos: dict[tuple[Any, ...], list[Question]] = {}
    for question in questions:
        videos.setdefault(_place(question), []).append(question)
    # A fixed shuffle, for neighbours in a file are often cut from one film.
    order = sorted(videos, key=lambda place: _digest([str(part) for part in place]))
    asker = _Asker(qa, prompt, choose, questions)
    done = len(ledger.rows)
    for number, place in enumerate(order):
        waiting = [q for q in videos[place] if q.id not in ledger.rows]
        if waiting:
            others = [o for o in order[number + 1 :] + order[:number] if o[0] != place[0]]
            rows = asker.ask(place, waiting, others if baselines else None)
            ledger.add([row | {"asked": asked[row["id"]]} for row in rows])
            if say:
                for message in dict.fromkeys(row["message"] for row in rows if row["error"]):
                    say(message)
            done += len(waiting)
        if progress:
            progress("questions", done, len(questions))
    rows = [ledger.rows[question.id] for question in questions]
    scores = table(rows)
    about = ledger.about | {"scores": [dataclasses.asdict(score) for score in scores]}
    write_atomic(out / "scores.json", json.dumps(about, indent=1) + "\n")
    write_parquet(rows, out / "answers.parquet")
    return scores


def check(questions: Sequence[Question], prompt: str, choose: str) -> None:
    """Raises SettingsError for what `run` would refuse, before a model is loaded."""
    if "{question}" not in prompt:
        raise SettingsError(f"prompt {prompt!r}: write {{question}} where the question goes")
    if choose not in get_args(Choose):
        raise SettingsError(f"choose {choose!r}: {', '.join(get_args(Choose))}")
    if choose == "letter" and any(len(q.options) > len(LETTERS) for q in questions):
        raise SettingsError(f"choose letter: a question has more than {len(LETTERS)} options")
    if find_spec("pyarrow") is None:
        raise SettingsError(
            "answers are kept as Parquet, and pyarrow is not installed: pip install 'vzvideo[eval]'"
        )
    if any(question.metric == "caption" for question in questions):
        scoring.check_captions()


class _Asker:
    """Asks the questions of one video at a time, of the video and of the baselines."""

    def __init__(
        self, qa: VideoQA, prompt: str, choose: Choose, questions: Sequence[Question]
    ) -> None:
        self._qa, self._prompt, self._choose = qa, prompt, choose
        # Every video leaves room for the longest question of all: a resumed run plans alike.
        long = sorted(map(self._asked, questions), key=len)[-_LONGEST:]
        self._room = max([*long, "?"], key=self._length)
        self._tokens: dict[tuple[Any, ...], VisualTokens] = {}  # the last few, for they come twice

    @functools.cached_property
    def _nothing(self) -> Prefix:
        return self._qa.language.prefill_text_only()

    def ask(
        self,
        place: tuple[Any, ...],
        questions: list[Question],
        others: list[tuple[Any, ...]] | None,
    ) -> list[dict[str, Any]]:
        """Rows for questions that share a video; others: where to take a wrong one, None for no
        baselines."""
        rows = [_row(question) for question in questions]
        try:
            tokens = self._encode(place)
            prefix = self._qa.language.prefill(tokens)
        except VzVideoError as error:
            for row in rows:
                _fail(row, error)
            return rows
        for row in rows:
            row |= {"frames": tokens.frames, "tokens": len(tokens)}
        try:
            self._fill(rows, questions, "answer", prefix)
        except VzVideoError:  # one of them cannot be asked; the others can
            for row, question in zip(rows, questions, strict=True):
                try:
                    self._fill([row], [question], "answer", prefix)
                except VzVideoError as error:
                    _fail(row, error)
        if others is None:
            return rows
        whole = rows
        rows = [row for row in whole if row["error"] is None]
        questions = [q for q, row in zip(questions, whole, strict=True) if row["error"] is None]
        self._fill(rows, questions, "no_video", self._nothing)
        for other in others[:_OTHERS]:
            try:
                prefix = self._qa.language.prefill(self._encode(other))
                self._fill(rows, questions, "wrong_video", prefix)
            except VzVideoError:
                continue
            for row in rows:
                row["wrong"] = other[0]
            break
        return whole

    def _encode(self, place: tuple[Any, ...]) -> VisualTokens:
        if place not in self._tokens:
            while len(self._tokens) > 2:
                self._tokens.pop(next(iter(self._tokens)))
            video, start_s, end_s = place
            changes = {"start_s": start_s, "end_s": end_s}
            self._tokens[place] = self._qa.encode_timed(
                video, question=self._room, **{k: v for k, v in changes.items() if v is not None}
            ).tokens
        return self._tokens[place]

    def _fill(
        self, rows: list[dict[str, Any]], questions: list[Question], shown: str, prefix: Prefix
    ) -> None:
        """Answers and scores of the questions, into the columns that `shown` names."""
        spoken = [(r, q) for r, q in zip(rows, questions, strict=True) if q.metric != "choice"]
        if spoken:
            texts = self._qa.language.answer_many(
                prefix,
                [self._asked(question) for _, question in spoken],
                **self._qa.settings.answering,
            )
            for (row, question), text in zip(spoken, texts, strict=True):
                row[shown] = text
                if question.metric == "exact":
                    row[f"{shown}_score"] = scoring.exact_match(text, question.answers)
                if shown == "answer":
                    row["probability"] = self._sure(prefix, question, text)
        for row, question in zip(rows, questions, strict=True):
            if question.metric == "choice":
                row[shown], probability = self._chosen(prefix, question)
                row[f"{shown}_score"] = float(row[shown] in question.answers)
                if shown == "answer":
                    row["probability"] = probability

    def _sure(self, prefix: Prefix, question: Question, text: str) -> float | None:
        """How probable the yes or the no of an answer is."""
        yes = self._qa.language.yes_probability(prefix, self._asked(question), text)
        return 1 - yes if yes is not None and yes_or_no(text) is False else yes

    def _chosen(self, prefix: Prefix, question: Question) -> tuple[str, float]:
        """The option taken, and its part of what the model gives to all of them."""
        options = list(question.options)
        said = list(LETTERS[: len(options)]) if self._choose == "letter" else options
        likely = self._qa.language.log_likelihoods(prefix, self._asked(question), said)
        if self._choose == "pmi" and prefix is not self._nothing:
            blind = self._qa.language.log_likelihoods(self._nothing, self._asked(question), said)
            likely = list(np.subtract(likely, blind))
        parts = np.exp(np.subtract(likely, max(likely)))
        return options[int(np.argmax(likely))], float(parts.max() / parts.sum())

    def _length(self, asked: str) -> int:
        try:
            return self._qa.language.prompts.length(asked)
        except VzVideoError:  # its own row will say so
            return 0

    def _asked(self, question: Question) -> str:
        """What the model is asked."""
        asked = self._prompt.replace("{question}", question.question)
        if question.metric == "choice" and self._choose == "letter":
            options = zip(LETTERS, question.options, strict=False)
            lines = [f"({letter}) {text}" for letter, text in options]
            asked = "\n".join([asked, *lines, "Answer with the option's letter."])
        return asked


def _fail(row: dict[str, Any], error: VzVideoError) -> None:
    stage = "decode" if isinstance(error, VideoError) else "answer"
    row |= {"error": f"{stage}:{error.code}", "message": str(error)}
    row |= {"answer": None, "answer_score": None}


def _row(question: Question) -> dict[str, Any]:
    columns = ("id", "video", "kind", "metric", "question")
    row: dict[str, Any] = {name: getattr(question, name) for name in columns}
    row |= {"answers": list(question.answers), "options": list(question.options)}
    for shown in SHOWN:
        row |= {shown: None, f"{shown}_score": None}
    row |= {"probability": None, "wrong": None, "frames": None, "tokens": None}
    return row | {"error": None, "message": None}


def _place(question: Question) -> tuple[Any, ...]:
    return (question.video, question.start_s, question.end_s)


def _signature(qa: VideoQA, prompt: str, choose: str, baselines: bool) -> dict[str, Any]:
    """Everything an answer depends on, but for its question."""
    settings = dataclasses.asdict(qa.settings)
    for name in ("model", "cache", "cache_gib", "batch", "deadline_s", "device"):
        settings.pop(name)
    folder = weights.locate(catalog.find(qa.name))
    return {
        "vzvideo": __version__,
        "model": qa.name,
        "weights": weights.fingerprint(folder, "") if folder else None,
        "prompt": prompt,
        "choose": choose,
        "baselines": baselines,
        **settings,
    }


def _digest(about: Any) -> str:
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
