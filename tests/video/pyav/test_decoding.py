"""Frames of packets, in the order they are shown; nothing is hidden of what could not be used."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.tolerances import PTS_S
from tests.video import clips
from vzvideo.video.clock import Clock
from vzvideo.video.pyav.decoding import FrameDecoder
from vzvideo.video.pyav.timing import StreamFacts

FIRST_S = 2.5  # the first timestamp of the file, as it was written


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind = next(kind for kind in clips.KINDS if kind.name == "long GOP")
    path = tmp_path_factory.mktemp("clip") / f"clip{kind.suffix}"
    kind.make(kind, path)
    return path


@contextmanager
def opened(path: Path) -> Iterator[tuple[FrameDecoder, list[Any], threading.Event]]:
    """What decodes, the packets of a file, and what ends it."""
    with av.open(str(path)) as container:
        stream, over = container.streams.video[0], threading.Event()
        decoder = FrameDecoder(stream, StreamFacts.of(container, stream), over)
        yield decoder, list(container.demux(stream)), over


def decoded(decoder: FrameDecoder, packets: list[Any], *, sought: bool = False) -> list[float]:
    """Times of the frames that come."""
    clock = Clock(step_s=0.1, offset_s=-FIRST_S if sought else None)
    return [at_s for _, at_s in decoder.frames(iter(packets), clock, sought=sought)]


def times(path: Path) -> list[float]:
    with opened(path) as (decoder, packets, _):
        return decoded(decoder, packets)


def test_frames_come_in_order_and_all_of_them(path: Path) -> None:
    with av.open(str(path)) as container:
        shown = sorted(float(frame.time) for frame in container.decode(video=0))
    assert times(path) == pytest.approx([at_s - shown[0] for at_s in shown], abs=PTS_S)


def test_packets_that_could_not_be_read_are_counted(path: Path) -> None:
    with opened(path) as (decoder, packets, _):
        found = decoded(decoder, [*packets[:60], None, *packets[60:], None])
        assert decoder.lost == 2
    assert found == times(path)


def test_no_more_is_lost_than_there_can_be(path: Path) -> None:
    """Reading may fail hundreds of times within a hole of a few frames."""
    with opened(path) as (decoder, packets, _):
        found = decoded(decoder, [*packets[:50], *[None] * 500, *packets[100:]])
        missing = 120 - len(found)
        assert missing >= 50
        assert missing <= decoder.lost <= missing + 5


def test_a_wrong_timestamp_costs_nothing(path: Path) -> None:
    """Whether it leaps ahead or falls back."""
    whole = times(path)
    for leap in (400, -400):
        with opened(path) as (decoder, packets, _):
            wrong = next(packet for packet in packets[10:] if packet.pts is not None)
            wrong.pts += leap * wrong.duration
            found = decoded(decoder, packets)
            assert decoder.lost == 0
        assert found == pytest.approx(whole, abs=0.051)  # half a frame's length


def test_without_times_frames_are_counted_but_not_behind_a_seek(path: Path) -> None:
    for sought in (False, True):
        with opened(path) as (decoder, packets, _):
            for packet in packets:
                packet.pts = packet.dts = None
            found = decoded(decoder, packets, sought=sought)
        assert decoder.sure is not sought
        assert len(found) == (0 if sought else len(times(path)))
        assert np.all(np.diff(found) > 0)


def test_behind_a_seek_the_decoder_has_to_say_that_it_can_start(path: Path) -> None:
    """Whatever flags the packets have: frames begin at the next keyframe, and nothing is lost."""
    whole = times(path)
    with opened(path) as (decoder, packets, _):
        for packet in packets:
            packet.is_keyframe = True
        found = decoded(decoder, packets[7:], sought=True)
        assert decoder.lost == 0
    assert found == pytest.approx(whole[50:], abs=PTS_S)


def test_what_nobody_wants_is_not_decoded(path: Path) -> None:
    with opened(path) as (decoder, packets, over):
        frames = decoder.frames(iter(packets), Clock())
        next(frames)
        over.set()
        assert len(list(frames)) < len(packets) / 2


def test_far_ahead_only_frames_that_others_refer_to_are_decoded(path: Path) -> None:
    whole = times(path)
    with opened(path) as (decoder, packets, _):
        decoder.full_s = whole[-5]
        found = decoded(decoder, packets)
    assert set(whole[-5:]) <= set(found) < set(whole)
