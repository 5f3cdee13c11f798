"""Plans never exceed the window, and a plan that cannot be made names ones that can."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vzvideo.errors import BudgetError
from vzvideo.visionzip import Budget, plan, split_tokens


@pytest.mark.parametrize(
    ("tokens", "split"),
    [
        (64, (54, 10)),  # the paper's own three
        (128, (108, 20)),
        (192, (162, 30)),
        (17, (14, 3)),
        (2, (2, 0)),
        (1, (1, 0)),
    ],
)
def test_split(tokens: int, split: tuple[int, int]) -> None:
    assert split_tokens(tokens) == split


@given(st.integers(1, 5000))
def test_a_split_loses_no_token_and_keeps_the_proportion(tokens: int) -> None:
    dominant, contextual = split_tokens(tokens)
    assert dominant + contextual == tokens
    assert dominant >= 1
    assert contextual >= 0
    assert abs(dominant - tokens * 54 / 64) <= 0.5


@pytest.mark.parametrize("tokens", [0, -3])
def test_no_tokens_cannot_be_split(tokens: int) -> None:
    with pytest.raises(BudgetError, match=f"{tokens} given, at least 1"):
        split_tokens(tokens)


windows = st.integers(1, 5000)
texts = st.integers(0, 300)
answers = st.integers(1, 300)
frame_counts = st.integers(1, 300)
frame_tokens = st.integers(1, 300)


@given(windows, texts, answers, frame_counts, frame_tokens)
def test_frames_that_fit_are_given_and_no_others(
    window: int, text: int, answer: int, frames: int, each: int
) -> None:
    fits = text + answer + frames * each <= window
    try:
        budget = plan(window, text=text, answer=answer, frames=frames, tokens_per_frame=each)
    except BudgetError:
        assert not fits
    else:
        assert fits
        assert budget == Budget(window, frames, each, text, answer)
        assert budget.video == frames * each
        assert budget.free == window - text - answer - frames * each >= 0


@given(windows, texts, answers, frame_tokens, st.none() | frame_counts)
def test_as_many_frames_as_fit(
    window: int, text: int, answer: int, each: int, most: int | None
) -> None:
    assume(text + answer + each <= window)
    budget = plan(
        window, text=text, answer=answer, frames=None, tokens_per_frame=each, most_frames=most
    )
    assert budget.frames >= 1
    assert budget.free >= 0
    assert budget.frames == most or budget.free < each
    assert most is None or budget.frames <= most


@given(windows, texts, answers, st.none() | frame_counts, frame_tokens)
def test_what_an_error_offers_does_fit(
    window: int, text: int, answer: int, frames: int | None, each: int
) -> None:
    assume((frames or 1) * each + text + answer > window >= each)
    with pytest.raises(BudgetError) as error:
        plan(window, text=text, answer=answer, frames=frames, tokens_per_frame=each)
    given, offered = str(error.value).split("; what would fit: ")
    assert "\n" not in str(error.value)
    for number in (frames or 1, each, text, answer, window):
        assert re.search(rf"\b{number}\b", given)
    for offer in offered.split(" or "):
        [count, tokens] = map(int, re.search(r"(\d+) frames? at (\d+) tokens", offer).groups())
        shorter = re.search(r"(\d+) tokens less of text and answer", offer)
        less = int(shorter[1]) if shorter else 0
        room = window - (text + answer - less)
        assert less <= text + answer
        assert count * tokens <= room
        # And one frame, or one token a frame, or one token of text more would not.
        if less:
            assert count * tokens == room
        elif tokens == each:
            assert (count + 1) * tokens > room
        else:
            assert count == (frames or 1)
            assert count * (tokens + 1) > room


@pytest.mark.parametrize(
    ("frames", "each", "most"), [(0, 17, None), (-2, 17, None), (8, 0, None), (None, 17, 0)]
)
def test_a_count_below_one_is_named(frames: int | None, each: int, most: int | None) -> None:
    with pytest.raises(BudgetError, match=r"(0|-2) given, at least 1"):
        plan(2048, text=10, answer=20, frames=frames, tokens_per_frame=each, most_frames=most)


def test_a_budget_reads_as_one_line() -> None:
    budget = plan(2048, text=10, answer=64, frames=8, tokens_per_frame=17)
    assert str(budget) == "window 2048 = 8 frames x 17 (136) + text 10 + answer 64 + free 1838"
