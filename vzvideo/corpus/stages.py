"""What a corpus job moves, and the workers that it is moved through.

Each worker is a plain class, set up once, that takes what the one before made and returns the next
thing, or `Failed`. They are made of what `VideoQA` is made of, so that a cluster answers as `ask`
does. Knows nothing of how they are spread over machines.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import signal
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vzvideo.config import Settings
from vzvideo.corpus.manifest import Task
from vzvideo.errors import SettingsError, VideoError, VzVideoError
from vzvideo.types import FrameBatch, VisualTokens
from vzvideo.video import storage
from vzvideo.video.guarded import Guard, GuardedDecoder

if TYPE_CHECKING:
    from vzvideo.models.encoder import ZipSettings
    from vzvideo.qa.video_qa import VideoQA


@dataclass(frozen=True)
class Work:
    """A video to be looked at.

    path: of its file, from the root. version: of the file, when the job began. size: see
    `frames_of`. about: what its tokens are marked with. stored: path or URI of its tokens, where
    they are there already.
    """

    task: Task
    path: str
    version: str
    settings: Settings
    frames: int
    size: int
    about: dict[str, Any]
    stored: str = ""


@dataclass(frozen=True)
class Decoded:
    work: Work
    batches: list[FrameBatch]
    seconds: dict[str, float]


@dataclass(frozen=True)
class Encoded:
    work: Work
    tokens: VisualTokens
    seconds: dict[str, float]


@dataclass(frozen=True)
class Written:
    """Tokens that lie in `file` of the index now."""

    work: Work
    file: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Answered:
    """texts: an answer, or (code, message), for each question of the task; yes_probabilities: as
    in `Answer`."""

    work: Work
    texts: list[str | tuple[str, str]]
    yes_probabilities: list[float | None]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """A video that came no further."""

    work: Work
    stage: str
    code: str
    message: str


# -- workers


class Stage:
    """What an actor of a pool is: set up once, then one video after the other."""

    name = ""

    def work(self, item: Any) -> Any:
        """The next thing, made of the one before; whatever it raises becomes a `Failed`."""
        raise NotImplementedError

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        made = [pickle.dumps(self._made(pickle.loads(item)), protocol=5) for item in batch["item"]]
        return {"item": np.array(made, dtype=object)}

    def _made(self, item: Any) -> Any:
        if isinstance(item, Failed):
            return item
        work = item if isinstance(item, Work) else item.work
        try:
            return self.work(item)
        except VzVideoError as error:
            stage = "decode" if isinstance(error, VideoError) else self.name
            return Failed(work, stage, error.code, str(error))
        except Exception as error:  # one video's trouble is never the job's
            if "CUDA error" in str(error):
                # From here on every video would fail: a new actor takes over, with this one first.
                os.kill(os.getpid(), signal.SIGKILL)
            memory = "memory" in type(error).__name__.lower() or "can't allocate" in str(error)
            code = "out_of_memory" if memory else "unexpected"
            line = " ".join(str(error).split())[:500]
            return Failed(work, self.name, code, f"{type(error).__name__}: {line}")


class Decode(Stage):
    """Work -> Decoded, on one core, in a child process that may die."""

    name = "decode"

    def __init__(self, guard: Guard) -> None:
        self._decoder = GuardedDecoder(guard, threads=1)

    def work(self, item: Work) -> Decoded:
        begun = time.perf_counter()
        # Where nodes share no disk, a job brings its files along in its working folder.
        video = item.task.video
        here = video if "://" in video or os.path.exists(video) else item.path
        batches = self._decoder.decode(here, item.settings, item.frames, item.size)
        return Decoded(item, batches, {"decode": time.perf_counter() - begun})


class Encode(Stage):
    """Decoded -> Encoded, with the vision tower alone."""

    name = "encode"

    def __init__(self, settings: Settings, compression: ZipSettings) -> None:
        self._encoder = _load(settings, "tower").encoder.fitted(settings.fit)
        self._compression = compression

    def work(self, item: Decoded) -> Encoded:
        from vzvideo.video.base import no_frames

        if not item.batches:
            raise no_frames(item.work.task.video)
        begun = time.perf_counter()
        tokens = self._encoder.encode_clip(item.batches, self._compression)
        about = tokens.settings | item.work.about
        about |= {
            "dtype": str(self._encoder.dtype).removeprefix("torch."),
            "asked": sum(batch.asked for batch in item.batches),
            "lost": sum(batch.lost for batch in item.batches),
        }
        tokens = replace(tokens, features=tokens.features.cpu(), settings=about)
        seconds = item.seconds | {"encode": time.perf_counter() - begun}
        return Encoded(item.work, tokens, seconds)


class WriteTokens(Stage):
    """Encoded -> Kept: writes the tokens into the index."""

    name = "write"

    def __init__(self, out: str) -> None:
        self._out = out

    def work(self, item: Encoded) -> Written:
        from vzvideo.qa import store
        from vzvideo.video.base import short_name

        task = item.work.task
        about = [*task.place, item.work.version, item.work.about]
        digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
        # Called after the video, for whoever looks into the folder; the digest tells parts apart.
        name = re.sub(r"[^\w.-]+", "_", Path(short_name(task.video)).stem, flags=re.ASCII)[:64]
        file = f"{name}-{digest}.vz.safetensors"
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / file
            store.save(item.tokens, path)
            try:
                storage.write_atomic(storage.join(self._out, file), path.read_bytes())
            except OSError as error:
                raise SettingsError(f"{self._out}: cannot be written ({error})") from None
        return Written(item.work, file, row_facts(item))


class Answer(Stage):
    """Encoded, or Work whose tokens are stored -> Answered, with the language model alone."""

    name = "answer"

    def __init__(self, settings: Settings) -> None:
        self._qa = _load(settings, "language")

    def work(self, item: Encoded | Work) -> Answered:
        if isinstance(item, Work):
            item = Encoded(item, self._stored(item.stored), {})
        settings = item.work.settings
        prefix, prefill_s = self._qa.prefill(item.tokens)
        begun = time.perf_counter()
        language = self._qa.language
        questions = [question.strip() for _, question in item.work.task.asked]
        texts = language.answer_each(prefix, questions, **settings.answering)
        sure = [
            language.yes_probability(prefix, question, str(text))
            for question, text in zip(questions, texts, strict=True)
        ]
        self._qa.forget()
        seconds = item.seconds | {"prefill": prefill_s, "generate": time.perf_counter() - begun}
        said = [
            text if isinstance(text, str) else (f"answer:{text.code}", str(text)) for text in texts
        ]
        return Answered(item.work, said, sure, row_facts(replace(item, seconds=seconds)))

    def _stored(self, uri: str) -> VisualTokens:
        with tempfile.TemporaryDirectory() as scratch:
            return VisualTokens.load(storage.local_copy(uri, Path(scratch)))


def row_facts(item: Encoded) -> dict[str, Any]:
    """What a row says of how a video was looked at."""
    tokens = item.tokens
    return {
        "frames": tokens.frames,
        "frame_times_s": [round(float(t), 6) for t in tokens.pts_s],
        "tokens_before": tokens.tokens_before,
        "tokens": len(tokens),
        **{f"{stage}_s": round(s, 4) for stage, s in item.seconds.items()},
    }


def _load(settings: Settings, part: Any) -> VideoQA:
    """Half a model, fetched first where this node has none."""
    import torch

    from vzvideo.qa import loading

    if not torch.cuda.is_available():
        # As many actors as cores serve a machine better than threads that wait for each other.
        torch.set_num_threads(1)
    return loading.load(settings=settings.replace(cache=False), part=part)
