"""`vzvideo eval`: a model scored on a file of questions, beside what it scores without seeing.

Heavy imports stay inside, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vzvideo.cli.options import ANSWERING, Json, echo_json, load, progress_bars, say, with_settings
from vzvideo.errors import SettingsError

if TYPE_CHECKING:
    from vzvideo.evaluation.table import Score

_MOST_LINES = 5  # on stderr, of what went wrong with a file of questions


@with_settings(**ANSWERING)
def evaluate(
    questions: Annotated[Path, typer.Argument(help="JSONL, or a published file with --format.")],
    settings: Any,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder for results (beside the file: NAME.eval)."),
    ] = None,
    file_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="jsonl, msvd-qa, msrvtt-qa, tgif-qa, activitynet-qa, next-qa, mvbench, video-mme.",
        ),
    ] = None,
    videos: Annotated[Path | None, typer.Option(help="Folder with the videos.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="So many questions, drawn at random.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="What is asked, {question} in it.")] = "{question}",
    choose: Annotated[
        str,
        typer.Option(help="Of several options: likelihood (of their text), pmi or letter."),
    ] = "likelihood",
    no_baselines: Annotated[
        bool, typer.Option("--no-baselines", help="Do not ask without a video, nor of a wrong one.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Score a model on a file of questions, beside what it scores without the video."""
    from vzvideo.evaluation import questions as files
    from vzvideo.evaluation import run

    asked = run.sample(files.read(questions, format=file_format, videos=videos), limit)
    run.check(asked, prompt, choose)
    _check_videos([question.video for question in asked])
    file = questions.resolve()
    target = out or file.with_name(file.stem + ".eval")
    qa = load(settings)
    wrong: list[str] = []
    with progress_bars() as progress:
        scores = run.run(
            qa, asked, target, prompt=prompt, choose=choose,  # type: ignore[arg-type]
            baselines=not no_baselines, progress=progress, say=wrong.append,
        )  # fmt: skip
    for line in wrong[:_MOST_LINES]:
        say(f"vzvideo: {line}")
    if len(wrong) > _MOST_LINES:
        say(f"vzvideo: and {len(wrong) - _MOST_LINES} more, each in its row")
    if as_json:
        for score in scores:
            echo_json(dataclasses.asdict(score))
    else:
        _print_scores(scores)
    say(str(target / "answers.parquet"))
    if any(score.failed for score in scores):
        raise typer.Exit(1)


def _check_videos(videos: list[str]) -> None:
    """Says at once, before a model is loaded, that the folder is another one."""
    if any("://" in video or os.path.exists(video) for video in videos):
        return
    raise SettingsError(
        f"none of the videos is there, {videos[0]} for one; --videos says which folder they are in"
    )


def _print_scores(scores: list[Score]) -> None:
    from rich.console import Console
    from rich.table import Table

    def shown(value: float | None, digits: int = 3) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    table = Table(box=None, pad_edge=False)
    for heading in ("kind", "metric", "questions", "score", "95 %", "no video", "wrong video"):
        table.add_column(heading, justify="left" if heading in ("kind", "metric") else "right")
    failed = any(score.failed for score in scores)
    if failed:
        table.add_column("failed", justify="right")
    for s in scores:
        between = "few videos" if s.low is None else f"{shown(s.low)}-{shown(s.high)}"
        if s.metric == "BLEU-4":  # of a corpus as a whole
            between = ""
        cells = [s.kind, s.metric, str(s.questions), shown(s.score), between]
        cells += [shown(s.no_video), shown(s.wrong_video), *([str(s.failed)] if failed else [])]
        table.add_row(*cells)
    Console(highlight=False).print(table)
