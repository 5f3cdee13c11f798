"""A source that waits for those that hold it back; with a stream, `test_every` has it."""

from __future__ import annotations

import gc
import threading

import pytest

from tests.waiting import SLACK_S, until
from vzvideo.live.holding import Holders


class Somebody:
    pass


@pytest.fixture
def changed() -> threading.Condition:
    return threading.Condition()


def waiting(holders: Holders, changed: threading.Condition, pts_s: float) -> threading.Thread:
    """A source with a frame of that time, in a thread of its own."""

    def take() -> None:
        with changed:
            holders.wait(pts_s, lambda: False)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    return thread


def test_a_frame_waits_until_all_that_hold_it_back_say_a_later_time(
    changed: threading.Condition,
) -> None:
    holders, one, other = Holders(changed), Somebody(), Somebody()
    waiting(holders, changed, 5.0).join(SLACK_S)  # nobody holds it
    holders.hold(one, 4.0)
    holders.hold(other, 9.0)
    thread = waiting(holders, changed, 5.0)
    until(lambda: holders.waiting)
    assert thread.is_alive()
    holders.hold(one, 5.0)
    thread.join(SLACK_S)
    assert (thread.is_alive(), holders.waiting) == (False, False)


@pytest.mark.parametrize("leave", ["releases", "is gone"])
def test_who_leaves_holds_nothing_back(changed: threading.Condition, leave: str) -> None:
    holders, who = Holders(changed), Somebody()
    holders.hold(who, 1.0)
    thread = waiting(holders, changed, 5.0)
    until(lambda: holders.waiting)
    if leave == "releases":
        holders.release(who)
    del who
    gc.collect()
    thread.join(SLACK_S)
    assert not thread.is_alive()
