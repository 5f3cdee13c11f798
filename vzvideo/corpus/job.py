"""Many questions of many videos, on one machine or a cluster.

Three pools of actors, made of what `VideoQA` is made of: one decodes, one encodes, one answers.
Ray Data moves the videos through them and holds back where one is slower. The driver alone writes:
what it has written stands, and a job that died goes on from there.

Every row of the input ends as a row of the output, with an answer or with an error.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vzvideo._version import __version__
from vzvideo.config import Settings
from vzvideo.corpus.cluster import Pool, RayError, connect, run_stages
from vzvideo.corpus.manifest import Task
from vzvideo.corpus.planning import (
    Say,
    absolute,
    load_planner,
    output_schema,
    plan,
    read_index,
    with_default_clip,
)
from vzvideo.corpus.progress import Meter, Progress, Summary
from vzvideo.corpus.results import Format, Results, check_format
from vzvideo.corpus.rows import to_utf8
from vzvideo.corpus.stages import (
    Answer,
    Answered,
    Decode,
    Encode,
    Failed,
    Stage,
    Work,
    WriteTokens,
    Written,
)
from vzvideo.corpus.standing import COLUMNS, standing_rows
from vzvideo.models import weights
from vzvideo.video.guarded import Guard
from vzvideo.words import pluralize

if TYPE_CHECKING:
    from vzvideo.qa.video_qa import VideoQA

_PASSES = 3  # how often what an actor or a node took with it is tried again
_AFTER_S, _AT_MOST_S = 2.0, 60.0  # what was answered is written after a fiftieth of the time so far
_NOT_SETTINGS = ("vzvideo", "dtype", "start_s", "end_s")


# -- the jobs


def ask(
    tasks: Sequence[Task],
    out: str,
    settings: Settings,
    *,
    tokens: str | None = None,
    format: Format = "parquet",
    guard: Guard | None = None,
    retry_failed: bool = False,
    progress: Callable[[Progress], None] | None = None,
    say: Say = lambda _: None,
) -> Summary:
    """Asks every task its questions and writes a row for each into `out`, going on where a former
    run of the same stopped.

    Args:
        out: folder, by path or URI.
        tokens: the folder that `index` wrote, whose tokens are asked instead of the videos.
        guard: what decoding one video may cost.
        retry_failed: ask again what failed before, too.

    Raises VzVideoError for what keeps the job as a whole from being done.
    """
    check_format(format)
    planner = load_planner(settings, say)
    out = absolute(out)
    job = _Job(planner, out, format, "id", "video", "start_s", "end_s", "question", "answer",
               "yes_probability")  # fmt: skip
    works, unplannable = [], []
    stored = read_index(absolute(tokens), planner) if tokens is not None else None
    if stored and any(each.file and each.about != job.encoding for each in stored.values()):
        say(f"{tokens}: made with settings of its own, which count for what is looked at")
    for task in with_default_clip(tasks, settings):
        work, failed = plan(planner, task, stored)
        works += work
        unplannable += failed
    if stored is None:
        stages = pools_of(planner, guard or Guard(), answers=True)
    else:
        stages = [_pool(Answer, planner, planner.settings)]

    def rows(item: Answered | Failed) -> list[dict[str, Any]]:
        made = []
        for place, (name, question) in enumerate(item.work.task.asked):
            row = job.row(name, item.work) | {"question": question}
            if isinstance(item, Failed):
                row |= {"error": f"{item.stage}:{item.code}", "message": item.message}
            else:
                row |= item.facts
                match item.texts[place]:
                    case str(text):
                        row |= {"answer": text, "yes_probability": item.yes_probabilities[place]}
                    case error, message:
                        row |= {"error": error, "message": message}
            made.append(row)
        return made

    return job.run(works, unplannable, stages, rows, retry_failed, progress, say)


def index(
    tasks: Sequence[Task],
    out: str,
    settings: Settings,
    *,
    guard: Guard | None = None,
    retry_failed: bool = False,
    progress: Callable[[Progress], None] | None = None,
    say: Say = lambda _: None,
) -> Summary:
    """Compresses every task's video and keeps the tokens in `out`, with a row for each video.

    See `ask` for what the arguments mean; `ask(..., tokens=out)` then asks them as often as wanted.
    """
    planner = load_planner(settings, say)
    out = absolute(out)
    job = _Job(planner, out, "parquet", "id", "video", "start_s", "end_s", "file")
    works, unplannable = [], []
    for task in with_default_clip(tasks, settings):
        start, end = task.start_s, task.end_s
        part = "" if start is None and end is None else f"#{start or 0.0}-{end or ''}"
        work, failed = plan(planner, replace(task, asked=((to_utf8(task.video) + part, ""),)), None)
        works += work
        unplannable += failed
    stages = [
        *pools_of(planner, guard or Guard(), answers=False),
        Pool(WriteTokens, (out,), cpus=0.05),
    ]

    def rows(item: Written | Failed) -> list[dict[str, Any]]:
        ((name, _),) = item.work.task.asked
        row = job.row(name, item.work) | {"video": to_utf8(item.work.path)}
        if isinstance(item, Failed):
            return [row | {"error": f"{item.stage}:{item.code}", "message": item.message}]
        return [row | item.facts | {"file": item.file}]

    return job.run(works, unplannable, stages, rows, retry_failed, progress, say)


class _Job:
    """The output, and what it takes to fill it."""

    def __init__(self, planner: VideoQA, out: str, format: Format, *names: str) -> None:
        self._planner = planner
        self._columns = output_schema(*names)
        self._results = Results(out, self._columns, format)
        # What an answer depends on beside video and question: another library version is none.
        settings, folder = planner.settings, weights.locate(planner.card)
        about = {n: v for n, v in planner.recipe().about.items() if n not in _NOT_SETTINGS}
        # Frames may be fewer where a question is long; that follows from the rest.
        self.encoding = about | {"frames": settings.frames, "batch": settings.batch}
        self._answering: dict[str, Any] = {}
        if "answer" in names:
            loaded = {name: getattr(settings, name) for name in ("quantize", "dtype")}
            self._answering = settings.answering | loaded
            self._answering["weights"] = weights.fingerprint(folder, "") if folder else None

    def row(self, name: str, work: Work) -> dict[str, Any]:
        """A row without its outcome."""
        place = dict(zip(("video", "start_s", "end_s"), work.task.place, strict=True))
        place["video"] = to_utf8(work.task.video)
        encoding = work.about if work.stored else self.encoding
        made = dict.fromkeys(self._columns) | place
        return made | {
            "id": name,
            "model": self._planner.name,
            "settings": json.dumps(encoding | self._answering, sort_keys=True),
            "version": work.version,
            "vzvideo": __version__,
        }

    def _wanted(self, works: Iterable[Work]) -> dict[str, dict[str, Any]]:
        """Their rows by id, without outcome."""
        return {
            name: self.row(name, work) | {"question": question}
            for work in works
            for name, question in work.task.asked
        }

    def run(
        self,
        works: list[Work],
        unplannable: list[Failed],
        stages: list[Pool],
        rows: Callable[[Any], list[dict[str, Any]]],
        retry_failed: bool,
        progress: Callable[[Progress], None] | None,
        say: Say,
    ) -> Summary:
        """Fills the output; rows: what a finished item becomes."""
        summary = Summary(sum(len(work.task.asked) for work in works))
        summary.rows += sum(len(item.work.task.asked) for item in unplannable)
        begun = written = time.monotonic()
        with self._results as results:
            results.compact(say)  # a job that was killed may have left two of a row
            # What is stale stays where it is until other rows stand for it.
            standing, stale = standing_rows(
                results.existing([name for name in COLUMNS if name in self._columns], say),
                self._wanted([*works, *(item.work for item in unplannable)]),
                retry_failed,
                say,
            )
            summary.count(standing.values())
            summary.kept = len(standing)

            def take(item: Any) -> None:
                made = [row for row in rows(item) if row["id"] not in standing]
                results.add(made)
                summary.count(made)

            for item in unplannable:
                take(item)
            left = (_remaining(work, standing) for work in works)
            waiting = {work.task.place: work for work in left if work.task.asked}
            meter = Meter(progress)
            with connect(say) if waiting else nullcontext():
                for number in range(_PASSES if waiting else 0):
                    before, trouble = len(waiting), None
                    # What comes again may kill: alone in its actor it takes no other with it.
                    flow = run_stages(list(waiting.values()), stages, 1 if number else None)
                    try:
                        for item in flow:
                            if not waiting.pop(item.work.task.place, None):
                                continue  # it came twice
                            take(item)
                            now = time.monotonic()
                            if now - written > min(_AT_MOST_S, max(_AFTER_S, (now - begun) / 50)):
                                results.flush()
                                written = now
                            meter.tell(summary, len(waiting))
                    except RayError as error:
                        if not number and error.code != "passing" and before == len(waiting):
                            raise  # no actor ever worked: not a matter of single videos
                        trouble = error
                        say(str(error))
                    if not waiting:
                        break
                    if number < _PASSES - 1:
                        say(f"lost on the way: {pluralize(len(waiting), 'video')}; trying again")
                if waiting and trouble:
                    raise trouble  # the cluster's, not the videos': the same command goes on
            for work in waiting.values():
                take(Failed(work, "job", "lost", "its actors died again and again"))
            results.flush()
            if stale:
                results.compact(say)
        summary.seconds = time.monotonic() - begun
        return summary


def _remaining(work: Work, standing: dict[str, Any]) -> Work:
    """What is left of a task."""
    left = tuple(each for each in work.task.asked if each[0] not in standing)
    return replace(work, task=replace(work.task, asked=left))


# -- the pools


def pools_of(planner: VideoQA, guard: Guard, *, answers: bool) -> list[Pool]:
    """The workers that videos go through, one kind after the other."""
    compression = planner.recipe().compression
    pools = [
        Pool(Decode, (guard,), cpus=1.0),
        _pool(Encode, planner, planner.settings, compression),
    ]
    return [*pools, _pool(Answer, planner, planner.settings)] if answers else pools


def _pool(stage: type[Stage], planner: VideoQA, *arguments: Any) -> Pool:
    """A pool that holds half a model; where there are GPUs `flow` gives it its share."""
    card = planner.card
    share = card.encode_gpu if stage is Encode else card.answer_gpu
    return Pool(stage, arguments, cpus=1.0, gpus=share, memory=2e6 * card.disk_mb)
