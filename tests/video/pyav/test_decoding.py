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
from vzvideo.video.pyav.decoding import Decoding, time_of
from vzvideo.video.pyav.timing import Clock


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind = next(kind for kind in clips.KINDS if kind.name == "long GOP")
    path = tmp_path_factory.mktemp("clip") / f"clip{kind.suffix}"
    kind.make(kind, path)
    return path


@contextmanager
def opened(path: Path) -> Iterator[tuple[Decoding, list[Any], threading.Event]]:
    """What decodes, the packets of a file, and what ends it."""
    with av.open(str(path)) as container:
        stream, over = container.streams.video[0], threading.Event()
        decoding = Decoding(stream, Clock.of(container, stream), over)
        yield decoding, list(container.demux(stream)), over


def times(path: Path) -> list[float]:
    with opened(path) as (decoding, packets, _):
        return [time_of(frame) for frame in decoding.frames(iter(packets))]


def test_frames_come_in_order_and_all_of_them(path: Path) -> None:
    with av.open(str(path)) as container:
        shown = sorted(float(frame.time) for frame in container.decode(video=0))
    assert times(path) == pytest.approx(shown, abs=PTS_S)


def test_packets_that_could_not_be_read_are_counted(path: Path) -> None:
    with opened(path) as (decoding, packets, _):
        found = [time_of(frame) for frame in decoding.frames(iter([None, *packets, None]))]
        assert decoding.lost == 2
    assert found == times(path)


def test_a_time_that_breaks_the_order_is_passed_over(path: Path) -> None:
    """Whether it leaps ahead or falls back: the frames beside it stay."""
    whole = times(path)
    for leap in (400, -400):
        with opened(path) as (decoding, packets, _):
            wrong = next(packet for packet in packets[10:] if packet.pts is not None)
            at_s = float(wrong.pts * wrong.time_base)
            wrong.pts += leap * wrong.duration
            found = [time_of(frame) for frame in decoding.frames(iter(packets))]
            assert decoding.lost == 1
        assert found == pytest.approx([each for each in whole if abs(each - at_s) > PTS_S])


def test_without_times_frames_are_counted_but_not_behind_a_seek(path: Path) -> None:
    for sought in (False, True):
        with opened(path) as (decoding, packets, _):
            for packet in packets:
                packet.pts = packet.dts = None
            found = [time_of(frame) for frame in decoding.frames(iter(packets), sought=sought)]
        assert decoding.placed is not sought
        assert len(found) == (0 if sought else len(times(path)))
        assert np.all(np.diff(found) > 0)


def test_what_nobody_wants_is_not_decoded(path: Path) -> None:
    with opened(path) as (decoding, packets, over):
        frames = decoding.frames(iter(packets))
        next(frames)
        over.set()
        assert len(list(frames)) < len(packets) / 2


def test_far_ahead_only_frames_that_others_refer_to_are_decoded(path: Path) -> None:
    whole = times(path)
    with opened(path) as (decoding, packets, _):
        decoding.full_s = whole[-5]
        found = [time_of(frame) for frame in decoding.frames(iter(packets))]
    assert set(whole[-5:]) <= set(found) < set(whole)
