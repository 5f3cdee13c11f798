"""Packets to frames: in the order they are shown, damage counted and passed over."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import av.error
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vzvideo.video.base import finite
from vzvideo.video.pyav.timing import Clock

_LEAP = 1.5  # times as far as the frames before, and a timestamp may be a wrong one


def time_of(frame: VideoFrame) -> float:
    """The frame's own timestamp in seconds, as it stands in the file."""
    return float(frame.time)


class Decoding:
    """What makes frames of a stream's packets.

    full_s: before it, frames nobody refers to are left out. lost: packets and frames passed over;
    whoever takes note of it sets it back. placed: False once frames have ended because nobody knows
    where they belong.
    """

    def __init__(self, stream: VideoStream, clock: Clock, over: threading.Event) -> None:
        """over: set where nobody wants any more."""
        self.full_s = -np.inf
        self.lost = 0
        self.placed = True
        self._stream, self._clock, self._over = stream, clock, over

    def frames(self, packets: Iterator[Any], *, sought: bool = False) -> Iterator[VideoFrame]:
        """Frames in the order they are shown, without those whose timestamp breaks it.

        One that leaps ahead is held back until the next one shows that its timestamp was right.

        packets: None for one that could not be read. sought: they come from behind a seek, not
        from the beginning.
        """
        last_s, usual_s = -np.inf, 0.0
        held: VideoFrame | None = None
        for frame in self._stamped(packets, sought):
            if held is not None:
                if time_of(held) < time_of(frame):
                    usual_s = finite(time_of(held) - last_s) or 0.0
                    last_s = time_of(held)
                    yield held
                else:
                    self.lost += 1
                held = None
            if time_of(frame) <= last_s:
                self.lost += 1
            elif time_of(frame) > last_s + _LEAP * usual_s:
                held = frame
            else:
                usual_s, last_s = time_of(frame) - last_s, time_of(frame)
                yield frame
        if held is not None:
            yield held

    def _stamped(self, packets: Iterator[Any], sought: bool) -> Iterator[VideoFrame]:
        """Frames as they are decoded. Where the file has no times for them, they are counted."""
        clock = self._clock
        last_s = None if sought else -clock.step_s
        for frame in self._decoded(packets):
            stamp = frame.dts if clock.dts_only else frame.pts
            if stamp is None:
                if last_s is None:
                    self.placed = False
                    return
                stamp = round((last_s + clock.step_s) / clock.tick_s)
            frame.pts = stamp
            frame.time_base = self._stream.time_base
            last_s = time_of(frame)
            yield frame

    def _decoded(self, packets: Iterator[Any]) -> Iterator[VideoFrame]:
        context = self._stream.codec_context
        for packet in packets:
            if self._over.is_set():
                return
            if packet is None:
                self.lost += 1
                continue
            far = packet.pts is not None and packet.pts * self._clock.tick_s < self.full_s
            context.skip_frame = "NONREF" if far else "DEFAULT"
            self.lost += packet.is_corrupt
            try:
                frames = packet.decode()
            except av.error.EOFError:
                return
            except MemoryError:  # which is an FFmpegError, too, and no damage of the video's
                raise
            except (av.error.FFmpegError, ValueError):
                self.lost += 1
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self.lost += 1
                else:
                    yield frame
