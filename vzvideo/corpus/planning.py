"""What a corpus job has to do: works for the actors, and what can never be done.

Nothing is decoded for it, and no weights are loaded. Does not know how the work is shared out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from vzvideo.config import Settings
from vzvideo.corpus.manifest import Task, merge_tasks, with_ids
from vzvideo.corpus.results import Results
from vzvideo.corpus.stages import Failed, Work
from vzvideo.errors import SettingsError, VzVideoError
from vzvideo.video import storage

if TYPE_CHECKING:
    from vzvideo.qa.video_qa import VideoQA

Say = Callable[[str], None]
_SECONDS = ("decode_s", "encode_s", "prefill_s", "generate_s")


def output_schema(*names: str) -> dict[str, Any]:
    """Columns of an output, with their types."""
    import pyarrow as pa

    types = {"start_s": pa.float64(), "end_s": pa.float64(), "frames": pa.int32()}
    types |= {"frame_times_s": pa.list_(pa.float64()), "tokens": pa.int32()}
    types |= {"tokens_before": pa.int32()} | dict.fromkeys(_SECONDS, pa.float64())
    types |= {"yes_probability": pa.float64()}
    provenance = ("model", "settings", "version", "vzvideo", "frames", "frame_times_s")
    names = (*names, "error", "message", *provenance, "tokens_before", "tokens", *_SECONDS)
    return {name: types.get(name, pa.string()) for name in names}


def load_planner(settings: Settings, say: Say) -> VideoQA:
    """The model without its weights; it is fetched here first, so that trouble shows at once."""
    from vzvideo.qa import loading

    _check_installed()
    planner = loading.load(settings=settings.replace(cache=False), say=say, part="outline")
    # What "auto" means is decided once, here, and not on every node.
    folder = os.path.isdir(planner.name)
    planner.settings = planner.settings.replace(
        model=os.path.abspath(planner.name) if folder else planner.name
    )
    return planner


def _check_installed() -> None:
    if not (find_spec("ray") and find_spec("pyarrow")):
        raise SettingsError("Ray and pyarrow are needed for this: pip install 'vzvideo[corpus]'")


def with_default_clip(tasks: Sequence[Task], settings: Settings) -> list[Task]:
    """Where a task names no start or end, those of the settings count."""

    def filled(task: Task) -> Task:
        start_s = settings.start_s if task.start_s is None else task.start_s
        end_s = settings.end_s if task.end_s is None else task.end_s
        return replace(task, start_s=start_s, end_s=end_s)

    return merge_tasks(map(filled, tasks))


def absolute(path: str) -> str:
    """As actors understand it, whose working folder is another."""
    return path if "://" in path else os.path.abspath(path)


def plan(
    planner: VideoQA, task: Task, stored: dict[Any, IndexEntry] | None
) -> tuple[list[Work], list[Failed]]:
    """What is to be done for a task, and what of it never can be."""
    from vzvideo.qa.asking import validate_question

    settings = planner.settings.replace(start_s=task.start_s, end_s=task.end_s)
    version = storage.file_version(task.video) if stored is None else ""
    work = Work(task, absolute(task.video), version, settings, 0, 0, {})
    good, bad, recipes = [], [], []
    for name, question in task.asked:
        try:
            asked = validate_question(question) if question else "?"
            if stored is None:
                recipes.append(planner.recipe(asked, start_s=task.start_s, end_s=task.end_s))
            else:
                planner.language.prompts.length(asked)  # raises where it cannot be asked
            good.append((name, question))
        except VzVideoError as error:
            alone = replace(work, task=replace(task, asked=((name, question),)))
            bad.append(Failed(alone, "plan", error.code, str(error)))
    if not good:
        return [], bad
    work = replace(work, task=replace(task, asked=tuple(good)))
    if stored is None:
        recipe = min(recipes, key=lambda recipe: recipe.frames)  # the longest question's
        return [replace(work, frames=recipe.frames, size=recipe.size, about=recipe.about)], bad
    place = (work.path, *task.place[1:])
    if place not in stored:
        message = f"{task.video}: not in the index; `vzvideo index` adds it"
        return [], [*bad, Failed(work, "index", "not_indexed", message)]
    file, version, about, why, message = stored[place]
    if not file:
        stage, _, code = why.partition(":")
        return [], [*bad, Failed(work, stage, code, f"when it was indexed: {message}")]
    now = storage.file_version(task.video)
    if now and now != version:
        message = f"{task.video}: changed since it was indexed; `vzvideo index` does it anew"
        return [], [*bad, Failed(work, "index", "changed", message)]
    return [replace(work, stored=file, version=version, about=about)], bad


class IndexEntry(NamedTuple):
    """Tokens of an index: the file, the video's version then, and the settings that made them; or,
    without a file, why there are none."""

    file: str
    version: str
    about: dict[str, Any]
    why: str  # an error, as rows name them
    message: str


def tasks_from_index(
    tokens: str, questions: Sequence[str], say: Say = lambda _: None
) -> list[Task]:
    """A task for every video, or part of one, that `index` has compressed, all with the same
    questions. Rows are called after those of the index, see `manifest.with_ids`."""
    _check_installed()
    asked = with_ids(questions)
    names = ("id", "video", "start_s", "end_s", "file")
    rows = Results(absolute(tokens), output_schema(*names)).existing(names, mend=False)
    good = {name: row for name, row in rows.items() if row["file"]}
    if not good:
        raise SettingsError(f"{tokens}: no tokens there; `vzvideo index --out` makes such a folder")
    if len(good) < len(rows):
        say(f"{tokens}: without tokens, and not asked: {len(rows) - len(good)} of {len(rows)} rows")
    return [
        Task(row["video"], row["start_s"], row["end_s"], asked(name)) for name, row in good.items()
    ]


def read_index(tokens: str, planner: VideoQA) -> dict[Any, IndexEntry]:
    """What is in an index, by the video's path from the root and the part of it."""
    names = ("id", "video", "start_s", "end_s", "file", "settings", "version", "error", "message")
    rows = Results(tokens, output_schema(*names[:5])).existing(names, mend=False)
    found = {
        (absolute(row["video"]), row["start_s"], row["end_s"]): IndexEntry(
            storage.join(tokens, row["file"]) if row["file"] else "",
            row["version"], json.loads(row["settings"]), row["error"], row["message"],
        )
        for row in rows.values()
    }  # fmt: skip
    if not any(each.file for each in found.values()):
        raise SettingsError(f"{tokens}: no tokens there; `vzvideo index --out` makes such a folder")
    if {each.about["tower"] for each in found.values() if each.file} != {planner.tower}:
        raise SettingsError(
            f"{tokens}: encoded for another model than {planner.name!r}; choose that one, or index "
            "the videos again"
        )
    return found
