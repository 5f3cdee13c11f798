"""`vzvideo ask`: one question or several, of one video or several. The work is done by `qa`."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vzvideo.cli.answers import print_answer, print_facts, print_failure, print_stream
from vzvideo.cli.options import ANSWERING, Json, check, load, progress_bars, with_settings
from vzvideo.errors import SettingsError, VzVideoError

if TYPE_CHECKING:
    from vzvideo.qa.video_qa import VideoQA


@with_settings(**ANSWERING)
def ask(
    video: Annotated[
        str, typer.Argument(help="File, URL, what `encode` wrote, or - for standard input.")
    ],
    asked: Annotated[
        list[str], typer.Argument(metavar="QUESTION", help="One or more; before them more videos.")
    ],
    settings: Any,
    evidence: Annotated[
        bool, typer.Option("--evidence", help="Also the times that an answer was drawn from.")
    ] = False,
    probability: Annotated[
        bool, typer.Option("--probability", help="Of yes, beside an answer of yes or no.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask a video one or more questions, or several videos the same."""
    more, questions = _parted(asked)
    videos = [video, *more]
    with _standard_input(videos) as paths:
        try:
            for path in paths:  # of several, one that is broken keeps no other from its answer
                check(path, settings if len(paths) == 1 else None)
            _check_questions(questions)
            qa = load(settings)
        except VzVideoError as error:
            if as_json:
                _print_failures(videos, questions, "load", error)
            raise
        failed = False
        for name, path in zip(videos, paths, strict=True):
            asking = _Asking(
                qa, name, path, questions, evidence, probability, as_json, len(videos) > 1
            )
            try:
                asking.ask()
            except VzVideoError as error:
                if as_json:
                    _print_failures([name], questions, asking.stage, error)
                if len(videos) == 1:
                    raise
                typer.echo(f"vzvideo: {error}", err=True)
                failed = True
        if failed:
            raise typer.Exit(1)


@dataclasses.dataclass
class _Asking:
    """The questions to one video. name: what a user calls it; stage: how far it has come."""

    qa: VideoQA
    name: str
    path: str
    questions: list[str]
    evidence: bool
    probability: bool
    as_json: bool
    one_of_several: bool
    stage: str = "encode"

    def ask(self) -> None:
        """Asks and prints: one answer as it is generated, several in one batch."""
        qa, several = self.qa, len(self.questions) > 1
        if self.one_of_several and not self.as_json:
            typer.echo(f"{self.name}:" if several else f"{self.name}: ", nl=several)
        with progress_bars() as progress:
            if not several:
                asking = qa.start(self.path, self.questions[0], progress=progress)
            else:
                encoded = qa.encode_timed(
                    self.path, question=qa.longest_question(self.questions), progress=progress
                )
                answers = qa.ask_many(encoded, self.questions)
        if not several:
            self.stage = "generate"
            print_stream(asking, self.as_json, self.evidence, self.probability, source=self.name)
            print_facts(asking.result, asking.encoded)
            return
        for answer in answers:
            drawn = qa.evidence(encoded, answer) if self.evidence else None
            print_answer(
                answer,
                self.as_json,
                labelled=True,
                evidence=drawn,
                probability=self.probability,
                encoded=encoded,
                source=self.name,
            )
        print_facts(answers[0], encoded)


def _parted(asked: list[str]) -> tuple[list[str], list[str]]:
    """Videos that stand before the questions, and the questions."""
    from vzvideo.corpus.manifest import ENDINGS

    def names_video(text: str) -> bool:
        ending = text.lower().endswith(ENDINGS) and not text.strip().endswith("?")
        return os.path.isfile(text) or "://" in text or (ending and " " not in text)

    first = next((n for n, text in enumerate(asked) if not names_video(text)), len(asked))
    if first == len(asked):
        raise SettingsError(f"{asked[-1]}: is a video; what to ask of it?")
    return asked[:first], asked[first:]


@contextmanager
def _standard_input(videos: list[str]) -> Iterator[list[str]]:
    """The videos, with a file in place of what is piped in, which can be read only once."""
    if "-" not in videos:
        yield videos
        return
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "standard input"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield [str(path) if video == "-" else video for video in videos]


def _print_failures(
    videos: list[str], questions: list[str], stage: str, error: VzVideoError
) -> None:
    for video in videos:
        for question in questions:
            print_failure(video, question, stage, error)


def _check_questions(questions: list[str]) -> None:
    """Says at once, before a model is loaded, what cannot be asked."""
    from vzvideo.corpus.manifest import ENDINGS
    from vzvideo.qa.asking import validate_question

    for question in map(validate_question, questions):
        if question.lower().endswith(ENDINGS) and os.path.isfile(question):
            raise SettingsError(
                f"{question}: is a file, no question; videos stand before the questions"
            )
