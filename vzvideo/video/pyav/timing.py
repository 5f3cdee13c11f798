"""How a stream counts time, and what its packets say where its headers lie. Decodes nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from itertools import islice, pairwise
from typing import Any, Self

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vzvideo.video.base import SAME_S, positive
from vzvideo.video.clock import GAP_S, Clock
from vzvideo.video.pyav.demuxer import Demuxer

_QUICK_BYTES = 2**24  # a file this small is read through for its exact duration and rate
_TAIL_S = 5.0  # of a larger one, only this much before the end its header claims
_PROBES = 32  # places of a large broadcast at which its clock is looked at
# Formats whose headers say how long they are. Of others FFmpeg finds it out, from their ends.
_PROMISING = {"mp4", "matroska", "webm", "avi", "flv", "asf", "hls"}
_LOOKED_AT = 500  # packets, in search of one with a timestamp
_LAST_TICK = 2**62  # later than any timestamp
# Formats whose muxers see to it that timestamps ascend; others may be two files, joined by `cat`.
_ORDERED = {"mp4", "matroska", "webm", "avi", "gif"}


class Stamps(Enum):
    """Which of a packet's timestamps says when its frame is shown.

    PTS: the one that is meant to. DTS: the time of decoding of the packet with which the frame came
    out, in AVI, which knows no other. SORTED: whichever stands in decoding order, dealt out to the
    frames in the order in which they are shown.
    """

    PTS = "pts"
    DTS = "dts"
    SORTED = "sorted"


@dataclass(frozen=True)
class StreamFacts:
    """What the headers say of a stream's time.

    format: FFmpeg's names for the container, commas between. codec: FFmpeg's name. tick_s: what a
    timestamp counts in. step_s: seconds a frame, as far as a header knows. stamps: which of them
    count. indexed: all frames are listed, with which of them are keyframes.
    """

    format: str
    codec: str
    tick_s: float
    step_s: float
    stamps: Stamps
    indexed: bool

    @classmethod
    def of(cls, container: InputContainer, stream: VideoStream) -> Self:
        name, codec = container.format.name, stream.codec_context.name
        rate = positive(stream.average_rate) or positive(stream.guessed_rate) or 25.0
        stamps = Stamps.PTS
        if name == "avi":
            # What FFmpeg makes up for AVI's times of showing goes back and forth; and H.264 may
            # keep frames back for longer from some packet on.
            stamps = Stamps.SORTED if codec in ("h264", "hevc") else Stamps.DTS
        return cls(
            format=name,
            codec=codec,
            tick_s=float(stream.time_base or 0),
            step_s=1 / rate,
            stamps=stamps,
            indexed=0 < stream.frames <= len(stream.index_entries),
        )

    @property
    def seekable(self) -> bool:
        """Whether times behind a seek can be those of a pass from the start."""
        if self.stamps is Stamps.SORTED:
            return self.codec == "h264"  # where an IDR picture parts what is shown before and after
        # An MPEG program stream times some packets only, and behind a seek the rest is made up.
        return self.format != "mpeg"

    @property
    def ordered(self) -> bool:
        """Whether timestamps ascend, as the format demands."""
        return bool(_ORDERED & set(self.format.split(",")))

    def ticks(self, stamp_s: float) -> int:
        return int(np.clip(stamp_s / self.tick_s, -_LAST_TICK, _LAST_TICK))


@dataclass(frozen=True)
class Scan:
    """What a pass over packets found.

    times_s (N,): when they are shown, ascending, each time once; end_s: when the last one ends;
    keyframes_s: when keyframes are shown, ascending; jumps: how often timestamps start again.
    """

    times_s: NDArray[np.float64]
    end_s: float
    keyframes_s: NDArray[np.float64]
    jumps: int


class Timing:
    """When the packets of a video are shown, and how long and how evenly it runs.

    Times are seconds from the first frame, whose own timestamp is start_s.
    """

    def __init__(self, demuxer: Demuxer, facts: StreamFacts, start_s: float) -> None:
        self._demuxer, self._facts, self._start_s = demuxer, facts, start_s

    def packets(
        self, after_s: float | None = None, clock: Clock | None = None
    ) -> Iterator[tuple[Any, float]]:
        """Packets (from near `after_s` on) and when each is shown; clock: one to go by."""
        facts = self._facts
        clock = clock or self._clock()
        with self._demuxer.opened() as (container, stream):
            if after_s is not None:
                ticks = facts.ticks(after_s + self._start_s)
                if not self._demuxer.seek(container, stream, ticks):
                    return
            packets = (
                packet
                for packet in self._demuxer.packets(container, stream)
                if packet is not None and packet.size and not packet.is_discard
            )
            if facts.stamps is Stamps.SORTED:
                yield from clock.follow(packets, stamp_s=self._stamp_s)
            else:
                yield from self._by_pts(packets, clock)

    def _by_pts(self, packets: Iterator[Any], clock: Clock) -> Iterator[tuple[Any, float]]:
        """Times by the order of decoding, in which timestamps ascend; from there to showing."""
        tick_s = self._facts.tick_s
        undecided: deque[Any] = deque()  # Matroska's first: it's not known when they are decoded
        first_delay_s: float | None = None  # of those without timestamps, too

        def decided() -> Iterator[Any]:
            for packet in packets:
                if packet.dts is None and packet.pts is not None:
                    undecided.append(packet)
                else:
                    yield packet

        for packet, decoded_s in clock.follow(decided(), stamp_s=self._stamp_s):
            while undecided:
                yield undecided[0], undecided.popleft().pts * tick_s + (clock.offset_s or 0.0)
            if packet.pts is None:
                yield packet, decoded_s + (first_delay_s or 0.0)
            else:
                delay_s = (packet.pts - packet.dts) * tick_s
                first_delay_s = delay_s if first_delay_s is None else first_delay_s
                yield packet, decoded_s + delay_s
        while undecided:
            yield undecided[0], undecided.popleft().pts * tick_s + (clock.offset_s or 0.0)

    def _clock(self) -> Clock:
        """One by which the first frame is shown at 0."""
        return Clock(step_s=self._facts.step_s, offset_s=-self._start_s)

    def _stamp_s(self, packet: Any) -> float | None:
        """The timestamp that ascends from packet to packet."""
        sorts = self._facts.stamps is Stamps.SORTED and self._facts.format != "avi"
        stamp = packet.pts if sorts else packet.dts
        return None if stamp is None else stamp * self._facts.tick_s

    @cached_property
    def scan(self) -> Scan:
        """Of all packets."""
        return self._scan()

    def _scan(self, after_s: float | None = None) -> Scan:
        times_s, keyframes_s = [], []
        last_s = lasts_s = 0.0
        clock = self._clock()
        for packet, at_s in self.packets(after_s, clock):
            if at_s < -SAME_S:  # of a picture that nobody can decode: what it builds on is missing
                continue
            times_s.append(at_s)
            if packet.is_keyframe:
                keyframes_s.append(at_s)
            if at_s >= last_s:
                # Where frames are reordered, a packet's duration is that of decoding.
                ordered = packet.pts == packet.dts
                last_s, lasts_s = at_s, packet.duration * self._facts.tick_s if ordered else 0.0
        times = np.unique(times_s)
        usual_s = float(np.median(np.diff(times))) if len(times) > 1 else self._facts.step_s
        keyframes = np.unique(keyframes_s).clip(min=0.0)
        return Scan(times, last_s + (lasts_s or usual_s), keyframes, clock.jumps)

    @cached_property
    def continuous(self) -> bool:
        """Whether timestamps ascend through the whole file, as far as can be told cheaply."""
        version = self._demuxer.version
        if self._facts.ordered or version is None:
            return True
        if self._demuxer.size <= _QUICK_BYTES:
            return not self.scan.jumps
        return self._ascends_at_probes(self._demuxer.size)

    def _ascends_at_probes(self, size: int) -> bool:
        """Whether a broadcast's clock runs on from each of some places to the next."""
        if self._facts.format not in ("mpegts", "mpeg"):
            return True
        stamps: list[float] = []
        with self._demuxer.opened() as (container, stream):
            for probe in range(1, _PROBES):
                place = size * probe // _PROBES
                if not self._demuxer.seek(container, stream, place, by_bytes=True):
                    continue
                for packet in islice(self._demuxer.packets(container, stream), _LOOKED_AT):
                    if packet is not None and packet.dts is not None:
                        stamps.append(packet.dts * self._facts.tick_s)
                        break
        return all(0 <= later - sooner < GAP_S for sooner, later in pairwise(stamps))

    def promised_s(
        self, container: InputContainer, stream: VideoStream, duration_s: float
    ) -> float | None:
        """How long the video is by its header; None where none says it.

        duration_s: what could be read.
        """
        formats = set(self._facts.format.split(","))
        if not formats & _PROMISING or ("mp4" in formats and not stream.frames):
            return None
        if promised_s := positive((stream.duration or 0) * self._facts.tick_s):
            return promised_s
        if promised_s := _tagged_s(stream.metadata):
            return promised_s
        promised_s = positive((container.duration or 0) / av.time_base)
        if promised_s is None or promised_s <= duration_s + _TAIL_S or len(container.streams) == 1:
            return promised_s
        # The longest of all streams is meant, which may be another one.
        return promised_s if self._all_end_before(promised_s - _TAIL_S, duration_s) else None

    def _all_end_before(self, end_s: float, from_s: float) -> bool:
        """Whether no stream has a packet at `end_s` or later, looked for from `from_s` on."""
        with self._demuxer.opened(all_streams=True) as (container, stream):
            ticks = self._facts.ticks(from_s + self._start_s)
            if not self._demuxer.seek(container, stream, ticks):
                return True
            for packet in self._demuxer.packets(container):
                if packet is None or packet.pts is None:
                    continue
                if float(packet.pts * packet.time_base) - self._start_s >= end_s:
                    return False
        return True

    def measure(self, container: InputContainer, stream: VideoStream) -> tuple[float, float, bool]:
        """Duration, average frames a second, and whether they are unevenly spaced.

        Headers lie, so a file's packets are asked: the last ones where the file is large, or an
        index knows of all and finds them evenly spaced, else every one.
        """
        facts, local = self._facts, self._demuxer.version is not None
        rate = positive(stream.average_rate) or positive(stream.guessed_rate)
        base_rate = positive(stream.base_rate)
        duration_s = positive((stream.duration or 0) * facts.tick_s)
        duration_s = duration_s or positive((container.duration or 0) / av.time_base)
        if "mp4" in facts.format and not stream.frames:
            duration_s = None  # in fragments: no header knows how many of them follow
        small = local and self._demuxer.size <= _QUICK_BYTES
        indexed = facts.indexed and not (small and facts.stamps is not Stamps.PTS)
        if duration_s and rate and (indexed or not small) and self.continuous:
            if indexed:
                ticks = [entry.timestamp for entry in stream.index_entries]
                variable = _uneven(np.sort(ticks))
            else:
                variable = base_rate is not None and abs(base_rate - rate) > 0.01 * rate
            if not local:
                return duration_s, rate, variable
            if not (small and variable):
                tail = self._scan(duration_s - _TAIL_S)
                if len(tail.times_s):
                    return tail.end_s, rate, variable
        scan = self.scan
        counted = max(1, len(scan.times_s)) / scan.end_s
        if rate is None or abs(rate - counted) > 0.01 * rate:  # else the header's is the exact one
            rate = counted
        return scan.end_s, rate, _uneven(scan.times_s / facts.tick_s)


def _tagged_s(metadata: dict[str, str]) -> float | None:
    """Seconds by Matroska's statistics of a track, "00:01:23.456000000"."""
    try:
        hours, minutes, seconds = metadata["DURATION"].split(":")
        return positive(3600 * int(hours) + 60 * int(minutes) + float(seconds))
    except (KeyError, ValueError):
        return None


def _uneven(ticks: NDArray[Any]) -> bool:
    steps = np.diff(ticks)
    # Rounding to the container's ticks alone moves a step by up to two of them.
    return len(steps) > 1 and bool(np.ptp(steps) > max(2.5, 0.1 * np.median(steps)))
