"""Live video: frames come in for as long as they like, questions are answered at any moment.

One thread reads a source, one encodes; whoever asks works on what is remembered at that moment and
stops neither. Frames that show nothing new are not encoded. What is remembered never takes more
than a fixed number of tokens (`visionzip.memory`).
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from vzvideo import store
from vzvideo.errors import SettingsError, VideoError
from vzvideo.models.video_llava import SHORTEST_ANSWER, Prefix, copy_cache
from vzvideo.qa import Asking, Encoded, checked
from vzvideo.types import Answer, FrameBatch, VisualTokens
from vzvideo.video.live import Live, same, shrunk, thumbnail
from vzvideo.visionzip.memory import Memory, Moment

if TYPE_CHECKING:
    from vzvideo.qa import VideoQA

Policy = Literal["block", "drop_oldest", "drop_newest"]

BUDGET = 2048  # tokens remembered where nobody says otherwise, and the model has room for them
_STEP_S = 0.04  # from the last frame of one source to the first of the next
_CLOSE_S = 0.8  # how long threads are waited for
# Settings of a file's frames, of which a stream chooses otherwise.
OF_FILES = {"frames", "sampling", "start_s", "end_s", "decoder", "cache", "cache_gib"}


@dataclass(frozen=True)
class Stats:
    """How a stream is doing; frames_in = skipped + encoded + dropped + waiting, always.

    skipped: frames that showed nothing new. dropped: those there was no time for. waiting: not yet
    encoded. lag_s: how far what is remembered is behind what came in. tokens: remembered.
    covered_s: from the first moment remembered to the last. lost, reconnects: of attached sources:
    damaged packets, and how often one that had gone was connected anew.
    """

    frames_in: int
    skipped: int
    encoded: int
    dropped: int
    waiting: int
    lag_s: float
    tokens: int
    covered_s: float
    lost: int
    reconnects: int


@dataclass(eq=False)
class _Frame:
    """A frame that came in; until end_s nothing looked different."""

    pixels: NDArray[np.uint8]
    small: NDArray[np.int16]
    start_s: float
    end_s: float
    remembered: bool = False


class Stream:
    """Video that goes on. Made by `VideoQA.stream`; its methods may be called from any thread.

    Times are seconds of the stream, from its first frame.
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
        if policy not in get_args(Policy):
            raise SettingsError(f"policy: {policy!r} given, choose {' or '.join(get_args(Policy))}")
        if queue < 1:
            raise SettingsError(f"queue: {queue} given, room for 1 frame at least is needed")
        if not 0 <= tolerance <= 1:
            raise SettingsError(f"tolerance: {tolerance:g} given, 0..1 is allowed")
        self._qa = qa
        self._settings = qa.settings.replace(**changes)
        recipe = qa.recipe(**{"frames": 1, **changes})
        self._compression, self._size = recipe.compression, recipe.size
        self._about = {
            name: recipe.about[name] for name in ("vzvideo", "model", "tower", "dtype")
        } | asdict(recipe.compression)
        self._limit, self._policy, self._tolerance = queue, policy, tolerance
        self._memory = Memory(self._checked_budget(budget))
        self._source = "stream"
        self._counts = dict.fromkeys(("frames_in", "skipped", "encoded", "dropped"), 0)
        self._lost = self._reconnects = 0  # of sources that have ended
        self._saved_at: float | None = None
        if restore is not None:
            self._restore(Path(restore))
        self._newest_s = self._memory.end_s

        # Everything above and below that changes does so under this one.
        self._changed = threading.Condition()
        self._pushing = threading.Lock()
        self._waiting: deque[_Frame] = deque()
        self._last: _Frame | None = None  # the last that was to be encoded
        self._live: Live | None = None
        self._attached = False  # was anything ever
        self._source_error: BaseException | None = None
        self._encoder_error: BaseException | None = None
        self._closed = False
        self._reading = threading.Lock()
        self._read: dict[bool, tuple[VisualTokens, Prefix]] = {}  # by whether of a window
        self._encoding = threading.Thread(target=self._encode, name="vzvideo encode", daemon=True)
        self._encoding.start()

    def _checked_budget(self, budget: int | None) -> int:
        language = self._qa.language
        answer = min(self._settings.max_new_tokens, max(SHORTEST_ANSWER, language.window // 4))
        room = language.window - language.text_tokens("?") - answer
        least = self._compression.tokens_per_frame(self._qa.encoder.tokens)
        budget = min(BUDGET, room) if budget is None else budget
        if not least <= budget <= room:
            raise SettingsError(
                f"budget: {budget} given; a frame takes {least} tokens, and beside text and answer "
                f"the model has room for {room}"
            )
        return budget

    # -- frames in

    def push(self, frame: NDArray[np.uint8], pts_s: float) -> None:
        """Takes a frame, uint8 (H, W, 3) RGB of any size, shown at `pts_s` seconds.

        Times must not go back. Waits where the queue is full and the policy is "block".
        """
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3:
            what = getattr(frame, "dtype", type(frame).__name__), getattr(frame, "shape", "")
            raise SettingsError(f"frame: {what[0]} {what[1]} given, uint8 (H, W, 3) is needed")
        if frame.shape[2] != 3 or 0 in frame.shape:
            raise SettingsError(f"frame: {frame.shape} given, uint8 (H, W, 3) is needed")
        if not math.isfinite(pts_s):
            raise SettingsError(f"pts_s: {pts_s} given, seconds are needed")
        with self._changed:
            self._raise_trouble()
        self._take(shrunk(frame, self._size), float(pts_s))

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
            fps: frames a second to look at; None for the setting (1).
            format: FFmpeg's name of the input format, where the source does not tell.

        Raises VideoError here where there is no such file; what fails later is raised by the next
        call. See `video.live.Live` for what is survived.
        """
        name = os.fspath(source)
        with self._changed:
            self._raise_trouble()
            if self._closed:
                raise _closed()
            if self._live is not None:
                raise SettingsError(f"{self._source} is attached: one source at a time")
            first = self._newest_s == -math.inf
            self._live = live = Live(
                name,
                fps=self._settings.fps if fps is None else fps,
                size=self._size,
                speed=speed,
                deadline_s=self._settings.deadline_s,
                start_s=0.0 if first else self._newest_s + _STEP_S,
                format=format,
            )
            self._source = name
            self._attached = True
        threading.Thread(
            target=self._follow, args=(live,), name="vzvideo source", daemon=True
        ).start()

    def _follow(self, live: Live) -> None:
        error: BaseException | None = None
        try:
            for pixels, pts_s in live:
                self._take(pixels, pts_s)
        except BaseException as caught:
            error = caught
        with self._changed:
            self._live = None
            self._lost += live.lost
            self._reconnects += live.reconnects
            if not self._closed and self._encoder_error is None:
                self._source_error = error
            self._changed.notify_all()

    def _take(self, pixels: NDArray[np.uint8], pts_s: float) -> None:
        small = thumbnail(pixels)
        with self._pushing, self._changed:
            if self._closed:
                raise _closed()
            if pts_s < self._newest_s:
                raise SettingsError(
                    f"pts_s: {pts_s:g} given after {self._newest_s:g}: times must not go back"
                )
            self._newest_s = pts_s
            self._counts["frames_in"] += 1
            last = self._last
            if last is not None and same(small, last.small, self._tolerance):
                self._counts["skipped"] += 1
                last.end_s = pts_s
                if last.remembered:
                    self._memory = self._memory.lasting(pts_s)
                self._changed.notify_all()
                return
            while len(self._waiting) >= self._limit:
                if self._policy == "drop_newest":
                    self._counts["dropped"] += 1
                    return
                if self._policy == "drop_oldest":
                    self._waiting.popleft()
                    self._counts["dropped"] += 1
                else:
                    self._changed.wait()
                    if self._closed or self._encoder_error:
                        self._counts["dropped"] += 1
                        raise self._encoder_error or _closed()
            self._last = _Frame(pixels, small, pts_s, pts_s)
            self._waiting.append(self._last)
            self._changed.notify_all()

    # -- frames to tokens

    def _encode(self) -> None:
        try:
            while batch := self._next_batch():
                self._remember(batch)
        except BaseException as error:
            with self._changed:
                self._encoder_error = error
                self._changed.notify_all()

    def _next_batch(self) -> list[_Frame]:
        """What waits, of one size and no more than a batch; nothing once the stream is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            batch: list[_Frame] = []
            while self._waiting and len(batch) < self._settings.batch:
                if batch and self._waiting[0].pixels.shape != batch[0].pixels.shape:
                    break
                batch.append(self._waiting.popleft())
            self._changed.notify_all()
            return batch

    def _remember(self, batch: list[_Frame]) -> None:
        frames = FrameBatch(
            np.stack([frame.pixels for frame in batch]),
            np.array([frame.start_s for frame in batch]),
        )
        tokens = self._qa.encoder.encode(frames, self._compression)
        # Only this thread adds; the one that takes frames lets the last moment last, which is in
        # this one's hands now.
        memory = self._memory
        for frame, moment in zip(batch, _moments(tokens), strict=True):
            memory = memory.add(moment).lasting(frame.end_s)
        with self._changed:
            self._memory = memory.lasting(batch[-1].end_s)
            for frame in batch:
                frame.remembered = True
            self._counts["encoded"] += len(batch)
            self._changed.notify_all()

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
            since_s, until_s: the part to look at, in seconds of the stream; below 0 they count
                from now, so that `since_s=-30` is the last half minute.
            changes: `max_new_tokens`, `temperature`.

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
    ) -> Asking:
        """As `ask`; iterate over what comes back for the text as it is generated."""
        question = checked(question)
        if wrong := changes.keys() - {"max_new_tokens", "temperature"}:
            raise SettingsError(
                f"{', '.join(sorted(wrong))}: settings of the stream, too late in a question"
            )
        settings = self._settings.replace(**changes)
        tokens = self.tokens(since_s=since_s, until_s=until_s)
        begun = time.perf_counter()
        prefix = self._prefix(tokens, since_s is not None or until_s is not None)
        seconds = {"prefill": time.perf_counter() - begun}
        encoded = Encoded(tokens, {}, False, tokens.frames, 0)
        return Asking(self._qa, encoded, prefix, question, settings, seconds)

    def tokens(self, *, since_s: float | None = None, until_s: float | None = None) -> VisualTokens:
        """What is remembered at this moment, or a part of it; see `ask`.

        Waits for the first frame where one is on its way.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._memory.moments or not self._expecting())
            self._raise_trouble()
            memory = self._memory
        if since_s is None and until_s is None:
            return self._whole(memory)
        since = _place(since_s, -math.inf, memory.end_s)
        until = _place(until_s, math.inf, memory.end_s)
        moments = memory.between(since, until)
        if not moments:
            raise VideoError(
                f"nothing is remembered between {since:.1f} and {until:.1f} s: the stream goes "
                f"from {memory.start_s:.1f} to {memory.end_s:.1f} s",
                code="clip",
            )
        return _tokens(moments, self._qa.encoder.grid, self._source, self._about)

    def _whole(self, memory: Memory) -> VisualTokens:
        if not memory.moments:
            raise VideoError(
                "nothing has been seen yet: push a frame or attach a source", code="no_frames"
            )
        return _tokens(memory.moments, self._qa.encoder.grid, self._source, self._about)

    def _prefix(self, tokens: VisualTokens, window: bool) -> Prefix:
        """What the model knows after reading `tokens`, for one question to write into.

        The far past comes first and seldom changes: what an earlier question read of it counts.
        """
        with self._reading:
            known = self._read.get(window)
            if known is None or not torch.equal(known[0].features, tokens.features):
                prefix = self._qa.language.read(tokens, known)
                self._read[window] = known = (tokens, prefix)
            return Prefix(known[1].ids, copy_cache(known[1].cache))

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
        attached has ended. Each looks at the last `seconds`, or where `since_s` says. Where
        answering takes longer, times are left out.
        """
        if not 0 < seconds < math.inf:
            raise SettingsError(f"every: {seconds:g} given, seconds above 0 are needed")
        since_s = -seconds if since_s is None else since_s
        return Every(self, seconds, checked(question), since_s, changes)

    # -- how it is doing

    @property
    def stats(self) -> Stats:
        """How the stream is doing at this moment."""
        with self._changed:
            counts, memory, live = dict(self._counts), self._memory, self._live
            newest_s = self._newest_s
            lost = self._lost + (live.lost if live else 0)
            reconnects = self._reconnects + (live.reconnects if live else 0)
        done = counts["skipped"] + counts["encoded"] + counts["dropped"]
        waiting = counts["frames_in"] - done
        return Stats(
            **counts,
            waiting=waiting,
            lag_s=newest_s - memory.end_s if waiting and memory.moments else 0.0,
            tokens=memory.tokens,
            covered_s=memory.end_s - memory.start_s if memory.moments else 0.0,
            lost=lost,
            reconnects=reconnects,
        )

    @property
    def memory(self) -> Memory:
        """What is remembered at this moment; a value that does not change."""
        return self._memory

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until what is attached has ended and all frames are remembered; whether that is so."""
        with self._changed:
            done = self._changed.wait_for(
                lambda: self._over or (self._live is None and not self._pending), timeout_s
            )
            self._raise_trouble()
            return done

    def _reached(self, due_s: float, left: threading.Event) -> float:
        """Waits until what is remembered goes so far, or nothing more comes; how far it goes."""

        def over() -> bool:
            ended = self._attached and self._live is None and not self._pending
            return ended or self._over or left.is_set()

        with self._changed:
            self._changed.wait_for(lambda: self._memory.end_s >= due_s or over())
            self._raise_trouble()
            return self._memory.end_s

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    @property
    def _pending(self) -> int:
        counts = self._counts
        return counts["frames_in"] - counts["skipped"] - counts["encoded"] - counts["dropped"]

    @property
    def _over(self) -> bool:
        """Whether nothing will ever come any more."""
        return self._closed or bool(self._encoder_error or self._source_error)

    def _expecting(self) -> bool:
        return not self._over and (self._live is not None or self._pending > 0)

    def _raise_trouble(self) -> None:
        """A thread's error reaches whoever calls next; a source's once, for asking goes on."""
        if self._encoder_error is not None:
            raise self._encoder_error
        if self._source_error is not None:
            error, self._source_error = self._source_error, None
            raise error

    # -- state

    def save(self, path: str | Path) -> None:
        """Writes what is remembered to a file, from which `qa.stream(restore=path)` goes on.

        It is a file of visual tokens, too: `qa.ask(path, ...)` asks it.
        """
        with self._changed:
            memory, counts = self._memory, dict(self._counts)
        tokens = self._whole(memory)
        spans = [(moment.start_s, moment.end_s, len(moment)) for moment in memory.moments]
        more = {
            "spans": torch.tensor(spans, dtype=torch.float64),
            "weight": torch.cat([moment.weight for moment in memory.moments]),
        }
        about = tokens.settings | {"counts": counts}
        store.save(replace(tokens, settings=about), Path(path), more)

    def _restore(self, path: Path) -> None:
        tokens, more = store.load_more(path)
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
            self._memory = self._memory.add(Moment(**part, start_s=start_s, end_s=end_s))
            first += int(count)
        self._counts |= tokens.settings["counts"]
        self._counts["dropped"] += self._pending  # what waited then is gone
        self._source = tokens.source

    def close(self) -> None:
        """Ends everything within a second; frames still waiting count as dropped."""
        with self._changed:
            self._closed = True
            self._counts["dropped"] += len(self._waiting)
            self._waiting.clear()
            if self._live is not None:
                self._live.close()
            self._changed.notify_all()
        if threading.current_thread() is not self._encoding:
            self._encoding.join(_CLOSE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        trouble = self._encoder_error or self._source_error
        self.close()
        if error is None and trouble is not None:
            raise trouble


class Every:
    """Answers to one question, time and again; see `Stream.every`."""

    def __init__(
        self, stream: Stream, seconds: float, question: str, since_s: float, changes: dict[str, Any]
    ) -> None:
        self._stream, self._seconds, self._question = stream, seconds, question
        self._since_s, self._changes = since_s, changes
        self._left = threading.Event()  # nobody waits for more

    def __iter__(self) -> Iterator[Answer]:
        stream = self._stream
        answered_s = max(0.0, stream.memory.end_s)
        while True:
            due_s = answered_s + self._seconds
            reached_s = stream._reached(due_s, self._left)
            if self._left.is_set() or reached_s <= answered_s:
                return
            yield stream.ask(self._question, since_s=self._since_s, **self._changes)
            if reached_s < due_s:  # that was the rest
                return
            answered_s = reached_s

    async def __aiter__(self) -> AsyncIterator[Answer]:
        answers = iter(self)
        try:
            while (answer := await asyncio.to_thread(next, answers, None)) is not None:
                yield answer
        finally:
            self._left.set()
            self._stream._wake()


def _closed() -> SettingsError:
    return SettingsError("the stream is closed: open another", code="closed")


def _place(at_s: float | None, otherwise_s: float, now_s: float) -> float:
    """A time of the stream; one below 0 counts from now."""
    if at_s is None:
        return otherwise_s
    if math.isnan(at_s):
        raise SettingsError("since_s, until_s: seconds are needed")
    return now_s + at_s if at_s < 0 else at_s


def _moments(tokens: VisualTokens) -> Iterator[Moment]:
    """Each frame's tokens as a moment of no length."""
    features = tokens.features.cpu()
    role, patch = torch.from_numpy(tokens.role), torch.from_numpy(tokens.patch)
    ends = np.flatnonzero(np.diff(tokens.frame, append=tokens.frames)) + 1
    first = 0
    for pts_s, end in zip(tokens.pts_s.tolist(), ends.tolist(), strict=True):
        count = end - first
        yield Moment(
            features[first:end], role[first:end], patch[first:end],
            torch.full((count,), pts_s, dtype=torch.float64), torch.ones(count), pts_s, pts_s,
        )  # fmt: skip
        first = end


def _tokens(
    moments: tuple[Moment, ...], grid: tuple[int, int], source: str, about: dict[str, Any]
) -> VisualTokens:
    """Moments as the language model reads them; each token keeps its own time."""
    whole = {
        name: torch.cat([getattr(moment, name) for moment in moments]) for name in Moment.TENSORS
    }
    pts_s, frame = np.unique(whole["pts_s"].numpy(), return_inverse=True)
    return VisualTokens(
        features=whole["features"],
        frame=frame.astype(np.int32),
        role=whole["role"].numpy(),
        patch=whole["patch"].numpy(),
        pts_s=pts_s,
        grid=grid,
        source=source,
        settings=about,
    )
