"""The end-to-end parts measure what they name, on a small random model. Never a time."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests import conftest
from tests.bench import spreads
from vzvideo.bench import ask
from vzvideo.bench.models import Setup
from vzvideo.models import weights

REPEATS = 2


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose window has room for 32 frames."""
    model = conftest.small_model()
    model.config.text_config.max_position_embeddings = 2048
    return conftest.write_checkpoint(tmp_path_factory.mktemp("roomy"), model)


@pytest.fixture(scope="module")
def setup(roomy: Path, clip: Path) -> Setup:
    return Setup(model=str(roomy), quick=True, repeats=REPEATS, video=clip)


@pytest.fixture(scope="module")
def found(setup: Setup) -> Any:
    return ask.measure(setup)


def test_a_question_is_compared_with_its_stages(found: Any, clip: Path) -> None:
    assert found["clip"] == clip.name
    assert [cell["frames"] for cell in found["cells"]] == [8, 32]
    for cell in found["cells"]:
        assert spreads.check(cell, REPEATS) == len(cell) - 1
        for turn in range(REPEATS):
            decode, encode, prefill, generate = (
                cell[f"{stage}_alone_s"]["each"][turn] for stage in ask.STAGES
            )
            floor_s = max(decode, encode) + prefill + generate
            assert cell["floor_s"]["each"][turn] == pytest.approx(floor_s)
            assert cell["first_to_floor"]["each"][turn] == pytest.approx(
                cell["first_s"]["each"][turn] / floor_s
            )
            assert cell["overlap_to_slowest"]["each"][turn] == pytest.approx(
                cell["overlapped_s"]["each"][turn] / max(decode, encode)
            )


def test_spans_lie_within_the_run_and_stages_do_not_overlap_themselves(found: Any) -> None:
    spans = found["spans"]
    assert {span["stage"] for span in spans} == {"decode", "encode", "prefill", "first token"}
    for stage in {span["stage"] for span in spans}:
        own = [span for span in spans if span["stage"] == stage]
        assert all(span["begun_s"] <= span["ended_s"] for span in own)
        assert all(one["ended_s"] <= other["begun_s"] for one, other in pairwise(own))
    cold = found["cells"][-1]["first_token_cold_s"]["each"]
    assert spans[0]["begun_s"] >= 0
    assert spans[-1] == max(spans, key=lambda span: span["ended_s"])
    assert spans[-1]["ended_s"] == cold[-1]
    ended_s = {span["stage"]: span["ended_s"] for span in spans}
    assert max(ended_s["decode"], ended_s["encode"]) <= spans[-2]["begun_s"]


def test_what_does_not_fit_the_window_is_an_error_of_its_cell(checkpoint: Path, clip: Path) -> None:
    found = ask.measure(Setup(model=str(checkpoint), quick=True, repeats=1, video=clip))
    small, large = found["cells"]
    assert small["first_s"]["each"]
    assert large.keys() == {"frames", "error"}
    assert "spans" not in found


def test_a_brief_look_asks_of_the_fewest_frames(checkpoint: Path, clip: Path) -> None:
    setup = Setup(model=str(checkpoint), quick=True, brief=True, repeats=1, video=clip)
    found = ask.measure(setup)
    assert [cell["frames"] for cell in found["cells"]] == [8]
    assert found["spans"]


def test_ten_questions_are_compared_with_one(setup: Setup) -> None:
    found = ask.measure_questions(setup)
    assert [cell["questions"] for cell in found["cells"]] == [1, 10]
    assert spreads.check(found, REPEATS) == 9
    one, ten = found["cells"]
    for ratio, name in (
        ("ten_to_one", "time_s"),
        ("ten_to_one_generation", "generation_s"),
        ("ten_to_one_before_generation", "before_generation_s"),
    ):
        ratios = [b / a for a, b in zip(one[name]["each"], ten[name]["each"], strict=True)]
        assert found[ratio]["each"] == pytest.approx(ratios)


def test_the_cache_that_is_emptied_is_nobody_elses(setup: Setup) -> None:
    before, theirs = os.environ["VZVIDEO_CACHE"], weights.cache_root()
    with ask.load_qa(setup) as qa:
        assert theirs not in weights.cache_root().parents
        assert setup.video
        assert not qa.encode_timed(setup.video, frames=2).cached
        assert qa.encode_timed(setup.video, frames=2).cached
        ask.empty_cache(qa)
        assert not qa.encode_timed(setup.video, frames=2).cached
    assert os.environ["VZVIDEO_CACHE"] == before
