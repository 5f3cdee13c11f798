"""What a small random model has room for, and what it makes of settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from vzvideo.errors import BudgetError, SettingsError
from vzvideo.qa.video_qa import VideoQA
from vzvideo.types import Role


def test_dominant_and_contextual_can_be_chosen(qa: VideoQA, clip: Path) -> None:
    tokens = qa.encode(clip, frames=2, dominant=4, contextual=3)
    roles = [Role.CLS] + [Role.DOMINANT] * 3 + [Role.CONTEXTUAL] * 3
    assert tokens.role.tolist() == roles * 2
    assert (
        qa.encode(clip, frames=2, compress=False).role.tolist()
        == ([Role.CLS] + [Role.DOMINANT] * 16) * 2
    )


def test_what_cannot_fit_says_what_would(qa: VideoQA, clip: Path) -> None:
    with pytest.raises(BudgetError, match=r"what would fit: \d+ frames at 5 tokens each") as error:
        qa.ask(clip, "What happens?", frames=400)
    fits = int(str(error.value).split("would fit: ")[1].split()[0])
    assert f"{fits} frames x 5" in str(qa.plan("What happens?", frames=fits))
    with pytest.raises(BudgetError):
        qa.plan("What happens?", frames=fits + 1)


def test_a_rate_that_makes_too_many_frames_names_one_that_fits(qa: VideoQA, clip: Path) -> None:
    with pytest.raises(SettingsError, match="choose at most") as error:
        qa.encode(clip, sampling="fps", fps=100.0)
    rate = float(str(error.value).split("at most ")[1].split()[0])
    assert qa.encode(clip, sampling="fps", fps=rate).frames > 1


def test_the_mark_names_a_fit_only_where_it_is_not_the_models_own(qa: VideoQA) -> None:
    usual = qa.recipe()
    assert "fit" not in usual.about  # nor was it before there was such a setting
    assert qa.recipe(fit="crop").about == usual.about
    assert qa.recipe(fit="pad").about == usual.about | {"fit": "pad"}
    assert qa.recipe(fit="squash").about == usual.about | {"fit": "squash"}
    assert usual.encoder is qa.encoder


def test_the_mark_names_temporal_only_where_it_is_on(qa: VideoQA) -> None:
    usual = qa.recipe()
    assert "temporal" not in usual.about
    on = qa.recipe(temporal="on")
    assert on.about == usual.about | {"temporal": True}
    assert on.frames == usual.frames
    # auto: where less than a quarter of a frame's 17 tokens is kept.
    assert qa.recipe(temporal="auto", tokens_per_frame=4).compression.temporal
    assert not qa.recipe(temporal="auto", tokens_per_frame=5).compression.temporal
    assert not qa.recipe(temporal="auto", compress=False).compression.temporal
    with pytest.raises(SettingsError, match="temporal"):
        qa.recipe(temporal="on", compress=False)


@pytest.mark.parametrize("frames", [0, -1, 10**9])
def test_absurd_frames_are_refused(qa: VideoQA, clip: Path, frames: int) -> None:
    with pytest.raises((SettingsError, BudgetError), match="frames"):
        qa.encode(clip, frames=frames)


def test_a_limit_holds_whatever_was_encoded_before(qa: VideoQA, clip: Path) -> None:
    assert qa.encode(clip, sampling="fps", fps=5.0).frames == 8
    with pytest.raises(SettingsError, match="8 frames, 4 are allowed"):
        qa.encode(clip, sampling="fps", fps=5.0, frames=4)
    assert qa.encode(clip, sampling="fps", fps=5.0, frames=8).frames == 8
