"""The language model's part, and that of the two sizes: what fits is read. Never a time."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.bench import spreads
from vzvideo.bench import encoder, models, prefill, sizes
from vzvideo.bench.models import Setup, load

TOKENS, WINDOW = 17, 512  # of the small model


@pytest.fixture(scope="module")
def results(checkpoint: Path) -> Any:
    """With memory, in two processes."""
    return prefill.measure(Setup(str(checkpoint), repeats=2, quick=True))


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (prefill, sizes):
        monkeypatch.setattr(
            module, "peaks_in_child", lambda *arguments: dict.fromkeys(arguments[3], 1)
        )


def test_whole_frames_and_zipped_ones_are_read(results: Any) -> None:
    assert [cell["whole"] for cell in results["cells"]] == [True, False]
    for cell in results["cells"]:
        assert cell["fits"]
        assert cell["tokens"] == cell["frames"] * cell["tokens_per_frame"] == 8 * TOKENS
        assert len(cell["peak_bytes"]["each"]) == 1
        for what in ("prefill_s", "encode_s", "first_token_s"):
            assert len(cell[what]["each"]) == 2
    assert spreads.check(results) > 8
    assert results["window"] == WINDOW
    assert results["weight_bytes"] > 100_000
    assert {"prefill_whole_to_zipped", "first_token_whole_to_zipped"} <= results.keys()


def test_a_brief_look_takes_times_in_this_process_alone(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefill, "peaks_in_child", lambda *given: pytest.fail("starts a process"))
    found = prefill.measure(Setup(str(checkpoint), repeats=1, quick=True, brief=True))
    assert all(cell["prefill_s"]["each"] for cell in found["cells"])
    assert not any("peak_bytes" in cell for cell in found["cells"])


def test_cells_that_do_not_fit_say_so(checkpoint: Path, no_processes: None) -> None:
    found = prefill.measure(Setup(str(checkpoint), repeats=1))
    cells = {(c["frames"], c["tokens_per_frame"], c["whole"]): c for c in found["cells"]}
    assert len(cells) == 5 * 3  # 65 and 33 tokens a frame are more than there are
    most = {
        (row["tokens_per_frame"], row["whole"]): row["frames"] for row in found["largest_frames"]
    }
    assert cells[128, 9, False]["fits"] is False
    for (frames, each, whole), cell in cells.items():
        assert cell["fits"] == (frames <= most[each, whole])
        assert cell["tokens"] == frames * each
        assert ("prefill_s" in cell) == cell["fits"]
        assert ("first_token_s" in cell) == (cell["fits"] and (frames == 8 or each == TOKENS))
    assert [ran["tokens_per_frame"] for ran in found["largest_ran"]] == [17, 9]
    for ran in found["largest_ran"]:
        assert ran["frames"] == most[ran["tokens_per_frame"], False] > 8
        assert ran["tokens"] < WINDOW < ran["tokens"] + WINDOW // 2
        assert ran["prefill_s"]["low"] > 0


def test_random_tokens_are_as_many_and_as_wide_as_encoded_ones(checkpoint: Path) -> None:
    encoder, _ = load(Setup(str(checkpoint)))
    for budget in (None, 9):
        made = prefill.random_tokens(encoder, 3, budget)
        real = prefill.encode(encoder, prefill.noise(encoder, 3), budget)
        assert made.features.shape == real.features.shape
        assert made.features.dtype == real.features.dtype
        assert (made.frame == real.frame).all()


def test_two_sizes_are_read_in_turns(monkeypatch: pytest.MonkeyPatch, no_processes: None) -> None:
    for name, heads in (("vicuna-7b", 2), ("vicuna-13b", 4)):
        small = {"hidden_size": 8 * heads, "intermediate_size": 32, "num_attention_heads": heads}
        monkeypatch.setitem(sizes.SHAPES, name, {"num_hidden_layers": heads, **small})
    found = sizes.measure(Setup(geometry="llava-next", repeats=2))
    assert [model["layers"] for model in found["models"]] == [2, 4]
    assert found["models"][0]["weight_bytes"] < found["models"][1]["weight_bytes"]
    assert [(cell["model"], cell["tokens"]) for cell in found["cells"]] == [
        (name, count) for name in sizes.SHAPES for count in (2880, 640, 320, 160)
    ]
    assert spreads.check(found, 2) == 8 * 3
    assert found["cells"][0]["time_to_vicuna-7b_whole"]["each"] == [1, 1]


def test_layers_of_shared_weights_do_the_work_of_as_many() -> None:
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=4,
    )  # fmt: skip
    shared, own = (
        models.make(Setup(geometry="any", shared_layers=each), AutoModelForCausalLM, config)
        for each in (True, False)
    )
    own.load_state_dict(shared.state_dict())
    results = [sizes.read(model, 7) for model in (shared, own)]
    given = torch.randn(1, 7, 32, dtype=torch.bfloat16)
    with torch.inference_mode():
        assert torch.equal(shared(inputs_embeds=given).logits, own(inputs_embeds=given).logits)
    for found in results:
        assert [layer.keys.shape[2] for layer in found.past_key_values.layers] == [7, 7, 7]
    held = {weight.untyped_storage().data_ptr() for weight in shared.model.layers.parameters()}
    assert len(held) == len([*shared.model.layers[0].parameters()])


def test_the_published_shape_is_read_with_layers_of_shared_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = partial(LlamaConfig, hidden_size=64, intermediate_size=128, num_attention_heads=4)
    monkeypatch.setattr(models, "LlamaConfig", small)
    made: list[Any] = []
    make = models.make

    def kept(*arguments: Any) -> Any:
        made.append(make(*arguments))
        return made[-1]

    monkeypatch.setattr(models, "make", kept)
    setup = Setup(geometry="video-llava-7b", layers=3, shared_layers=True)
    tower, language = load(setup)
    prefix = language.prefill(prefill.random_tokens(tower, 2, 17))
    assert torch.isfinite(language.logits(prefix, prefill.QUESTION)).all()
    # The encoder's part asks for it by itself: it does not run the language model.
    assert encoder._load(replace(setup, shared_layers=False)).tokens == tower.tokens == 257
    for model in made:
        layers = model.get_decoder().layers
        assert len(layers) == 3
        held = {weight.untyped_storage().data_ptr() for weight in layers.parameters()}
        assert len(held) == len([*layers[0].parameters()])


def test_a_size_that_has_no_room_says_so(
    monkeypatch: pytest.MonkeyPatch, no_processes: None
) -> None:
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    monkeypatch.setitem(sizes.SHAPES, "vicuna-7b", {"num_hidden_layers": 1, **small})
    make = sizes.make

    def no_room(setup: Setup, name: str) -> Any:
        return make(setup, name) if name == "vicuna-7b" else torch.empty(1 << 60)

    monkeypatch.setattr(sizes, "make", no_room)
    found = sizes.measure(Setup(geometry="llava-next", repeats=1, quick=True))
    assert "allocate" in found["models"][1]["error"]
    assert {cell["model"] for cell in found["cells"]} == {"vicuna-7b"}
