"""One stage makes while another works: in order, bounded, and with nothing lost on the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from vzvideo.errors import VideoError
from vzvideo.overlap import Ahead, timed


def test_ahead_overlaps_and_keeps_order() -> None:
    """While an item is worked on, the next one is made: it is there when it is asked for."""
    made = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        made.set()
        yield 1

    ahead = Ahead(items())
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

    ahead = Ahead(items(), depth=2)
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

    ahead = Ahead(items())
    numbers = iter(ahead)
    assert next(numbers) == 0
    with pytest.raises(VideoError, match="gone"):
        next(numbers)
    ahead.close()


def test_timed_counts_the_waiting_and_nothing_else() -> None:
    clock = {"decode": 0.0}

    def items() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.05)
            yield number

    for _ in timed(items(), clock, "decode"):
        time.sleep(0.2)
    assert 0.15 <= clock["decode"] < 0.6
