"""Frames in, memory out: what of a stream goes on by itself, in two threads.

One reads a source, one encodes. Frames that show nothing new are not encoded, those there is no
room for wait or are left out, and what is remembered is a value that anyone may take at any time.
Knows no language model.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from vzvideo.errors import ModelError, SettingsError
from vzvideo.live.holding import Holders
from vzvideo.live.moments import tokens_to_moments
from vzvideo.live.sources import LiveSource, downscale, is_similar, thumbnail
from vzvideo.live.stats import COUNTED, Stats
from vzvideo.types import FrameBatch, Policy, VisualTokens
from vzvideo.visionzip.memory import Memory

_STEP_S = 0.04  # from the last frame of one source to the first of the next
_LOOK_S = 0.5  # how often the encoder looks whether anybody is left to close it
_CLOSE_S = 0.8  # how long threads are waited for


@dataclass(eq=False)
class _Frame:
    """A frame that came in; until end_s nothing looked different."""

    pixels: NDArray[np.uint8]
    small: NDArray[np.int16]
    start_s: float
    end_s: float
    remembered: bool = False


class Ingest:
    """Takes frames, and remembers them as tokens. Its methods may be called from any thread.

    Args:
        encode: frames of one size to their tokens.
        memory: what is remembered at the beginning; counts: what was counted until then.
        size: shortest edge, in pixels, to which larger frames are scaled.
        batch: frames encoded at once where so many wait.
        queue, policy, tolerance: see `VideoQA.stream`.
    """

    def __init__(
        self,
        encode: Callable[[FrameBatch], VisualTokens],
        memory: Memory,
        counts: dict[str, int],
        *,
        size: int,
        batch: int,
        queue: int,
        policy: Policy,
        tolerance: float,
    ) -> None:
        check_policy(policy)
        if not isinstance(queue, int) or queue < 1:
            raise SettingsError(f"queue: {queue} given, a number of frames, 1 at least, is needed")
        if not 0 <= tolerance <= 1:
            raise SettingsError(f"tolerance: {tolerance:g} given, 0..1 is allowed")
        self._encode, self._size, self._batch = encode, size, batch
        self._limit, self._policy, self._tolerance = queue, policy, tolerance
        # What follows changes under this one only, and whoever waits for it waits here.
        self._changed = threading.Condition()
        self._memory = memory
        self._newest_s, self._first_s = memory.end_s, 0.0
        self._counts = dict.fromkeys(COUNTED, 0) | counts
        self._counts["dropped"] += self._pending  # what waited at the end of a former run
        self._waiting: deque[_Frame] = deque()
        self._last: _Frame | None = None  # the last that was to be encoded
        self._live: LiveSource | None = None
        self._waits = False  # whether what is attached is held back where somebody asks it so
        self.holders = Holders(self._changed)
        self._attached = False  # was anything ever
        self._untold: BaseException | None = None  # what went wrong in a thread
        self._broken: BaseException | None = None  # why the encoder's has ended
        self._closed = False
        self._pushing = threading.Lock()  # one frame after the other, also where they have to wait
        # No daemons: those that are in the middle of something when Python ends crash it.
        self._threads = [threading.Thread(target=self._work, name="vzvideo encode")]
        self._threads[0].start()

    # -- frames in

    def push(self, frame: NDArray[np.uint8], pts_s: float) -> None:
        """See `Stream.push`."""
        _check_frame(frame, pts_s)
        with self._changed:
            self._check(feeding=True)
            if self._live is not None:
                raise SettingsError(f"{self._live.source} is attached: push before or after it")
        self._take(downscale(frame, self._size), float(pts_s))

    def attach(self, open_at: Callable[[float], LiveSource], *, waits: bool = False) -> None:
        """Reads a source in a thread of its own; open_at: the source, by the time it begins at.

        waits: it loses nothing by being held back, as a file does; see `holders`.
        """
        with self._changed:
            self._check(feeding=True)
            if self._live is not None:
                raise SettingsError(f"{self._live.source} is attached: one source at a time")
            first = self._newest_s == -math.inf
            self._live = live = open_at(0.0 if first else self._newest_s + _STEP_S)
            self._attached, self._waits = True, waits
            follower = threading.Thread(target=self._follow, args=(live,), name="vzvideo source")
            self._threads[1:] = [follower]
            follower.start()

    def _follow(self, live: LiveSource) -> None:
        error: BaseException | None = None
        try:
            for pixels, pts_s in live:
                self._take(pixels, pts_s)
        except BaseException as caught:
            error = caught
        with self._changed:
            self._live = None
            self._counts["lost"] += live.lost
            self._counts["reconnects"] += live.reconnects
            if not self._closed and self._broken is None:
                self._untold = error
            self._changed.notify_all()

    def _take(self, pixels: NDArray[np.uint8], pts_s: float) -> None:
        small = thumbnail(pixels)
        with self._pushing, self._changed:
            if self._live is not None and self._waits:
                self.holders.wait(pts_s, lambda: self._over)
            self._check_open()
            if pts_s < self._newest_s:
                raise SettingsError(
                    f"pts_s: {pts_s:g} given after {self._newest_s:g}: times must not go back"
                )
            last = self._last
            if last is not None and self._shows_nothing_new(pixels, small, last):
                self._counts["skipped"] += 1
                last.end_s = pts_s
                if last.remembered:
                    self._memory = self._memory.extend_to(pts_s)
            elif self._make_room():
                self._last = _Frame(pixels, small, pts_s, pts_s)
                self._waiting.append(self._last)
            else:
                self._counts["dropped"] += 1
            if self._newest_s == -math.inf:
                self._first_s = pts_s
            self._newest_s = pts_s
            self._counts["frames_in"] += 1
            self._changed.notify_all()

    def _shows_nothing_new(
        self, pixels: NDArray[np.uint8], small: NDArray[np.int16], last: _Frame
    ) -> bool:
        if not is_similar(small, last.small, self._tolerance):
            return False
        return self._tolerance > 0 or np.array_equal(pixels, last.pixels)

    def _make_room(self) -> bool:
        """Whether the queue takes one more frame, after what the policy says."""
        while len(self._waiting) >= self._limit:
            if self._policy == "drop_newest":
                return False
            if self._policy == "drop_oldest":
                self._counts["dropped"] += 1
                self._waiting.popleft()
            else:
                self._changed.wait()
                self._check_open()  # a frame that is refused has never come in
        return True

    # -- frames to tokens

    def _work(self) -> None:
        try:
            while batch := self._next_batch():
                self._remember(batch)
        except BaseException as error:
            with self._changed:
                self._broken = self._untold = error
                self._waiting.clear()
                self._counts["dropped"] += self._pending
                self._changed.notify_all()

    def _next_batch(self) -> list[_Frame]:
        """What waits, of one size and no more than a batch; nothing once all is closed."""
        with self._changed:
            while True:
                if not threading.main_thread().is_alive():  # nobody closed the stream
                    self._close()
                if self._waiting or self._closed:
                    break
                self._changed.wait(_LOOK_S)
            batch: list[_Frame] = []
            while self._waiting and len(batch) < self._batch:
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
        # Only this thread adds to the memory; the one that takes frames lets its last moment last,
        # and that one is in this thread's hands.
        memory = self._memory
        for frame, moment in zip(batch, tokens_to_moments(self._encode(frames)), strict=True):
            memory = memory.add(moment).extend_to(frame.end_s)
        with self._changed:
            if self._closed:  # what was remembered then is what stays
                self._counts["dropped"] += len(batch)
                self._changed.notify_all()
                return
            self._memory = memory.extend_to(batch[-1].end_s)
            for frame in batch:
                frame.remembered = True
            self._counts["encoded"] += len(batch)
            self._changed.notify_all()

    # -- how it is doing

    @property
    def memory(self) -> Memory:
        """What is remembered at this moment; a value that does not change."""
        return self._memory

    @property
    def stats(self) -> Stats:
        """How it is doing at this moment."""
        with self._changed:
            counts, memory, live = dict(self._counts), self._memory, self._live
            waiting, newest_s = self._pending, self._newest_s
            behind_s = memory.end_s if memory.moments else self._first_s
            if live is not None:
                counts["lost"] += live.lost
                counts["reconnects"] += live.reconnects
        return Stats(
            **counts,
            waiting=waiting,
            lag_s=newest_s - behind_s if waiting else 0.0,
            tokens=memory.tokens,
            covered_s=memory.end_s - memory.start_s if memory.moments else 0.0,
        )

    def first(self) -> Memory:
        """What is remembered, the first frame waited for where one is on its way."""
        with self._changed:
            self._changed.wait_for(lambda: self._memory.moments or self._over or self._idle)
            self._check()
            if not self._memory.moments:
                self._check_encoder()
            return self._memory

    def wait(self, timeout_s: float | None = None) -> bool:
        """See `Stream.wait`."""
        with self._changed:
            done = self._changed.wait_for(lambda: self._over or self._idle, timeout_s)
            self._check()
            self._check_encoder()
            return done

    def wait_until(self, due_s: float, left: threading.Event) -> float:
        """Waits until what is remembered goes so far, or nothing more comes, or the source is held
        there, or `left` is set and `wake` called; how far it goes."""

        def over() -> bool:
            held = self.holders.waiting and not self._pending
            return (self._attached and self._idle) or held or self._over or left.is_set()

        with self._changed:
            self._changed.wait_for(lambda: self._memory.end_s >= due_s or over())
            self._check()
            self._check_encoder()
            return self._memory.end_s

    def wake(self) -> None:
        """Lets those that wait look again."""
        with self._changed:
            self._changed.notify_all()

    def take_error(self) -> BaseException | None:
        """What went wrong in a thread, if nobody has been told yet; now somebody has."""
        error, self._untold = self._untold, None
        return error

    def state(self) -> tuple[Memory, dict[str, int]]:
        """What is remembered, and what a later run goes on counting from, at one moment."""
        with self._changed:
            return self._memory, dict(self._counts)

    @property
    def _pending(self) -> int:
        counts = self._counts
        return counts["frames_in"] - counts["skipped"] - counts["encoded"] - counts["dropped"]

    @property
    def _idle(self) -> bool:
        """Whether nothing is attached and nothing waits."""
        return self._live is None and not self._pending

    @property
    def _over(self) -> bool:
        """Whether nothing more comes, or somebody has to be told."""
        return self._closed or self._broken is not None or self._untold is not None

    def _check(self, *, feeding: bool = False) -> None:
        """A thread's error reaches whoever calls next, once: what is remembered can still be asked.

        feeding: refuses where nothing more can come in.
        """
        if (error := self.take_error()) is not None:
            raise error
        if feeding:
            self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise SettingsError("the stream is closed: open another", code="closed")
        self._check_encoder()

    def _check_encoder(self) -> None:
        if self._broken is not None:
            raise ModelError(
                f"the stream's encoder has failed ({type(self._broken).__name__}): what is "
                "remembered can be asked and saved; open another stream to go on",
                code="encoder",
            ) from self._broken

    # -- the end

    def close(self) -> None:
        """See `Stream.close`."""
        self.stop()
        ends = time.monotonic() + _CLOSE_S
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, ends - time.monotonic()))

    def stop(self) -> None:
        """Lets everything end, and waits for nothing."""
        with self._changed:
            self._close()

    def _close(self) -> None:
        self._closed = True
        self._counts["dropped"] += len(self._waiting)
        self._waiting.clear()
        if self._live is not None:
            self._live.close()
        self._changed.notify_all()

    @property
    def ended(self) -> bool:
        """Whether all threads have ended."""
        return not any(thread.is_alive() for thread in self._threads)


def _check_frame(frame: object, pts_s: object) -> None:
    """SettingsError where it is no frame of a stream."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        kind = getattr(frame, "dtype", type(frame).__name__)
        raise SettingsError(f"frame: {kind} given, uint8 (H, W, 3) is needed")
    if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise SettingsError(f"frame: uint8 {frame.shape} given, uint8 (H, W, 3) is needed")
    if not isinstance(pts_s, (int, float, np.number)) or not math.isfinite(pts_s):
        raise SettingsError(f"pts_s: {pts_s} given, seconds are needed")
    if pts_s < 0:  # which in a question counts from now
        raise SettingsError(f"pts_s: {pts_s:g} given, times of a stream begin at 0")


def check_policy(policy: str) -> None:
    """SettingsError where there is no such policy."""
    if policy not in get_args(Policy):
        raise SettingsError(f"policy: {policy!r} given, choose {' or '.join(get_args(Policy))}")
