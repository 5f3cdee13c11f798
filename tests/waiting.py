"""Waiting for threads, with an end: what a test does where something might wait for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

SLACK_S = 60.0  # on a busy machine
RAY_S = 600.0  # for what starts a Ray of its own, on a machine with far more to do than cores


def until(what: Callable[[], object], within_s: float = SLACK_S) -> None:
    ends = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < ends
        time.sleep(0.005)


def outcome(call: Callable[[], object], within_s: float = SLACK_S) -> Any:
    """What a call returns or raises; in a thread, as it may wait for ever."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(within_s)
    return found[0] if found else "goes on"
