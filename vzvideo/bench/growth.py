"""How time and memory grow: with a video's length, with questions about it, with a corpus's rows.

The first two are about the model asked for. A corpus is many names of one tiny clip and a model of
random weights that is as small, so that what is left is what the machinery itself costs.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)

from vzvideo.bench.ask import (
    FRAMES,
    QUESTIONS,
    cells_by_count,
    empty_cache,
    first_token,
    load_qa,
    time_many,
)
from vzvideo.bench.clips import Clip, lengthened, make
from vzvideo.bench.measure import (
    Columns,
    Numbers,
    error_line,
    in_child,
    peak_resident_bytes,
    rotate,
    spread,
    timed,
)
from vzvideo.bench.models import SEED, Setup, wordless
from vzvideo.config import Settings
from vzvideo.corpus.manifest import Task
from vzvideo.models.preprocess import Preprocess
from vzvideo.models.quiet import quiet

SECONDS, QUICK_SECONDS = (10, 60, 600, 3600, 10800), (10, 60)
ASKED, QUICK_ASKED = (1, 3, 10, 30, 100), (1, 3)
ROWS, QUICK_ROWS = (10, 100, 1000), (10,)
MANY_ROWS, MANY_ROWS_REPEATS = 10_000, 3  # for thorough runs alone
NEW_TOKENS = 16
_REPEATED = Clip(seconds=10)  # of which longer ones are made
_TINY = Clip(height=144, seconds=2)
_WATCHED_EVERY_S = 0.5


def measure(setup: Setup) -> Numbers:
    curves: dict[str, Callable[[Setup], Any]] = {
        "length": length, "questions": questions, "rows": rows,
    }  # fmt: skip
    found: Numbers = {}
    for name, curve in curves.items():
        try:
            found[name] = curve(setup)
        except Exception as error:
            found[name] = {"error": error_line(error)}
    return found


# -- by the length of a video


def length(setup: Setup) -> list[Numbers]:
    lengths = QUICK_SECONDS if setup.quick else SECONDS
    paths = {seconds: lengthened(_REPEATED, seconds, setup.scratch) for seconds in lengths}
    runs: dict[int, list[Numbers]] = {seconds: [] for seconds in lengths}
    errors: dict[int, Numbers] = {}
    for turn in range(setup.repeats):
        for seconds in rotate(lengths, turn):
            if seconds in errors:
                continue
            try:
                runs[seconds].append(in_child(_first_token, setup, paths[seconds]))
            except RuntimeError as error:
                errors[seconds] = {"error": error_line(error)}
    return [
        {"seconds": seconds, "clip_bytes": paths[seconds].stat().st_size}
        | (errors.get(seconds) or {name: spread([run[name] for run in each]) for name in each[0]})
        for seconds, each in runs.items()
    ]


def _first_token(setup: Setup, path: Path) -> Numbers:
    """Of a video not seen before, by a model that has answered already; the process's memory."""
    with load_qa(setup) as qa:
        first_token(qa, make(_REPEATED, setup.scratch), max(FRAMES))
        empty_cache(qa)
        peak_resident_bytes(reset=True)
        spans = first_token(qa, path, max(FRAMES))
        return {
            "first_token_cold_s": spans[-1].ended_s,
            "decode_s": sum(end - begin for stage, begin, end in spans if stage == "decode"),
            "resident_peak_bytes": peak_resident_bytes(),
        }


# -- by questions of one video


def questions(setup: Setup) -> list[Numbers]:
    path = make(_REPEATED, setup.scratch)
    with load_qa(setup) as qa:
        counts = QUICK_ASKED if setup.quick else ASKED
        return cells_by_count(time_many(qa, path, counts, NEW_TOKENS, setup.repeats))


# -- by rows of a corpus


def rows(setup: Setup) -> list[Numbers]:
    counts = QUICK_ROWS if setup.quick else ROWS
    if not setup.quick and setup.repeats >= MANY_ROWS_REPEATS:
        counts = (*counts, MANY_ROWS)
    clip = make(_TINY, setup.scratch)
    cells: list[Numbers] = []
    for count in counts:
        try:
            found = in_child(_corpus, clip, count, deadline_s=600 + count)
            cells.append({"rows": count} | {name: spread([found[name]]) for name in found})
        except RuntimeError as error:
            cells.append({"rows": count, "error": error_line(error)})
    return cells


def _corpus(clip: Path, count: int) -> Numbers:
    """A job of `count` videos on a Ray of its own, which is started for it."""
    from psutil import Error, Process

    from vzvideo.corpus import job as corpus

    over, resident = threading.Event(), [0]
    done_s: list[float] = []
    taken: Columns = {}

    def held(process: Any) -> int:
        try:
            info = process.memory_info()
        except Error:  # it is gone
            return 0
        return int(info.rss - getattr(info, "shared", 0))  # the object store would count often

    def watch() -> None:
        while not over.wait(_WATCHED_EVERY_S):
            family = [Process(), *Process().children(recursive=True)]
            resident.append(sum(held(process) for process in family))

    with tempfile.TemporaryDirectory() as name, mock.patch.dict(os.environ, RAY_ADDRESS="local"):
        folder = Path(name)
        tasks = []
        for number in range(count):
            link = folder / f"{number}{clip.suffix}"
            link.symlink_to(clip.resolve())
            tasks.append(Task(str(link), None, None, ((str(number), QUESTIONS[0]),)))
        settings = Settings(
            model=str(tiny(folder / "model")), device="cpu",
            frames=2, tokens_per_frame=9, max_new_tokens=1,
        )  # fmt: skip
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            with timed(taken, "time_s"):
                summary = corpus.ask(
                    tasks, str(folder / "out"), settings,
                    progress=lambda _: done_s.append(time.perf_counter()),
                )  # fmt: skip
        finally:
            over.set()
            watcher.join()
    if summary.failed or summary.done != count:
        raise RuntimeError(f"{summary.done} of {count} rows done, failed: {dict(summary.failed)}")
    # From the first row on: starting Ray and loading models are not in it.
    steady = {"rows_per_s": (len(done_s) - 1) / (done_s[-1] - done_s[0])}
    return {"time_s": taken["time_s"][0], "resident_peak_bytes": max(resident)} | steady


def tiny(folder: Path) -> Path:
    """A checkpoint folder of a model so small that its work takes next to no time."""
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    shape["num_attention_heads"] = 2
    tower = CLIPVisionConfig(**shape, image_size=56, patch_size=14, projection_dim=32)
    ids = {"<unk>": 0, "<s>": 1, "</s>": 2, "<image>": 3, "<video>": 4}
    config = VideoLlavaConfig(
        vision_config=tower.to_dict(),
        text_config=LlamaConfig(vocab_size=len(ids), **shape).to_dict(),
        image_token_index=ids["<image>"],
        video_token_index=ids["<video>"],
    )
    torch.manual_seed(SEED)
    with quiet():
        VideoLlavaForConditionalGeneration(config).save_pretrained(folder)
    wordless(ids).save_pretrained(folder)
    preprocess = Preprocess(size=56, crop=56).to_config()
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocess))
    return folder
