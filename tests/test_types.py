"""The values check themselves, and say what they are."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
import torch

from vzvideo.errors import BudgetError, VzVideoError
from vzvideo.types import Answer, FrameBatch, Role, VisualTokens


def frames(**changes: Any) -> FrameBatch:
    fields: dict[str, Any] = {
        "pixels": np.zeros((2, 4, 6, 3), np.uint8),
        "pts_s": np.array([0.0, 0.5]),
        "source": "clip.mp4",
    }
    return FrameBatch(**fields | changes)


def tokens(**changes: Any) -> VisualTokens:
    """Two frames of a 2 x 2 grid, three tokens and two."""
    fields: dict[str, Any] = {
        "features": torch.zeros(5, 8),
        "frame": np.array([0, 0, 0, 1, 1], np.int32),
        "role": np.array([0, 1, 2, 0, 1], np.int8),
        "patch": np.array([-1, 3, 0, -1, 2], np.int32),
        "pts_s": np.array([0.0, 0.5]),
        "grid": (2, 2),
        "source": "clip.mp4",
    }
    return VisualTokens(**fields | changes)


@pytest.mark.parametrize(
    "wrong",
    [
        {"pixels": np.zeros((2, 4, 6, 3), np.float32)},
        {"pixels": np.zeros((4, 6, 3), np.uint8)},
        {"pixels": np.zeros((2, 3, 4, 6), np.uint8)},
        {"pts_s": np.array([0.0, 0.5], np.float32)},
        {"pts_s": np.array([0.0])},
        {"pts_s": np.zeros((2, 1))},
    ],
)
def test_frames_refuse_a_wrong_field(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        frames(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"features": torch.zeros(4, 8)},
        {"features": torch.zeros(5, 8, 1)},
        {"frame": np.array([0, 0, 0, 1, 1], np.int64)},
        {"frame": np.array([0, 1, 0, 1, 1], np.int32)},
        {"frame": np.array([0, 0, 0, 1, 2], np.int32)},
        {"frame": np.array([-1, 0, 0, 1, 1], np.int32)},
        {"role": np.array([0, 1, 2, 0, 1], np.int32)},
        {"role": np.array([0, 1, 2, 0], np.int8)},
        {"role": np.array([0, 1, 2, 0, 3], np.int8)},
        {"patch": np.array([-1, 3, 0, -1, 2], np.int64)},
        {"patch": np.array([-1, 4, 0, -1, 2], np.int32)},
        {"patch": np.array([-2, 3, 0, -1, 2], np.int32)},
        {"patch": np.zeros((5, 1), np.int32)},
        {"until": np.array([1, 1, 1, 2, 2], np.int64)},
        {"until": np.array([1, 1, 0, 2, 2], np.int32)},
        {"until": np.array([1, 1, 3, 2, 2], np.int32)},
        {"pts_s": np.array([0.0, 0.5], np.float32)},
        {"pts_s": np.zeros((2, 1))},
    ],
)
def test_tokens_refuse_a_wrong_field(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        tokens(**wrong)


def test_a_token_covers_its_own_frame_unless_it_lasts() -> None:
    assert tokens().covers().tolist() == [[True] * 3 + [False] * 2, [False] * 3 + [True] * 2]
    lasting = tokens(until=np.array([1, 2, 1, 2, 2], np.int32))
    assert lasting.covers()[1].tolist() == [False, True, False, True, True]


def test_tokens_refuse_to_be_empty() -> None:
    nothing = {name: getattr(tokens(), name)[:0] for name in ("features", "frame", "role", "patch")}
    with pytest.raises(ValueError, match="at least one"):
        tokens(**nothing)
    with pytest.raises(ValueError, match="at least one"):
        tokens(**nothing, pts_s=np.zeros(0))


def test_values_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        frames().source = "another"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        tokens().grid = (1, 1)  # type: ignore[misc]


def test_lengths() -> None:
    assert (len(frames()), len(tokens()), tokens().frames) == (2, 5, 2)


def test_tokens_before_counts_the_cls_where_there_is_one() -> None:
    assert tokens().tokens_before == 2 * (4 + 1)
    role = np.full(5, Role.DOMINANT, np.int8)
    assert tokens(role=role, patch=np.zeros(5, np.int32)).tokens_before == 2 * 4
    # A frame that kept no token was looked at all the same.
    assert tokens(pts_s=np.array([0.0, 0.5, 1.0])).tokens_before == 3 * (4 + 1)


def test_repr_shows_shapes_and_times_and_no_arrays() -> None:
    assert repr(frames()) == "FrameBatch((2, 4, 6, 3), 0.000..0.500 s, source='clip.mp4')"
    assert repr(tokens()) == (
        "VisualTokens((5, 8) from 2 frames, 10 tokens before, 0.000..0.500 s, source='clip.mp4')"
    )
    empty = FrameBatch(np.zeros((0, 4, 6, 3), np.uint8), np.zeros(0))
    assert repr(empty) == "FrameBatch((0, 4, 6, 3), no frames, source='')"


def test_errors_keep_kind_line_and_code_across_processes() -> None:
    """`corpus` and decoders in processes of their own send errors home by pickle."""
    for error in (BudgetError("too much"), VzVideoError("gone", code="not_found")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.code) == (type(error), str(error), error.code)


def test_an_answer_prints_as_its_text() -> None:
    answer = Answer("A dog.", "What is it?", "clip.mp4", "mini", [0.0], 257, 17, {"decode": 0.1})
    assert f"{answer}" == "A dog."
    assert "question='What is it?'" in repr(answer)
