"""How a file counts time, and what its packets say where its headers lie. Decodes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vzvideo.video.base import finite
from vzvideo.video.pyav.demuxer import Demuxer

_QUICK_BYTES = 2**24  # a file this small is read through for its exact duration and rate
_TAIL_S = 5.0  # of a larger one, only this much before the end its header claims
_LAST_TICK = 2**62  # later than any timestamp


@dataclass(frozen=True)
class Clock:
    """What the headers say of time.

    format: FFmpeg's names for the container, commas between. tick_s: what a timestamp counts in.
    step_s: seconds a frame, as far as a header knows. dts_only: times of decoding are kept, those
    of showing are not. indexed: all frames are listed, with which of them are keyframes.
    """

    format: str
    tick_s: float
    step_s: float
    dts_only: bool
    indexed: bool

    @classmethod
    def of(cls, container: InputContainer, stream: VideoStream) -> Self:
        name = container.format.name
        return cls(
            format=name,
            tick_s=float(stream.time_base or 0),
            step_s=1 / (finite(float(stream.guessed_rate or 0)) or 25.0),
            # What FFmpeg makes up for AVI's times of showing goes back and forth.
            dts_only=name == "avi",
            indexed=0 < stream.frames <= len(stream.index_entries),
        )

    def ticks(self, at_s: float) -> int:
        return int(np.clip(at_s / self.tick_s, -_LAST_TICK, _LAST_TICK))


class Timing:
    """When the packets of a video are shown, and how long and how evenly it runs.

    start_s: the first frame's own timestamp.
    """

    def __init__(self, demuxer: Demuxer, clock: Clock, start_s: float) -> None:
        self._demuxer, self._clock, self._start_s = demuxer, clock, start_s

    def packets(self, after_s: float | None = None) -> Iterator[tuple[Any, float]]:
        """Packets (from near `after_s` on) and when each is shown, by the file's own clock."""
        clock = self._clock
        with self._demuxer.opened() as (container, stream):
            if after_s is not None:
                ticks = clock.ticks(after_s + self._start_s)
                if not self._demuxer.seek(container, stream, ticks):
                    return
            count, shift_s = 0, 0.0
            for packet in self._demuxer.packets(container, stream):
                if packet is None or not packet.size or packet.is_discard:
                    continue
                if packet.pts is None:  # counted, as the decoder's frames then are
                    at_s = self._start_s + count * clock.step_s
                else:
                    at_s = packet.pts * clock.tick_s
                    if clock.dts_only and not count and after_s is None:
                        shift_s = self._start_s - at_s
                count += 1
                yield packet, at_s + shift_s

    def measure(self, container: InputContainer, stream: VideoStream) -> tuple[float, float, bool]:
        """Duration, average frames a second, and whether they are unevenly spaced.

        Headers lie, so a file's packets are asked: the last ones where the file is large, or an
        index knows of all and finds them evenly spaced, else every one.
        """
        clock, version = self._clock, self._demuxer.version
        rate = finite(float(stream.average_rate or stream.guessed_rate or 0))
        base_rate = finite(float(stream.base_rate or 0))
        duration_s = finite((stream.duration or 0) * clock.tick_s)
        duration_s = duration_s or finite((container.duration or 0) / av.time_base)
        if "mp4" in clock.format and not stream.frames:
            duration_s = None  # in fragments: no header knows how many of them follow
        small = version is not None and version[0] <= _QUICK_BYTES
        indexed = clock.indexed and not (small and clock.dts_only)
        if duration_s and rate and (indexed or not small):
            if indexed:
                ticks = [entry.timestamp for entry in stream.index_entries]
                variable = _uneven(np.sort(ticks))
            else:
                variable = base_rate is not None and abs(base_rate - rate) > 0.01 * rate
            if not version:
                return duration_s, rate, variable
            if not (small and variable):
                times, end_s = self._times(duration_s - _TAIL_S)
                if len(times):
                    return end_s - self._start_s, rate, variable
        times, end_s = self._times()
        duration_s = end_s - self._start_s
        counted = max(1, len(times)) / duration_s
        if rate is None or abs(rate - counted) > 0.01 * rate:  # else the header's is the exact one
            rate = counted
        return duration_s, rate, _uneven(times / clock.tick_s)

    def _times(self, after_s: float | None = None) -> tuple[NDArray[np.float64], float]:
        """Times of the packets (from near `after_s` on), ascending, and when the last one ends."""
        last_s, lasts_s, times_s = self._start_s, 0.0, []
        for packet, at_s in self.packets(after_s):
            times_s.append(at_s)
            if at_s >= last_s:
                # Where frames are reordered, a packet's duration is that of decoding.
                ordered = packet.pts == packet.dts
                last_s, lasts_s = at_s, packet.duration * self._clock.tick_s if ordered else 0.0
        times = np.unique(times_s)
        usual_s = float(np.median(np.diff(times))) if len(times) > 1 else self._clock.step_s
        return times, last_s + (lasts_s or usual_s)


def _uneven(ticks: NDArray[Any]) -> bool:
    steps = np.diff(ticks)
    # Rounding to the container's ticks alone moves a step by up to two of them.
    return len(steps) > 1 and bool(np.ptp(steps) > max(2.5, 0.1 * np.median(steps)))
