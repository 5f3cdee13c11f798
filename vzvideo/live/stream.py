"""Live video: frames come in for as long as they like, questions are answered at any moment.

Whoever asks works on what is remembered at that moment and stops nothing (`ingest` goes on). What
is remembered never takes more than a fixed number of tokens (`visionzip.memory`), so that an answer
takes as long after a day as after five minutes.
"""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from vzvideo.config import ANSWERING, LOADING, Settings
from vzvideo.errors import SettingsError, VideoError
from vzvideo.live.every import Every
from vzvideo.live.ingest import Ingest
from vzvideo.live.moments import moments_to_tokens
from vzvideo.live.sources import LiveSource
from vzvideo.live.stats import Stats
from vzvideo.models.language import SHORTEST_ANSWER
from vzvideo.models.prefix import Prefix, copy_cache
from vzvideo.qa import store
from vzvideo.qa.asking import AnswerStream, validate_question
from vzvideo.qa.encoding import Encoded
from vzvideo.types import Answer, FrameBatch, Policy, VisualTokens
from vzvideo.visionzip.memory import Memory, Moment

if TYPE_CHECKING:
    from vzvideo.qa.recipe import Recipe
    from vzvideo.qa.video_qa import VideoQA

BUDGET = 2048  # tokens remembered where nobody says otherwise, and the model has room for them
# Settings that say which frames of a file to look at.
OF_FILES = {
    *("frames", "sampling", "start_s", "end_s", "decoder", "hwaccel", "cache", "cache_gib"),
    "temporal",  # a stream's memory merges across time by itself
}


class Stream:
    """Video that goes on. Made by `VideoQA.stream`; its methods may be called from any thread.

    Times are those of the frames pushed; of what is attached, seconds from its first frame.
    """

    def __init__(
        self,
        qa: VideoQA,
        *,
        budget: int | None,
        queue: int,
        policy: Policy,
        tolerance: float,
        restore: str | Path | None,
        **changes: Any,
    ) -> None:
        """See `VideoQA.stream`."""
        if wrong := OF_FILES & changes.keys():
            raise SettingsError(f"{', '.join(sorted(wrong))}: not for a stream, which takes `fps`")
        if wrong := LOADING & changes.keys():
            raise SettingsError(f"{', '.join(sorted(wrong))}: say it to `load`, of the whole model")
        self._qa = qa
        self._settings = qa.settings.replace(**changes)
        # One frame: how many a file may have, and whether it is zipped across them, which the
        # settings may say, is of no concern here.
        recipe = qa.recipe(**{"frames": 1, "temporal": "off", **changes})
        self._size, compression = recipe.size, recipe.compression
        made_by = ("vzvideo", "model", "tower", "dtype", "fit")
        self._about = {name: recipe.about.get(name) for name in made_by} | compression.about()
        # What its thread notes of the frames that it encodes; it must not know of the stream.
        self._noted: dict[str, Any] = {}
        encode = partial(_encode, recipe, self._noted)
        self._source = "stream"
        self._each = compression.tokens_per_frame(qa.encoder.tokens)
        memory = Memory(self._room(budget))
        counts: dict[str, int] = {}
        if restore is not None:
            memory, counts = self._restored(Path(restore), memory)
        self._ingest = Ingest(
            encode,
            memory,
            counts,
            size=self._size,
            batch=self._settings.batch,
            queue=queue,
            policy=policy,
            tolerance=tolerance,
        )
        # Where nobody closes it and nobody has it any more, its threads end as well.
        weakref.finalize(self, self._ingest.stop)
        self._reading = threading.Lock()
        self._read: dict[bool, tuple[VisualTokens, Prefix]] = {}  # by whether of a window

    def _room(self, budget: int | None) -> int:
        language = self._qa.language
        answer = max(SHORTEST_ANSWER, language.window // 4)  # and what is asked
        room = language.window - language.prompts.length("?") - answer
        budget = min(BUDGET, room) if budget is None else budget
        if not self._each <= budget <= room:
            raise SettingsError(
                f"budget: {budget} given; a frame takes {self._each} tokens, and beside text and "
                f"answer the model has room for {room}"
            )
        return budget

    # -- frames in

    def push(self, frame: NDArray[np.uint8], pts_s: float) -> None:
        """Takes a frame, uint8 (H, W, 3) RGB of any size, shown at `pts_s` seconds.

        Times must not go back. Waits where the queue is full and the policy is "block".
        """
        self._ingest.push(frame, pts_s)

    def attach(
        self,
        source: str | Path,
        *,
        speed: float | None = None,
        fps: float | None = None,
        format: str | None = None,
    ) -> None:
        """Reads a source in the background until it ends or the stream is closed.

        Args:
            source: rtsp, http(s), udp or tcp URL, file, capture device, or "-".
            speed: for a file: 1.0 in real time; None as fast as it goes.
            fps: frames a second to look at; None for the setting (1), a large number for all.
            format: FFmpeg's name of the input format, where the source does not tell.

        Raises VideoError here where there is no such file; what fails later is raised once, by the
        next call of any thread. See `live.sources.LiveSource` for what is survived.
        """
        name = os.fspath(source)

        def open_at(start_s: float) -> LiveSource:
            return LiveSource(
                name,
                fps=self._settings.fps if fps is None else fps,
                size=self._size,
                speed=speed,
                deadline_s=self._settings.deadline_s,
                start_s=start_s,
                format=format,
                deinterlace=self._settings.deinterlace,
                tone_map=self._settings.tone_map,
            )

        self._ingest.attach(open_at, waits=name != "-" and os.path.isfile(name))
        self._source = name

    # -- questions

    def ask(
        self,
        question: str,
        *,
        since_s: float | None = None,
        until_s: float | None = None,
        **changes: Any,
    ) -> Answer:
        """The answer to a question about what is remembered at this moment.

        Args:
            since_s, until_s: the part to look at, in seconds of the stream, as finely as it is
                remembered: a moment far back may reach beyond it. Below 0 they count from the end
                of what is remembered, so that `since_s=-30` is the last half minute.
            changes: `max_new_tokens`, `temperature`, `num_beams`.

        Frames that are still waiting are not seen; `wait` waits for them. The answer's
        `frame_times_s` are the times it looked at.
        """
        return self.start(question, since_s=since_s, until_s=until_s, **changes).finish()

    def start(
        self,
        question: str,
        *,
        since_s: float | None = None,
        until_s: float | None = None,
        **changes: Any,
    ) -> AnswerStream:
        """As `ask`; iterate over what comes back for the text as it is generated."""
        question, settings = validate_question(question), self._answering(changes)
        tokens = self.tokens(since_s=since_s, until_s=until_s)
        begun = time.perf_counter()
        prefix = self._prefix(tokens, since_s is not None or until_s is not None)
        seconds = {"prefill": time.perf_counter() - begun}
        encoded = Encoded(tokens, {}, False, tokens.frames, 0)
        return self._qa.answer_stream(encoded, prefix, question, settings, seconds)

    def _answering(self, changes: dict[str, Any]) -> Settings:
        if wrong := changes.keys() - set(ANSWERING):
            raise SettingsError(
                f"{', '.join(sorted(wrong))}: a question takes {', '.join(ANSWERING)}; the rest is "
                "said when the stream is made"
            )
        return self._settings.replace(**changes)

    def tokens(self, *, since_s: float | None = None, until_s: float | None = None) -> VisualTokens:
        """What is remembered at this moment, or a part of it; see `ask`.

        Waits for the first frame where one is on its way.
        """
        memory = self._ingest.first()
        if since_s is None and until_s is None:
            return self._whole(memory.moments)
        since = _resolve_time(since_s, -math.inf, memory.end_s)
        until = _resolve_time(until_s, math.inf, memory.end_s)
        moments = memory.between(since, until) if since <= until else ()
        if memory.moments and not moments:
            raise VideoError(
                f"nothing is remembered between {since:.1f} and {until:.1f} s: the stream goes "
                f"from {memory.start_s:.1f} to {memory.end_s:.1f} s",
                code="clip",
            )
        return self._whole(moments)

    def _whole(self, moments: tuple[Moment, ...]) -> VisualTokens:
        if not moments:
            raise VideoError(
                "nothing has been seen yet: push a frame or attach a source", code="no_frames"
            )
        frames = sum(float(moment.weight.sum()) for moment in moments) / self._each
        about = self._about | self._noted | {"stand_for": round(frames)}
        return moments_to_tokens(moments, self._source, about)

    def _prefix(self, tokens: VisualTokens, window: bool) -> Prefix:
        """What the model knows after reading `tokens`, for one question to write into.

        The far past comes first and seldom changes: what an earlier question read of it counts.
        """
        with self._reading:
            known = self._read.get(window)
            if known is None or not torch.equal(known[0].features, tokens.features):
                known = (tokens, self._qa.language.prefill(tokens, known))
                self._read[window] = known
            return replace(known[1], cache=copy_cache(known[1].cache))

    def forget(self) -> None:
        """Lets go of what was read for earlier questions; frees its memory."""
        with self._reading:
            self._read.clear()

    def every(
        self,
        seconds: float,
        question: str,
        *,
        since_s: float | None = None,
        **changes: Any,
    ) -> Every:
        """Asks again and again, each time so many seconds of the stream have gone by.

        `for` and `async for` both go over the answers, until the stream is closed or what was
        attached has ended. Each looks at the last `seconds`, or where `since_s` says. A file waits
        for its answers, so that every time is asked; of live sources times are left out where
        answering takes longer, and `skipped` counts them.
        """
        if not 0 < seconds < math.inf:
            raise SettingsError(f"every: {seconds:g} given, seconds above 0 are needed")
        self._answering(changes)  # what is wrong with them is told at once
        since_s = -seconds if since_s is None else since_s
        question = validate_question(question)
        return Every(self._ingest, seconds, lambda: self.ask(question, since_s=since_s, **changes))

    # -- how it is doing

    @property
    def stats(self) -> Stats:
        """How the stream is doing at this moment."""
        return self._ingest.stats

    @property
    def cropped(self) -> float | None:
        """Of each frame, the share of its area that the model does not see; None before the first
        is encoded."""
        return self._noted.get("cropped")

    @property
    def memory(self) -> Memory:
        """What is remembered at this moment; a value that does not change."""
        return self._ingest.memory

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until what is attached has ended and no frame waits, or the stream is closed; whether
        that is so."""
        return self._ingest.wait(timeout_s)

    # -- state

    def save(self, path: str | Path) -> None:
        """Writes what is remembered to a file, from which `qa.stream(restore=path)` goes on.

        It is a file of visual tokens, too: `qa.ask(path, ...)` asks it.
        """
        memory, counts = self._ingest.state()
        tokens = self._whole(memory.moments)
        spans = [(moment.start_s, moment.end_s, len(moment)) for moment in memory.moments]
        more = {
            "spans": torch.tensor(spans, dtype=torch.float64),
            "weight": torch.cat([moment.weight for moment in memory.moments]),
        }
        store.save(replace(tokens, settings=tokens.settings | {"counts": counts}), Path(path), more)

    def _restored(self, path: Path, memory: Memory) -> tuple[Memory, dict[str, int]]:
        """What `save` wrote, within the budget of `memory`, and what had been counted."""
        tokens, more = store.load_with_extras(path)
        if not {"spans", "weight"} <= more.keys():
            raise SettingsError(f"{path}: tokens of a file; `Stream.save` writes those of a stream")
        for name, now in self._about.items():
            then = tokens.settings.get(name)
            if then != now and name != "vzvideo":
                raise SettingsError(f"{path}: saved with {name} {then!r}, now it is {now!r}")
        whole = {
            "features": tokens.features,
            "role": torch.from_numpy(tokens.role),
            "patch": torch.from_numpy(tokens.patch),
            "pts_s": torch.from_numpy(tokens.pts_s[tokens.frame]),
            "weight": more["weight"],
        }
        first = 0
        for start_s, end_s, count in more["spans"].tolist():
            part = {name: tensor[first : first + int(count)] for name, tensor in whole.items()}
            memory = memory.add(Moment(**part, start_s=start_s, end_s=end_s, grid=tokens.grid))
            first += int(count)
        self._source = tokens.source
        return memory, tokens.settings["counts"]

    # -- the end

    def close(self) -> None:
        """Ends everything; frames still waiting count as dropped.

        Returns within a second. A source that says nothing keeps its thread until its deadline, and
        Python waits for that one when it ends; see `ended`. What is remembered can still be asked
        and saved.
        """
        self._ingest.close()
        self.forget()

    @property
    def ended(self) -> bool:
        """Whether all threads have ended."""
        return self._ingest.ended

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        trouble = self._ingest.take_error()
        if error is None and trouble is not None:
            raise trouble


def _encode(recipe: Recipe, noted: dict[str, Any], frames: FrameBatch) -> VisualTokens:
    tokens = recipe.encoder.encode(frames, recipe.compression, apart=True)
    noted["cropped"] = tokens.settings["cropped"]
    return tokens


def _resolve_time(at_s: float | None, otherwise_s: float, now_s: float) -> float:
    """A time of the stream; one below 0 counts from now."""
    if at_s is None:
        return otherwise_s
    if math.isnan(at_s):
        raise SettingsError("since_s, until_s: seconds are needed")
    return now_s + at_s if at_s < 0 else at_s
