"""One stage makes while another works: in order, bounded, and with nothing lost on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from vzvideo.errors import VideoError
from vzvideo.qa.prefetch import Prefetch, StageTimer


def test_ahead_overlaps_and_keeps_order() -> None:
    """While an item is worked on, the next one is made: it is there when it is asked for."""
    made = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        made.set()
        yield 1

    ahead = Prefetch(items())
    numbers = iter(ahead)
    assert next(numbers) == 0
    assert made.wait(5), "the second item was not begun while the first was in hand"
    assert list(numbers) == [1]
    ahead.close()


def test_ahead_is_bounded_and_stops_when_closed() -> None:
    begun = []

    def items() -> Iterator[int]:
        for number in range(1000):
            begun.append(number)
            yield number

    ahead = Prefetch(items(), depth=2)
    assert next(iter(ahead)) == 0
    deadline = time.monotonic() + 5
    while len(begun) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    ahead.close()
    assert len(begun) == 4  # one taken, two waiting, one at the door
    assert not ahead._thread.is_alive()


def test_ahead_passes_errors_on() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise VideoError("gone")

    ahead = Prefetch(items())
    numbers = iter(ahead)
    assert next(numbers) == 0
    with pytest.raises(VideoError, match="gone"):
        next(numbers)
    ahead.close()


def test_timed_counts_the_waiting_and_nothing_else() -> None:
    clock = StageTimer()

    def items() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.05)
            yield number

    for _ in clock.timed(items(), "decode"):
        time.sleep(0.2)
    assert 0.15 <= clock.seconds["decode"] < 0.6


def test_a_clock_says_when_each_stage_worked() -> None:
    clock = StageTimer()
    begun_s = time.perf_counter()
    ahead = Prefetch(clock.timed(iter(range(20)), "decode"))
    for _ in ahead:
        with clock.stage("encode"):
            time.sleep(0.001)
    ahead.close()
    assert {stage: sum(span.stage == stage for span in clock.spans) for stage in clock.seconds} == {
        "decode": 21,  # that there are no more has to be found out, too
        "encode": 20,
    }
    for stage, total_s in clock.seconds.items():
        spans = [span for span in clock.spans if span.stage == stage]
        assert total_s == pytest.approx(sum(span.ended_s - span.begun_s for span in spans))
        edges = [edge for _, *span in spans for edge in span]
        assert edges == sorted(edges)
        assert begun_s <= edges[0]
        assert edges[-1] <= time.perf_counter()


def test_what_fails_is_not_counted() -> None:
    clock = StageTimer()
    with pytest.raises(VideoError), clock.stage("decode"):
        raise VideoError("gone")
    assert clock.spans == []
