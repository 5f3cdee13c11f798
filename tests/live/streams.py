"""Streams of a small random model: what is asked of them, and frames for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import vzvideo
from tests.video.clips import paint
from tests.waiting import SLACK_S
from vzvideo.live.stream import Stream
from vzvideo.qa.video_qa import VideoQA

EACH = 5  # tokens of a frame
QUESTION, OTHER = "What happens?", "Who is there?"
CLOSED_S = 3.0  # closing takes about one


def small_qa(checkpoint: Path) -> VideoQA:
    """Gives a frame `EACH` tokens."""
    return vzvideo.load(str(checkpoint), cache=False, tokens_per_frame=EACH, max_new_tokens=6)


def frame(number: int, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """A picture unlike that of any other number."""
    return np.repeat(paint(number, width, height)[:, :, None], 3, axis=2)


def push(stream: Stream, numbers: range | list[int], *, first_s: float = 0.0) -> None:
    """One frame a second, all of them remembered."""
    for at, number in enumerate(numbers):
        stream.push(frame(number % 256), first_s + at)
    assert stream.wait(SLACK_S)


def later(call: Callable[..., object], *arguments: Any, **named: Any) -> None:
    """When whoever calls this has begun to wait."""
    threading.Timer(0.3, call, arguments, named).start()
