"""The default decoder: PyAV, decoding on where that is nearer and seeking where that is cheaper.

Damaged packets are counted and passed over. Only the frames asked for are converted to RGB, scaled
on the way.
"""

from __future__ import annotations

import copy
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, pairwise
from typing import Any

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vzvideo.errors import VideoError
from vzvideo.types import FrameBatch
from vzvideo.video.base import CONVERT_AHEAD, SAME_S, Video, VideoInfo, no_frames
from vzvideo.video.clock import Clock
from vzvideo.video.fetching import OnFetch, fetch, serves_ranges
from vzvideo.video.pyav.decoding import FrameDecoder, Shown
from vzvideo.video.pyav.demuxer import Demuxer
from vzvideo.video.pyav.hwaccel import acceleration
from vzvideo.video.pyav.pictures import Painter, to_pixels
from vzvideo.video.pyav.refusals import explained
from vzvideo.video.pyav.relay import Opener, Relay
from vzvideo.video.pyav.timing import Stamps, StreamFacts, Timing

_SKIP_MARGIN_S = 0.1  # frames nobody refers to are decoded only this close to a time asked for
_BLIND_SEEK_S = 2.0  # how far ahead to seek where the file has no index of keyframes
# An index holds decoding times, which run a few frames ahead of what is shown.
_SLACK_FRAMES, _SLACK_S = 4, 0.15  # a header may know no rate, or claim a thousand frames a second
_LARGE = 2**19  # pixels of a frame from which on handing it to another thread pays
_READERS = 8  # of one file at once, at most
_STRETCH_BYTES = 2**25  # that the pictures of one stretch may take, if it is to have its own reader
_SMALL = 32  # edge of the pictures that `differences` compares


def _usable_cores() -> int:
    """Of this process, which may have been given fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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


class PyAVVideo(Video):
    """See `open_video`.

    facts, timing: how the file counts time, and what its packets say of it.
    needs_more_than_scaling: see `Painter`.
    """

    _current: Shown | None  # the frame on show
    _ahead: Shown | None  # the one behind it, where that is decoded already
    _shown: VideoFrame | None  # the last whose picture was asked for, and what gives it
    _picture: Callable[[], NDArray[np.uint8]] | None

    def __init__(
        self,
        source: str,
        size: int | None,
        deadline_s: float,
        threads: int = 0,
        hwaccel: str | None = None,
        deinterlace: bool = True,
        tone_map: bool = True,
        on_fetch: OnFetch | None = None,
    ) -> None:
        self.source = source
        self._threads, self._deadline_s = threads, deadline_s
        self._cores = threads or _usable_cores()
        self._relays: list[Relay] = []
        self._over = threading.Event()  # set where nobody wants any more of it
        self._painters: ThreadPoolExecutor | None = None
        self._device = acceleration(hwaccel) if hwaccel else None
        self._demuxer = Demuxer(source, deadline_s, self._device, give_up=self.close)
        self._container: InputContainer | None = None
        self._start_s = 0.0
        self._lost = 0
        self._counted: set[int | None] = (
            set()
        )  # what is in it, once for all that is asked at a time
        self._seekable = True
        self._sought = False
        self._known: StreamFacts | None = None  # once packets have been seen
        self._blind_s = _BLIND_SEEK_S
        self._forget: Callable[[], object] | None = None  # a copy that was fetched
        try:
            first = self._first(on_fetch)
            self._ahead = first
            self.facts = self._known = self._decoder.facts
            self._start_s = -(self._clock.offset_s or 0.0)
            self.timing = Timing(self._demuxer, self.facts, self._start_s)
            frame = first.frame
            self._painter = Painter.of(
                self._stream, frame, size, deinterlace=deinterlace, tone_map=tone_map
            )
            # In shape and upright, but as large as it is coded.
            self._whole = Painter.of(self._stream, frame, None)
            self.needs_more_than_scaling = self._painter.needs_more_than_scaling(frame)
            painters = min(CONVERT_AHEAD, self._cores)
            if painters > 1 and frame.width * frame.height >= _LARGE:
                self._painters = ThreadPoolExecutor(painters, "vzvideo picture")
            self._skip_margin_s = max(_SKIP_MARGIN_S, 3 * self.facts.step_s)
            if not self._demuxer.version:
                _ = self.info  # while there is a connection: another might give another stream
        except BaseException:
            self.close()
            raise

    # -- the contract

    def stream(self, times_s: NDArray[np.float64], batch: int = 8) -> Iterator[FrameBatch]:
        self._check_open()
        try:
            yield from self._streamed(times_s, batch)
        finally:
            self._counted.clear()

    def _streamed(self, times_s: NDArray[np.float64], batch: int) -> Iterator[FrameBatch]:
        stretches = self._stretches(np.maximum(times_s, 0.0).tolist())
        # Two stretches for each at least: else some would have none while others are at their last.
        readers = min(_READERS, self._cores, len(stretches) // 2)
        if readers < 2:
            yield from super().stream(times_s, batch)
            return
        if not self._worth_seeking(0.0, stretches[0][0]):
            self._lost = 0  # before the first frame: whoever begins there comes upon it again
            self._counted.clear()
        # With all cores there are: a decoder's own threads help where stretches are few and long.
        threads = self._cores // readers
        relay = Relay(stretches, [self._another(threads) for _ in range(readers)])
        self._relays.append(relay)

        def shown_at(_: float) -> tuple[float, Callable[[], NDArray[np.uint8]]]:
            self._check_open()
            try:
                at_s, picture = relay.shown()
            except VideoError:
                self._demuxer.check_unchanged()  # which would be the reason
                raise
            self._lost, relay.lost = self._lost + relay.lost, 0
            return at_s, picture

        try:
            yield from self._batches(times_s, batch, shown_at)
        finally:
            relay.close()
            self._relays.remove(relay)

    def keyframes_s(self) -> NDArray[np.float64]:
        times = self.timing.scan.keyframes_s
        self._demuxer.check_unchanged()
        return times if len(times) else np.zeros(1)

    def differences(
        self, start_s: float, end_s: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        times: list[float] = []
        changes: list[float] = []
        before: NDArray[np.int16] | None = None
        lost_before = self._lost
        if self._picture is not None:  # no frame may be converted by two threads at once
            with suppress(VideoError):
                self._picture()
        shown: Shown | None = self._frame_at(start_s)
        while shown is not None and shown.at_s < end_s:
            grey = self._small(shown.frame)
            if not times or shown.at_s > times[-1]:  # not a second picture of the same moment
                changes.append(0.0 if before is None else float(np.abs(grey - before).mean()) / 255)
                times.append(shown.at_s)
            before, shown = grey, self._next()
        self._demuxer.check_unchanged()
        self._lost = lost_before  # of no concern to the frames asked for next
        self._counted.clear()
        return np.array(times), np.array(changes, np.float32)

    def close(self) -> None:
        for relay in list(self._relays):
            relay.close()
        if self._painters is not None:
            self._painters.shutdown()  # what has been begun is soon done, and may be waited for
        self._disconnect()
        if self._forget is not None:
            self._forget()

    def _disconnect(self) -> None:
        self._frames: Iterator[Shown] = iter(())
        self._current = self._ahead = self._shown = self._picture = None
        if self._container is not None:
            self._demuxer.close(self._container)
            self._container = None

    # -- opening

    def _first(self, on_fetch: OnFetch | None) -> Shown:
        """Opens the video; its first frame."""
        try:
            return self._opened()
        except VideoError as error:
            web = self.source.startswith(("http://", "https://"))
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

    @cached_property
    def info(self) -> VideoInfo:
        if self._container is not None:
            info = self._describe(self._container, self._stream)
        else:
            with self._demuxer.opened() as (container, stream):
                info = self._describe(container, stream)
        self._demuxer.check_unchanged()
        return info

    def _describe(self, container: InputContainer, stream: VideoStream) -> VideoInfo:
        width, height = self._whole.shown_size
        duration_s, rate, variable = self.timing.measure(container, stream)
        return VideoInfo(
            duration_s=duration_s,
            start_s=self._start_s,
            width=width,
            height=height,
            rotation=self._whole.orientation.rotation,
            codec=stream.codec_context.codec.canonical_name,
            average_fps=rate,
            variable_rate=variable,
            mirrored=self._whole.orientation.mirrored,
            promised_s=self.timing.promised_s(container, stream, duration_s),
        )

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

    def _check_open(self) -> None:
        if self._container is None:
            raise VideoError(f"{self.source}: the video has been closed", code="closed")

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

    def _ticks(self, time_s: float) -> int:
        return self.facts.ticks(time_s + self._start_s)

    def _worth_seeking(self, here_s: float, target_s: float) -> bool:
        slack_s = max(_SLACK_S, _SLACK_FRAMES * self.facts.step_s)
        entries = self._stream.index_entries
        key = entries.search_timestamp(self._ticks(target_s - slack_s))
        if key >= 0 and entries[key].timestamp > self._ticks(here_s + slack_s):
            return True
        return not self.facts.indexed and target_s - here_s > self._blind_s

    def _stretches(self, times: list[float]) -> list[list[float]]:
        """Ascending times, parted where going from one to the next is worth a seek.

        One stretch where the file does not tell its keyframes, or where the pictures between two
        of them would take too much memory.
        """
        index = self.facts.indexed and self._seekable and self.facts.stamps is Stamps.PTS
        if self._cores < 2 or self._device or not (index and self._demuxer.version and times):
            return [times]
        most = max(1, _STRETCH_BYTES // (3 * self._painter.width * self._painter.height))
        parted = [times[:1]]
        for before_s, time_s in pairwise(times):
            if self._worth_seeking(before_s, time_s):
                parted.append([])
            elif len(parted[-1]) == most:
                return [times]
            parted[-1].append(time_s)
        return parted

    def _another(self, threads: int) -> Opener:
        """Opens the same video once more, for another thread."""
        other = copy.copy(self)
        other._container = other._painters = None
        other._frames = iter(())
        other._current = other._ahead = other._shown = other._picture = None
        other._lost, other._threads, other._cores, other._relays = 0, threads, 1, []
        other._forget = None
        other._demuxer = Demuxer(
            self.source, self._deadline_s, None, give_up=other.close, path=self._demuxer.path
        )

        def opened(over: threading.Event) -> PyAVVideo:
            other._over = over
            try:
                other._open()
            except BaseException:
                other.close()
                raise
            return other

        return opened

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
        self._frames = self._decoder.frames(chain([first], packets), self._clock, sought=True)
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
        counted = not decoder.sure or (full_s > 0 and not self.timing.continuous)
        decoder.full_s = -np.inf if counted else full_s
        try:
            return next(self._frames, None)
        finally:
            self._seekable = self._seekable and decoder.sure and decoder.facts.seekable
            self._lost, decoder.lost = self._lost + decoder.lost, 0

    def _take_lost(self) -> int:
        self._demuxer.check_unchanged()
        lost, self._lost = self._lost, 0
        return lost

    # -- frames

    def _shown_at(self, time_s: float) -> tuple[float, Callable[[], NDArray[np.uint8]]]:
        frame, at_s = self._frame_at(time_s)
        if self._picture is None or frame is not self._shown:
            self._shown, self._picture = frame, self._drawn(frame)
        return at_s, self._picture

    def _drawn(self, frame: VideoFrame) -> Callable[[], NDArray[np.uint8]]:
        """What gives a frame as RGB. A large one is converted while others are decoded."""
        if self._painters is None:
            return partial(self._rgb, frame)
        return self._painters.submit(self._rgb, frame).result

    def _rgb(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """uint8 (H, W, 3), upright, all of the size of the first frame."""
        with self._converting():
            return self._painter.paint(frame)

    def _small(self, frame: VideoFrame) -> NDArray[np.int16]:
        """(32, 32) in grey, by which `differences` compares."""
        with self._converting():
            return to_pixels(frame, _SMALL, _SMALL, "gray", "AREA").astype(np.int16)

    @contextmanager
    def _converting(self) -> Iterator[None]:
        try:
            yield
        except MemoryError:
            raise
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(f"{self.source}: a frame cannot be converted ({error})") from None
