"""Frames of a source by their times: decoding on where that is nearer, else seeking.

Where a seek ends is not trusted: it is tried from further back until the decoder says that it can
start there, in the end from the beginning. Knows nothing of pixels.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import av
import av.error
import numpy as np
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.video.stream import VideoStream

from vzvideo.errors import VideoError
from vzvideo.video.base import SAME_S, no_frames
from vzvideo.video.clock import Clock
from vzvideo.video.fetching import OnFetch, fetch, is_web, serves_ranges
from vzvideo.video.pyav.decoding import FrameDecoder, Shown
from vzvideo.video.pyav.demuxer import Demuxer
from vzvideo.video.pyav.refusals import explained
from vzvideo.video.pyav.timing import Stamps, StreamFacts, Timing

_SKIP_MARGIN_S = 0.1  # frames nobody refers to are decoded only this close to a time asked for
_BLIND_SEEK_S = 2.0  # how far ahead to seek where the file has no index of keyframes
# An index holds decoding times, which run a few frames ahead of what is shown.
_SLACK_FRAMES, _SLACK_S = 4, 0.15  # a header may know no rate, or claim a thousand frames a second


@dataclass(frozen=True)
class _Landing:
    """Where a seek ended.

    reached: not behind its target, and the first frame from there is decoded. readable: whether
    any could be, None where that was not tried. before: about when the keyframe before is shown, in
    ticks, where the index tells.
    """

    reached: bool
    readable: bool | None = None
    before: int | None = None


class FrameReader:
    """Reads a source's frames. Not for several threads at once.

    facts, timing: how the source counts time, and what its packets say of it.
    """

    source: str
    facts: StreamFacts
    timing: Timing
    _stream: VideoStream
    _decoder: FrameDecoder
    _clock: Clock
    _frames: Iterator[Shown]  # those still to come
    _current: Shown | None  # the frame on show
    _ahead: Shown | None  # the one behind it, where that is decoded already

    def __init__(
        self, source: str, deadline_s: float, threads: int, hwaccel: HWAccel | None
    ) -> None:
        """Opens nothing yet; see `open_video`."""
        self.source = source
        self._deadline_s, self._threads, self._device = deadline_s, threads, hwaccel
        self._demuxer = Demuxer(source, deadline_s, hwaccel, give_up=self.close)
        self._container: InputContainer | None = None
        self._over = threading.Event()  # set where nobody wants any more of it
        self._start_s = 0.0
        self._lost = 0
        self._counted: set[int | None] = set()  # of what one call asks for, damage counts once
        self._seekable = True
        self._jumps = False  # whether its clock is known to start again
        self._sought = False  # whether what comes is from behind a seek
        self._known: StreamFacts | None = None  # once packets have been seen
        self._blind_s = _BLIND_SEEK_S
        self._forget: Callable[[], object] | None = None  # a copy that was fetched

    def close(self) -> None:
        """Frees what it holds."""
        self._disconnect()
        if self._forget is not None:
            self._forget()

    # -- opening

    def _begin(self, on_fetch: OnFetch | None) -> Shown:
        """Opens the source and learns of its time; its first frame.

        on_fetch: see `open_video`.
        """
        self._ahead = first = self._first(on_fetch)
        self.facts = self._known = self._decoder.facts
        self._start_s = -(self._clock.offset_s or 0.0)
        self.timing = Timing(self._demuxer, self.facts, self._start_s)
        self._skip_margin_s = max(_SKIP_MARGIN_S, 3 * self.facts.step_s)
        return first

    def _first(self, on_fetch: OnFetch | None) -> Shown:
        try:
            return self._opened()
        except VideoError as error:
            web = is_web(self.source)
            if error.code not in ("invalid", "no_frames", "unreadable"):
                raise
            unread = explained(error, self.source, self._demuxer.path, self._deadline_s)
            if unread is not error or not web or serves_ranges(self.source, self._deadline_s):
                raise unread from None
        # Its index may lie at its end.
        path = fetch(self.source, self._deadline_s, on_fetch)
        self._forget = weakref.finalize(self, path.unlink, missing_ok=True)
        self._demuxer = Demuxer(
            self.source, self._deadline_s, self._device, give_up=self.close, path=path
        )
        return self._opened()

    def _opened(self) -> Shown:
        self._open()
        if (first := self._pull()) is None:
            raise no_frames(self.source)
        return first

    def _open(self) -> None:
        """Stands before the first frame, nothing decoded."""
        self._disconnect()
        self._sought = False
        self._container, self._stream = self._demuxer.connect(decode=True)
        self._stream.thread_type = "AUTO"
        self._stream.codec_context.thread_count = self._threads
        # Some decoders of AV1 stay for ever with what they leave out when they are opened. What
        # cannot be opened fails again when it is to decode.
        with suppress(av.error.FFmpegError, ValueError):
            self._stream.codec_context.open(strict=False)
        facts = self._known or StreamFacts.of(self._container, self._stream)
        self._seekable = self._seekable and facts.seekable
        self._decoder = FrameDecoder(self._stream, facts, self._over, self._counted)
        self._clock = Clock(step_s=facts.step_s)
        packets = self._demuxer.packets(self._container, self._stream)
        self._frames = self._decoder.frames(packets, self._clock)

    def _disconnect(self) -> None:
        self._frames: Iterator[Shown] = iter(())
        self._current = self._ahead = None
        if self._container is not None:
            self._demuxer.close(self._container)
            self._container = None

    def _check_open(self) -> None:
        if self._container is None:
            raise VideoError(f"{self.source}: the video has been closed", code="closed")

    # -- moving

    def _frame_at(self, time_s: float) -> Shown:
        """The frame on show at `time_s`: the last that starts no later, or the nearest."""
        self._check_open()
        target_s = max(time_s, 0.0) + SAME_S
        while True:
            was_sure = self._seekable
            self._approach(target_s)
            full_s = target_s - self._skip_margin_s
            found, moved = self._advance(target_s, full_s)
            if moved and found.at_s < full_s:
                # What is on show may be one of the frames left out: the margin was too small.
                self._skip_margin_s = 2 * (target_s - found.at_s)
                self._rewind(target_s)
                found, _ = self._advance(target_s, -np.inf)
            if self._seekable or not (was_sure and self._sought):
                return found
            self._open()  # from behind a seek it can't be told what is shown when

    def _advance(self, target_s: float, full_s: float) -> tuple[Shown, bool]:
        """Decodes on to the frame on show at `target_s`; says too whether that took decoding."""
        moved = False
        while True:
            if self._ahead is None:
                self._ahead = self._pull(full_s)
                moved = moved or self._ahead is not None
            if self._ahead is None or (self._current and self._ahead.at_s > target_s):
                break
            self._current, self._ahead = self._ahead, None
        if self._current is None:
            self._demuxer.check_unchanged()
            raise no_frames(self.source)
        return self._current, moved

    def _next(self) -> Shown | None:
        """The frame after the one that was last given."""
        shown = self._ahead or self._pull()
        self._current, self._ahead = shown or self._current, None
        return shown

    def _approach(self, target_s: float) -> None:
        """Moves to where decoding on leads to `target_s`, if that is not here or saves decoding."""
        here = self._current or self._ahead
        here_s = here.at_s if here else 0.0
        if target_s < here_s:
            self._rewind(target_s)
        elif self._worth_seeking(here_s, target_s) and self._may_seek():
            self._rewind(target_s)
            landed_s = self._ahead.at_s if self._ahead else 0.0
            if landed_s <= here_s:
                self._blind_s = 2 * (target_s - landed_s)  # keyframes are that far apart at least

    def _may_seek(self) -> bool:
        """Whether times behind a seek are those of a pass from the start."""
        self._seekable = self._seekable and self.timing.continuous
        return self._seekable

    def _may_skip(self) -> bool:
        """Whether it does not matter to the time of what follows that a frame is left out."""
        known = self.facts.ordered or self._demuxer.version is not None
        return known and not self._jumps and self.timing.continuous

    def _ticks(self, time_s: float) -> int:
        return self.facts.ticks(time_s + self._start_s)

    def _worth_seeking(self, here_s: float, target_s: float) -> bool:
        slack_s = max(_SLACK_S, _SLACK_FRAMES * self.facts.step_s)
        entries = self._stream.index_entries
        key = entries.search_timestamp(self._ticks(target_s - slack_s))
        if key >= 0 and entries[key].timestamp > self._ticks(here_s + slack_s):
            return True
        return not self.facts.indexed and target_s - here_s > self._blind_s

    def _rewind(self, target_s: float) -> None:
        """Moves to a keyframe from which decoding on leads to `target_s`.

        A seek may end behind its target, for files are searched by decoding times, or where nothing
        can be decoded, for indices lie; then it is tried from further back, and last of all from
        the beginning, which always works.
        """
        readable: bool | None = None  # behind a seek, where one was tried
        start, wanted = self._ticks(SAME_S), self._ticks(target_s)
        back_s = 1.0
        while wanted >= start and self._may_seek():
            landing = self._land(wanted, target_s)
            if landing.reached:
                return
            if landing.readable is not None:
                readable = readable or landing.readable
            if landing.before is not None and landing.before < wanted:
                wanted = landing.before
            else:
                wanted, back_s = wanted - self.facts.ticks(back_s), 2 * back_s
        self._seekable = self._seekable and readable is not False
        self._open()

    def _land(self, wanted: int, target_s: float) -> _Landing:
        """Seeks to a keyframe near `wanted` ticks, and looks whether that is behind `target_s`."""
        self._frames = iter(())  # closes what reads
        self._current = self._ahead = None
        assert self._container is not None
        if not self._demuxer.seek(self._container, self._stream, wanted):
            return _Landing(False, readable=False)
        packets: Any = self._demuxer.packets(self._container, self._stream)
        first = self._first_keyframe(packets, target_s)
        if first is None or self._is_behind(first, target_s):
            packets.close()
            return _Landing(False, before=self._keyframe_before(first) if first else None)
        self._clock = Clock(step_s=self.facts.step_s, offset_s=-self._start_s)
        self._sought = True
        self._frames = self._decoder.frames(
            chain([first], packets), self._clock, sought=True, keyframe_by_s=target_s
        )
        self._ahead = self._pull()
        reached = self._ahead is not None and self._ahead.at_s <= target_s
        if not reached:
            packets.close()
        return _Landing(reached, readable=self._ahead is not None)

    def _first_keyframe(self, packets: Iterator[Any], target_s: float) -> Any:
        """The first packet that says it is one; None where it would lie behind `target_s`."""
        for packet in packets:
            if packet is not None and (packet.is_keyframe or self._is_behind(packet, target_s)):
                return packet if packet.is_keyframe else None
        return None

    def _is_behind(self, packet: Any, target_s: float) -> bool:
        """What is to be shown then lies before it. Some files let that be decoded from here; from
        the keyframe before, all do."""
        if packet.pts is None or self.facts.stamps is not Stamps.PTS:
            return False
        return bool(packet.pts * self.facts.tick_s - self._start_s > target_s)

    def _keyframe_before(self, packet: Any) -> int | None:
        """About when the keyframe before that of `packet` is shown, in ticks, by the index."""
        entries = self._stream.index_entries
        if not self.facts.indexed or packet.dts is None:
            return None
        key = entries.search_timestamp(packet.dts - 1)
        # The index tells when frames are decoded: about as long before they are shown as this one.
        return entries[key].timestamp + packet.pts - packet.dts if key >= 0 else None

    # -- decoding

    def _pull(self, full_s: float = -np.inf) -> Shown | None:
        """The next frame in order. Before `full_s`, those nobody refers to are left out."""
        decoder = self._decoder
        # Where clocks start again or times are counted, each frame has to come.
        decoder.full_s = full_s if full_s <= 0 or self._may_skip() else -np.inf
        try:
            return next(self._frames, None)
        finally:
            self._jumps = self._jumps or not decoder.sure
            self._seekable = self._seekable and not self._jumps and decoder.facts.seekable
            self._lost, decoder.lost = self._lost + decoder.lost, 0

    def _take_lost(self) -> int:
        self._demuxer.check_unchanged()
        lost, self._lost = self._lost, 0
        return lost
