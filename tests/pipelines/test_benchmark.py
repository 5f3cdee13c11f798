"""The benchmark runs, says what it ran on, and sees what it is there to see. Never a time."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipelines import benchmark

BATCH = "8 frames"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def results(checkpoint: Path, scratch: Path) -> Any:
    out = scratch / "results.json"
    where = ["--model", str(checkpoint), "--scratch", str(scratch), "--out", str(out)]
    benchmark.main(["encoder", "many", "--quick", "--repeats", "2", "--device", "cpu", *where])
    return json.loads(out.read_text())


def spreads_in(value: Any) -> list[Any]:
    if not isinstance(value, dict):
        return []
    if "median" in value:
        return [value]
    return [spread for inner in value.values() for spread in spreads_in(inner)]


def test_the_results_say_what_they_were_measured_on(results: Any) -> None:
    assert results["command"][:4] == ["python", "-m", "pipelines.benchmark", "encoder"]
    assert {"seed", "model", "repeats", "commit", "hardware", "versions"} <= results.keys()
    assert {"cpu", "cores", "memory_bytes", "gpu"} <= results["hardware"].keys()
    assert results["hardware"]["memory_bytes"] > 2**28
    assert {"python", "torch", "transformers", "av"} <= results["versions"].keys()


def test_every_number_comes_with_its_repetitions(results: Any) -> None:
    for part in ("encoder", "many"):
        found = spreads_in(results[part])
        assert found
        for spread in found:
            assert spread["low"] <= spread["median"] <= spread["high"]
            assert spread["low"] in spread["each"]
            assert spread["high"] in spread["each"]
    ways = results["encoder"][BATCH]
    for way in ("vzvideo", "plain", "eager"):
        assert len(ways[way]["time_s"]["each"]) == 2
        assert ways[way]["peak_bytes"]["low"] >= 0
    assert {"vzvideo_to_plain", "eager_to_plain"} <= ways.keys()
    assert len(results["many"]["ten_s"]["each"]) == 2
    assert "ten_to_one, before generation" in results["many"]


def test_only_eager_attention_makes_square_tensors(results: Any) -> None:
    seen, tokens = results["encoder"]["N x N tensors"], results["encoder"]["tokens"]
    for way in ("vzvideo", "plain"):
        assert seen[way]["count"] == 0
        assert any("scaled_dot_product" in operator for operator in seen[way]["operators"])
    assert seen["eager"]["count"] > 0
    heads, bytes_each = 4, 4
    assert seen["eager"]["largest_bytes"] == 8 * heads * tokens**2 * bytes_each


def test_squares_hidden_in_a_composite_operator_are_seen() -> None:
    states = torch.randn(1, 2, 10, 4)
    with (
        torch.inference_mode(),
        sdpa_kernel(SDPBackend.MATH),
        benchmark.Squares(10) as squares,
    ):
        F.scaled_dot_product_attention(states, states, states)
    assert squares.found["count"] > 0


def peaks() -> tuple[int, int]:
    """Of filling 256 MiB, and then 64."""
    fill = partial(torch.ones, dtype=torch.uint8)
    return benchmark.peak(partial(fill, 256 << 20)), benchmark.peak(partial(fill, 64 << 20))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="a peak cannot be reset")
def test_a_peak_counts_what_was_held_since_and_freed_again() -> None:
    large, small = benchmark.in_child(peaks)
    assert 250 << 20 < large < 270 << 20
    assert 60 << 20 < small < 80 << 20


def test_a_child_that_fails_or_hangs_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no answer within 1 s"):
        benchmark.in_child(time.sleep, 600, deadline_s=1)
    with pytest.raises(RuntimeError, match="ValueError: invalid literal"):
        benchmark.in_child(int, "three")


@pytest.mark.parametrize("name", ["vzvideo", "seeking"])
def test_decoders_are_compared_on_the_same_frames(scratch: Path, name: str) -> None:
    clip, _, size = benchmark.make_clip(Namespace(quick=True, scratch=scratch))
    wanted = np.array([3, 248, 249, 250, 700])
    run, truth = (benchmark._decode_once(each, clip, wanted, size) for each in (name, "sequential"))
    np.testing.assert_allclose(run["at_s"], wanted / benchmark.FPS, atol=1e-6)
    assert np.abs(run["cells"] - truth["cells"]).max() < 1
    # Each picture carries its frame's number, so that neighbours are told apart.
    bits = run["cells"][:, 0].mean(-1) > 128
    np.testing.assert_array_equal((bits << np.arange(benchmark.CELLS[1])).sum(1), wanted)


def test_random_weights_answer_no_questions(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        benchmark.parse(["ask", "--geometry", "video-llava-7b", "--out", str(tmp_path / "o")])
