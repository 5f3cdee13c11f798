"""What is generated is said while the work goes on, and the work ends with whoever listens."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import Any

import pytest
import torch
from transformers import StoppingCriteriaList

from tests.waiting import SLACK_S, until
from vzvideo.models.generation import Generation, Say, stream_text

IDS: Any = torch.zeros(1, 3, dtype=torch.long)
SCORES: Any = torch.zeros(1, 5)


def test_pieces_come_while_the_work_goes_on() -> None:
    heard = threading.Event()

    def work(say: Say, _: StoppingCriteriaList) -> None:
        say("one")
        assert heard.wait(SLACK_S)
        say("two")

    pieces = stream_text(work)
    assert next(pieces) == "one"
    heard.set()
    assert list(pieces) == ["two"]


def test_whoever_leaves_early_ends_the_work() -> None:
    ended = threading.Event()

    def work(say: Say, stop: StoppingCriteriaList) -> None:
        assert not stop(IDS, SCORES).any()
        say("one")
        until(lambda: stop(IDS, SCORES).all())
        ended.set()

    pieces = stream_text(work)
    with closing(pieces):
        assert next(pieces) == "one"
        assert not ended.is_set()
    assert ended.is_set()


def test_an_error_is_raised_where_it_is_listened_to() -> None:
    def work(say: Say, _: StoppingCriteriaList) -> None:
        say("one")
        raise KeyError("gone")

    pieces = stream_text(work)
    assert next(pieces) == "one"
    with pytest.raises(KeyError, match="gone"):
        next(pieces)
    assert next(pieces, None) is None


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (Generation(8, 0.0, 1), {"do_sample": False, "num_beams": 1, "max_new_tokens": 8}),
        (Generation(8, 0.5, 1), {"do_sample": True, "temperature": 0.5}),
        (Generation(99, 0.0, 3), {"num_beams": 3, "early_stopping": False}),
        (Generation(99, 0.0, 1), {"max_new_tokens": 20}),  # the room there is
    ],
)
def test_what_generate_is_told(how: Generation, expected: dict[str, Any]) -> None:
    assert expected.items() <= how.arguments(20).items()
