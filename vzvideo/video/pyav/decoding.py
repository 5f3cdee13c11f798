"""Packets to frames: in the order they are shown, each with its time; damage counted, passed over.

What comes out behind a seek is not trusted until the decoder itself says that it is a keyframe.
"""

from __future__ import annotations

import heapq
import re
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

import av.error
import numpy as np
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from vzvideo.errors import VideoError
from vzvideo.video.clock import GAP_S, JITTER_S, Clock
from vzvideo.video.pyav.timing import Stamps, StreamFacts

_DEEPEST = 16  # frames that any codec keeps back to put them in order
_NEAR_JOINT = 4  # packets
_IDR = 5  # H.264's number for a slice of such a picture
_BUILDS_ON_OTHERS = {PictureType.P, PictureType.B, PictureType.S, PictureType.SP}


class Shown(NamedTuple):
    """A frame, and its time in seconds by the clock it was decoded with."""

    frame: VideoFrame
    at_s: float


class FrameDecoder:
    """Makes frames of a stream's packets.

    full_s: before it, frames nobody refers to are left out. lost: damaged packets and frames, never
    more than frames there can be; whoever takes note of it sets it back. facts: of the stream, as
    its packets have shown them to be. sure: False once behind a seek nobody knows what time it is,
    or a clock has started again: then only a pass from the start tells.
    """

    def __init__(
        self,
        stream: VideoStream,
        facts: StreamFacts,
        over: threading.Event,
        counted: set[int | None] | None = None,
    ) -> None:
        """over: set where nobody wants any more; counted: what has been counted as lost already."""
        self.counted: set[int | None] = set() if counted is None else counted
        self.full_s = -np.inf
        self.lost = 0
        self.facts = facts
        self.sure = True
        self._stream, self._over = stream, over
        self._damaged: set[int | None] = set()  # packets and frames since the last frame
        self._unread = self._unread_for = 0  # failed reads; frames that have come since
        self._untimed = False  # whether any packet lacked a timestamp, or was of another clock
        self._newest_dts: int | None = None
        self._waiting: list[int] = []  # timestamps not yet dealt out, a heap
        self._idr: set[int] = set()  # those of IDR pictures, which part what lies on either side

    def frames(
        self,
        packets: Iterator[Any],
        clock: Clock,
        *,
        sought: bool = False,
        keyframe_by_s: float = np.inf,
    ) -> Iterator[Shown]:
        """Frames in the order they are shown.

        packets: None for one that could not be read. sought: they come from behind a seek, not from
        the beginning; what comes before the first keyframe is left out then. None come where there
        has been no keyframe by the time keyframe_by_s.
        """
        self._waiting.clear()
        self._idr.clear()
        self._newest_dts = None
        self._unread = self._unread_for = 0
        self._damaged.clear()
        if not (sought or clock.live):
            packets = self._looked_at(packets)
        jumps, last_s = clock.jumps, 0.0
        stamped = self._stamped(packets, clock, sought, keyframe_by_s)
        try:
            for (frame, _), at_s in clock.follow(stamped, stamp_s=self._stamp_s):
                if clock.jumps > jumps:
                    self.sure = False
                    if sought:
                        return
                self._count_lost(at_s - last_s)
                last_s = at_s
                yield Shown(frame, at_s)
        except VideoError:  # of what reads
            self._count_lost(None)
            raise
        self._count_lost(None)

    def _count_lost(self, passed_s: float | None) -> None:
        """Takes down what was damaged on the way to a frame, `passed_s` behind the one before.

        Packets count once each. What could not be read counts as the frames that are missing, for
        reading may fail hundreds of times within a hole of a few frames; as one where none is.
        """
        news = self._damaged - self.counted
        self.counted |= news
        self._damaged.clear()
        counted = len(news)
        if self._unread:
            missing = 0 if passed_s is None else round(passed_s / self.facts.step_s) - 1
            self._unread_for += 1
            # The decoder may still be giving out frames from before the hole.
            if missing > 0 or passed_s is None or self._unread_for > _DEEPEST:
                counted += min(self._unread, max(1, missing))
                self._unread = self._unread_for = 0
        self.lost += counted

    def _looked_at(self, packets: Iterator[Any]) -> Iterator[Any]:
        """The same packets, once it is known in which order they are stamped.

        Where frames are reordered, timestamps of showing go back in the order of decoding. Where
        they do not, the decoder tells: if its frames go back, theirs are not times of showing.
        """
        context = self._stream.codec_context
        if self.facts.stamps is not Stamps.PTS or not context.reorder_depth:
            return packets
        first, newest = [], -np.inf
        for packet in packets:
            first.append(packet)
            if packet is None or packet.pts is None or packet.pts <= newest:
                return chain(first, packets)
            newest = packet.pts
            if len(first) == _DEEPEST:
                break
        frames = [frame for packet in first for frame in self._decoded_by(packet)]
        shown = [frame.pts for frame in frames if frame.pts is not None]
        if shown != sorted(shown):
            self.facts = replace(self.facts, stamps=Stamps.SORTED)
        context.flush_buffers()
        self._damaged.clear()  # they come once more
        return chain(first, packets)

    def _decoded_by(self, packet: Any) -> list[VideoFrame]:
        if packet.has_sidedata("encryption_info"):  # a decoder may well make noise of it
            self._damaged.add(_key(packet))
            return []
        try:
            frames: list[VideoFrame] = packet.decode()
        except av.error.EOFError:
            return []
        except MemoryError:  # which is an FFmpegError, too, and no damage of the video's
            raise
        except (av.error.FFmpegError, ValueError):
            self._damaged.add(_key(packet))
            return []
        return frames

    def _stamp_s(self, stamped: tuple[VideoFrame, int | None]) -> float | None:
        return None if stamped[1] is None else stamped[1] * self.facts.tick_s

    def _stamped(
        self, packets: Iterator[Any], clock: Clock, sought: bool, keyframe_by_s: float
    ) -> Iterator[tuple[VideoFrame, int | None]]:
        """Frames as they are decoded, each with the timestamp that says when it is shown."""
        awaited = sought  # a keyframe is
        for frame in self._decoded(packets, clock):
            own = frame.pts
            if awaited:
                if not self._can_start_at(frame):
                    if own is not None and self._at_s(own, clock) > keyframe_by_s:
                        break
                    continue
                awaited = False
                self._damaged.clear()  # before it nothing was meant to be decoded
                self._unread = 0
            match self.facts.stamps:
                case Stamps.SORTED:
                    stamp = self._dealt(own)
                case Stamps.DTS:
                    stamp = frame.dts
                case _:
                    stamp = own
            if sought and stamp is None and clock.last_s is None:
                self.sure = False
                return
            if frame.is_corrupt:
                self._damaged.add(_key(frame))
            else:
                yield frame, stamp
        if awaited:
            self._damaged.clear()
            self._unread = 0

    def _at_s(self, stamp: int, clock: Clock) -> float:
        """When what is stamped so is shown, by what the clock says now."""
        return stamp * self.facts.tick_s + (clock.offset_s or 0.0)

    def _can_start_at(self, frame: VideoFrame) -> bool:
        """Whether decoding can, as the decoder says; and it is known when the frame is shown."""
        if not frame.key_frame or frame.pict_type in _BUILDS_ON_OTHERS:
            return False
        return self.facts.stamps is not Stamps.SORTED or frame.pts in self._idr

    def _dealt(self, own: int | None) -> int | None:
        """The next timestamp in order; own: that of the packet which the frame was made of."""
        if own is not None:
            # Of packets that never became a frame.
            before = sum(stamp < own for stamp in self._waiting)
            stale = before - _DEEPEST
            if own in self._idr:
                stale = before
                self._idr = {stamp for stamp in self._idr if stamp > own}
            for _ in range(stale):
                heapq.heappop(self._waiting)
        return heapq.heappop(self._waiting) if self._waiting else None

    def _is_joint(self, packet: Any) -> bool:
        """Whether a packet is the first by another clock."""
        before, self._newest_dts = self._newest_dts, packet.dts
        if before is None or packet.dts is None:
            return False
        return not -JITTER_S <= (packet.dts - before) * self.facts.tick_s <= GAP_S

    def _decoded(self, packets: Iterator[Any], clock: Clock) -> Iterator[VideoFrame]:
        context = self._stream.codec_context
        sorts = self.facts.stamps is Stamps.SORTED
        began = self.facts.ordered  # others are cut anywhere, and need not begin with a keyframe
        cut_off = deque[tuple[int, int | None]]()
        fed = 0
        for packet in packets:
            if self._over.is_set():
                return
            if packet is None:
                self._unread += 1
                continue
            began = began or packet.is_keyframe
            fed += 1
            joint = self._is_joint(packet)
            self._untimed = self._untimed or packet.pts is None or joint
            # Where recordings were joined, one of the last packets looks cut off.
            if joint:
                cut_off.clear()
            if packet.is_corrupt:
                cut_off.append((fed, _key(packet)))
            if cut_off and cut_off[0][0] + _NEAR_JOINT <= fed:
                self._damaged.add(cut_off.popleft()[1])
            if sorts and packet.size:
                if self.facts.format == "avi":
                    packet.pts = packet.dts
                if packet.pts is not None:
                    heapq.heappush(self._waiting, packet.pts)
                    if self.facts.codec == "h264" and has_idr(packet, context.extradata):
                        self._idr.add(packet.pts)
            # Where timestamps are counted or dealt out, each frame has to come.
            far = not (sorts or self._untimed) and clock.offset_s is not None
            far = far and self._at_s(packet.pts, clock) < self.full_s
            context.skip_frame = "NONREF" if far else "DEFAULT"
            yield from self._decoded_by(packet)
            if not began:  # nothing can be made of what comes before the first keyframe
                self._damaged.clear()
        self._damaged.update(key for _, key in cut_off)


def _key(packet: Any) -> int | None:
    """What a packet and the frame that is made of it have in common."""
    key: int | None = packet.dts if packet.pts is None else packet.pts
    return key


def has_idr(packet: Any, extradata: bytes | None) -> bool:
    """Whether a packet of H.264 is an IDR picture, before which nothing is shown that lies behind.

    extradata: the codec's; where it is of MP4's kind, parts of packets begin with their lengths.
    """
    data = bytes(packet)
    starts: Iterator[int]
    if not extradata or extradata[0] != 1:
        starts = (found.end() for found in re.finditer(b"\x00\x00\x01", data))
    else:
        starts = _nal_starts(data, (extradata[4] & 3) + 1)
    return any(at < len(data) and data[at] & 31 == _IDR for at in starts)


def _nal_starts(data: bytes, length_bytes: int) -> Iterator[int]:
    at = 0
    while at + length_bytes < len(data):
        yield at + length_bytes
        at += length_bytes + int.from_bytes(data[at : at + length_bytes], "big")
