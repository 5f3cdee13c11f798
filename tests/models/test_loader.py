"""Checkpoint folders into memory: every weight where it belongs, or one clear line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import published_name, small_model, write_checkpoint
from vzvideo.errors import ModelError
from vzvideo.models import loader, weights


def refused(folder: Path, **options: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        loader.load(folder, **{"device": "cpu"} | options)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint of its own, to be damaged."""
    return Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))


def state_of(encoder: Any, language: Any) -> dict[str, torch.Tensor]:
    state = {f"model.video_tower.{k}": v for k, v in encoder.tower.state_dict().items()}
    return state | language.model.state_dict()


def test_the_published_layout_is_loaded_weight_for_weight(checkpoint: Path) -> None:
    published = load_file(checkpoint / "model.safetensors")
    state = state_of(*loader.load(checkpoint, device="cpu"))
    assert len(state) > 100
    for name, weight in state.items():
        assert torch.equal(weight, published.pop(published_name(name))), name
    assert published
    assert all(name.startswith("image_tower.") for name in published)  # the one for photographs


def test_todays_layout_and_shards_are_loaded_too(checkpoint: Path, tmp_path: Path) -> None:
    model = small_model()
    folder = write_checkpoint(tmp_path / "sharded", model)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="200KB")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    actual = state_of(*loader.load(folder, device="cpu"))
    expected = state_of(*loader.load(checkpoint, device="cpu"))
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "sharded", small_model())
    (folder / "model.safetensors").unlink()
    small_model().save_pretrained(folder, max_shard_size="200KB")
    gone = sorted(folder.glob("*.safetensors"))[1]
    gone.unlink()
    error = refused(folder)
    assert gone.name in str(error)
    assert error.code == "incomplete"


def test_two_models_in_one_process_are_independent(checkpoint: Path, tmp_path: Path) -> None:
    another = write_checkpoint(tmp_path / "another", small_model(seed=1))
    first = state_of(*loader.load(checkpoint, device="cpu"))
    before = {name: weight.clone() for name, weight in first.items()}
    second = state_of(*loader.load(another, device="cpu", dtype="bfloat16"))
    embedding = "model.language_model.embed_tokens.weight"
    assert not torch.equal(first[embedding], second[embedding].float())
    for weight in second.values():
        weight.zero_()
    assert all(torch.equal(first[name], before[name]) for name in before)
    third = state_of(*loader.load(checkpoint, device="cpu"))
    assert all(torch.equal(third[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("auto", torch.float32),
        ("float32", torch.float32),
        ("float16", torch.float16),
        ("bfloat16", torch.bfloat16),
    ],
)
def test_the_precision_asked_for_is_given(checkpoint: Path, asked: str, given: Any) -> None:
    encoder, language = loader.load(checkpoint, device="cpu", dtype=asked)
    assert (encoder.dtype, language.model.dtype) == (given, given)
    assert encoder.device == language.device == torch.device("cpu")


@pytest.mark.parametrize(
    "missing", ["video_tower", "lm_head", "linear_1", "layers.2.self_attn.q_proj"]
)
def test_missing_weights_are_named_and_never_made_up(tmp_path: Path, missing: str) -> None:
    folder = write_checkpoint(tmp_path, small_model(), drop=missing)
    error = refused(folder)
    assert missing in str(error)
    assert "the checkpoint is incomplete" in str(error)


def test_the_tower_for_photographs_may_be_missing(checkpoint: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, small_model(), drop="image_tower")
    actual = state_of(*loader.load(folder, device="cpu"))
    expected = state_of(*loader.load(checkpoint, device="cpu"))
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_weights_of_another_shape_are_refused(copy: Path) -> None:
    state = load_file(copy / "model.safetensors")
    state["multi_modal_projector.linear_1.weight"] = torch.zeros(48, 33)
    save_file(state, copy / "model.safetensors", {"format": "pt"})
    assert str(copy) in str(refused(copy))


def test_damaged_weights_are_one_line(copy: Path) -> None:
    path = copy / "model.safetensors"
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:1000], b"", b"\xff" * 100):
        path.write_bytes(content)
        error = refused(copy)
        assert str(error).startswith(f"{copy}: the checkpoint cannot be loaded (")


def test_a_folder_without_weights_is_one_line(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    assert "the checkpoint cannot be loaded" in str(refused(copy))


def test_nothing_is_unpickled(copy: Path) -> None:
    state = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(state, copy / "pytorch_model.bin")
    assert "safetensors" in str(refused(copy))


@pytest.mark.parametrize("name", ["tokenizer.json", "preprocessor_config.json"])
def test_a_damaged_file_beside_the_weights_is_one_line(copy: Path, name: str) -> None:
    (copy / name).write_text("{")
    assert "the checkpoint cannot be loaded" in str(refused(copy))


def test_a_folder_of_no_family_is_told_so(copy: Path) -> None:
    about = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(about | {"model_type": "blip"}))
    assert "of type 'blip'; choose one of those that vzvideo runs: llava," in str(refused(copy))
    remote = {"model_type": "internvl_chat", "auto_map": {"AutoModel": "modeling.py"}}
    (copy / "config.json").write_text(json.dumps(about | remote))
    assert "brings code of its own, which is never run here" in str(refused(copy))
    (copy / "config.json").unlink()
    assert "no config.json" in str(refused(copy))


def test_several_feature_layers_are_refused(copy: Path) -> None:
    about = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(about | {"vision_feature_layer": [-2, -1]}))
    assert "several vision feature layers ([-2, -1]) are not supported" in str(refused(copy))


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "", "cpu:zero"])
def test_a_device_that_is_not_here_is_told_the_choices(checkpoint: Path, device: str) -> None:
    error = refused(checkpoint, device=device)
    assert f"device {device!r} cannot be used here" in str(error)
    assert "choose auto, cpu, cuda or mps" in str(error)
    assert error.code == "device"


def test_quantisation_without_a_gpu_is_told_what_it_needs(checkpoint: Path) -> None:
    error = refused(checkpoint, quantize="4bit")
    assert "quantize=4bit: needs a CUDA GPU and bitsandbytes" in str(error)
    assert error.code == "quantize"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Models that are here, by name, in place of what the machine has; and no hub."""
    found: dict[str, Path] = {}
    monkeypatch.setattr(weights, "locate", lambda card: found.get(card.name))
    monkeypatch.setattr(weights, "hub_answers", lambda: False)
    return found


def on_disk(folder: Path, size: int) -> Path:
    folder.mkdir(parents=True)
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(size)
    return folder


def test_auto_takes_the_largest_that_is_here_and_fits(
    here: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_memory_bytes", lambda place: 10 << 30)
    here["mini"] = on_disk(tmp_path / "mini", 300 << 20)
    assert loader.choose_auto("cpu") == ("mini", "the model that is here")
    here["smolvlm2-500m"] = on_disk(tmp_path / "smol", 2 << 30)
    here["qwen3-vl-8b"] = on_disk(tmp_path / "qwen", 17 << 30)
    name, reason = loader.choose_auto("cpu")
    assert name == "smolvlm2-500m"
    assert reason == "the largest of 3 models here that fits 10 GB of memory"


def test_auto_recommends_where_nothing_is_here_and_the_hub_answers(
    here: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert loader.choose_auto("cpu")[0] == "mini"
    monkeypatch.setattr(weights, "hub_answers", lambda: True)
    monkeypatch.setattr(loader, "_memory_bytes", lambda place: 16 << 30)
    name, reason = loader.choose_auto("cpu")
    assert name == "smolvlm2-500m"
    assert "recommended for 16 GB of memory; licence: Apache-2.0" in reason


def test_loading_says_nothing(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    loader.load(checkpoint, device="cpu")
    assert capfd.readouterr() == ("", "")


def test_quantising_leaves_the_tower_and_the_projector_whole() -> None:
    from transformers.quantizers.quantizers_utils import should_convert_module

    from tests.conftest import small_model

    quantised = [
        name
        for name, module in small_model().named_modules()
        if isinstance(module, torch.nn.Linear)
        and should_convert_module(name, list(loader.UNQUANTIZED))
    ]
    assert quantised
    assert all(name.startswith("model.language_model.") for name in quantised)
