"""The encoder's part: its ways, its limit, and what makes attention matrices. Never a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import Dinov2Config, Dinov2Model, SiglipVisionConfig, SiglipVisionModel

from tests.bench import spreads
from vzvideo.bench import encoder
from vzvideo.bench.models import Setup, load, prepared_noise
from vzvideo.models.encoder import Encoder
from vzvideo.models.preprocess import Preprocess

TOKENS, LAYERS, WIDTH, MLP = 17, 3, 32, 64  # of the small model, up to its feature layer


@pytest.fixture(scope="module")
def results(checkpoint: Path) -> Any:
    return encoder.measure(Setup(str(checkpoint), repeats=2, quick=True))


def test_every_number_comes_with_its_repetitions(results: Any) -> None:
    (cell,) = results["cells"]
    assert spreads.check(cell, 2) > 10
    assert (results["tokens"], results["layers_run"], cell["frames"]) == (TOKENS, LAYERS, 8)
    for way in ("vzvideo", "plain", "eager"):
        found = cell["ways"][way]
        assert found["peak_bytes"]["low"] >= 0
        for time_s, rate in zip(
            found["time_s"]["each"], found["frames_per_s"]["each"], strict=True
        ):
            assert time_s * rate == pytest.approx(8)
    assert {"limit_s", "vzvideo_to_plain", "eager_to_plain", "vzvideo_to_limit"} <= cell.keys()
    for over, under in zip(
        cell["vzvideo_to_limit"]["each"], cell["ways"]["vzvideo"]["time_s"]["each"], strict=True
    ):
        assert any(under / over == pytest.approx(limit) for limit in cell["limit_s"]["each"])


def test_a_brief_look_takes_times_in_this_process_alone(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("in_child", "peaks_in_child"):
        monkeypatch.setattr(encoder, name, lambda *given: pytest.fail("starts a process"))
    found = encoder.measure(Setup(str(checkpoint), repeats=1, quick=True, brief=True))
    (cell,) = found["cells"]
    assert cell["vzvideo_to_plain"]["each"]
    assert "peak_bytes" not in cell["ways"]["vzvideo"]
    assert "profile" not in found


def test_only_eager_attention_makes_square_tensors(results: Any) -> None:
    seen = results["squares"]
    for way in ("vzvideo", "plain"):
        assert seen[way]["count"] == 0
        assert any("scaled_dot_product" in operator for operator in seen[way]["operators"])
    assert seen["eager"]["count"] > 0
    heads, bytes_each = 4, 4
    assert seen["eager"]["largest_bytes"] == seen["frames"] * heads * TOKENS**2 * bytes_each


def test_squares_hidden_in_a_composite_operator_are_seen() -> None:
    states = torch.randn(1, 2, 10, 4)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), encoder.Squares(10) as squares:
        F.scaled_dot_product_attention(states, states, states)
    assert squares.found["count"] > 0


def test_the_limit_holds_every_multiplication(checkpoint: Path) -> None:
    frames = 2
    limit = encoder.Limit(load(Setup(str(checkpoint)))[0], frames)
    projections = TOKENS * (4 * WIDTH * WIDTH + 2 * WIDTH * MLP)
    attention = 2 * TOKENS * TOKENS * WIDTH
    patches = (TOKENS - 1) * 3 * 14 * 14 * WIDTH
    assert limit.flop == 2 * frames * (LAYERS * (projections + attention) + patches)
    limit()


@pytest.mark.parametrize("kind", ["dinov2", "siglip"])
def test_the_limit_knows_every_tower(kind: str) -> None:
    shape: Any = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4)
    shape |= {"image_size": 56, "patch_size": 14}
    tower: Any
    if kind == "dinov2":
        tower = Dinov2Model(Dinov2Config(**shape, mlp_ratio=2))
    else:
        tower = SiglipVisionModel(SiglipVisionConfig(**shape, intermediate_size=64))
    made = Encoder(tower, Preprocess(size=56, crop=56))
    limit = encoder.Limit(made, 1)
    layer = made.tokens * (4 * 32 * 32 + 2 * 32 * 64) + 2 * made.tokens**2 * 32
    assert limit.flop == 2 * (2 * layer + 16 * 3 * 14 * 14 * 32)
    limit()


def test_a_way_that_runs_out_of_memory_says_so(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def peaks(_child: Any, _setup: Any, name: str, batches: Sequence[int]) -> dict[int, int | str]:
        return dict.fromkeys(batches, "the process died" if name == "eager" else 1)

    monkeypatch.setattr(encoder, "peaks_in_child", peaks)
    found = encoder.measure(Setup(str(checkpoint), repeats=1, quick=True))
    (cell,) = found["cells"]
    assert cell["ways"]["eager"] == {"error": "the process died"}
    assert "eager_to_plain" not in cell
    assert "vzvideo_to_plain" in cell


def test_compiled_it_gives_the_same(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    made = load(Setup(str(checkpoint)))[0]
    inputs = prepared_noise(made, 2)
    ours = encoder.ways_to_features(made)["vzvideo"](inputs)
    torch.testing.assert_close(encoder.compiled(made)(inputs), ours)


def test_what_cannot_be_compiled_is_an_error(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(*_: Any) -> None:
        raise RuntimeError("no compiler\nhere")

    monkeypatch.setattr(torch, "compile", lambda function, **_: no_compiler)
    monkeypatch.setattr(
        encoder, "peaks_in_child", lambda *arguments: dict.fromkeys(arguments[3], 1)
    )
    found = encoder.measure(Setup(str(checkpoint), repeats=1, quick=True, compiled=True))
    assert found["cells"][0]["ways"]["compiled"] == {"error": "no compiler here"}
