"""How long a corpus job would take on this machine: a little of it is done, by its own workers.

Without Ray, and in this process.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vzvideo.corpus.cluster import Pool, plan_actors
from vzvideo.corpus.job import pools_of
from vzvideo.corpus.manifest import Task
from vzvideo.corpus.planning import plan
from vzvideo.corpus.stages import Answered, Work, row_facts
from vzvideo.errors import VzVideoError
from vzvideo.video.guarded import Guard

if TYPE_CHECKING:
    from vzvideo.qa.video_qa import VideoQA

_FRAMES = 8  # looked at, at most


@dataclass(frozen=True)
class Trial:
    """Seconds that one worker takes: to decode and to encode a frame, to read a visual token, and
    to answer a question; `answer_s` is None for a job that only encodes."""

    pools: Sequence[Pool]
    decode_s: float
    encode_s: float
    read_s: float = 0.0
    answer_s: float | None = None

    def seconds(self, videos: int, frames: int, tokens: int, questions: int) -> float:
        """For a whole job on this machine, workers beside each other as Ray would have them."""
        import torch

        each = [self.decode_s * frames, self.encode_s * frames]
        if self.answer_s is not None:
            each.append(self.read_s * tokens + self.answer_s * questions)
        cores, gpus = _cores(), torch.cuda.device_count()
        actors = plan_actors(self.pools, videos, cores, gpus, math.inf)
        shared = {"cpu": 0.0, "gpu": 0.0}
        for time_s, (_, gpu, _) in zip(each, actors, strict=True):
            shared["gpu" if gpu else "cpu"] += time_s
        slowest = max(time_s / most for time_s, (_, _, most) in zip(each, actors, strict=True))
        return max(shared["cpu"] / cores, shared["gpu"] / max(1, gpus), slowest)


def trial(planner: VideoQA, task: Task, guard: Guard) -> Trial:
    """Does what a job would do with some frames of a task's video, and with its first question.

    Raises VzVideoError where that cannot be done here.
    """
    _check_here(planner)
    pools = pools_of(planner, guard, answers=bool(task.asked))
    works, failed = plan(planner, replace(task, asked=task.asked[:1] or (("", ""),)), None)
    if not works:
        raise VzVideoError(failed[0].message, code=failed[0].code)
    item: Any = _a_little(works[0])
    with _threads_kept():
        for pool in pools:
            stage = pool.stage(*pool.arguments)
            stage.work(item)  # starts processes and fills caches, which a job does once
            item = stage.work(item)
    facts = item.facts if isinstance(item, Answered) else row_facts(item)
    frames, tokens = facts["frames"], facts["tokens"]
    decode_s, encode_s = facts["decode_s"] / frames, facts["encode_s"] / frames
    if not isinstance(item, Answered):
        return Trial(pools, decode_s, encode_s)
    return Trial(pools, decode_s, encode_s, facts["prefill_s"] / tokens, facts["generate_s"])


def _check_here(planner: VideoQA) -> None:
    from vzvideo.models import loader, weights

    folder = weights.locate(planner.card)
    if folder is None or not any(folder.glob("*.safetensors")):
        raise VzVideoError(f"the weights of {planner.name} are not here", code="not_found")
    if not loader.fits(folder, planner.settings.device):
        raise VzVideoError(f"{planner.name} is too large for this machine", code="memory")


def _a_little(work: Work) -> Work:
    settings = work.settings
    if settings.sampling == "fps":  # as close to each other as they would be, from the start
        end_s = (settings.start_s or 0.0) + (_FRAMES - 0.5) / settings.fps
        settings = settings.replace(end_s=min(end_s, settings.end_s or math.inf))
    return replace(work, settings=settings, frames=min(work.frames, _FRAMES))


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Workers take one thread each, for there are as many as cores."""
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
