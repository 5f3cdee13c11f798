"""`vzvideo.hf`: models as people have them, that compress from now on."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.models.families import tiny
from vzvideo.errors import ModelError, SettingsError
from vzvideo.hf import unzip, visionzip
from vzvideo.models.families import family_of
from vzvideo.visionzip import ZipSettings

pytestmark = pytest.mark.usefixtures("one_thread")
every_case = pytest.mark.parametrize(("name", "what"), tiny.CASES)
NEEDS_TRAIN = "peft and accelerate come with pip install 'vzvideo[train]'"
every_family = pytest.mark.parametrize("name", tiny.MODELS)
# Placeholders are not said: without a picture for them, models refuse to go on.
SAID: dict[str, Any] = {
    "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False,
    "suppress_tokens": [3, 4, 13, 16, 17],
}  # fmt: skip


@pytest.fixture
def case(name: str, what: str) -> tuple[Any, dict[str, Any]]:
    """A model of the test's own, and inputs for it."""
    return copy.deepcopy(tiny.model(name)), dict(tiny.inputs(name)[what])


def first(name: str) -> tuple[Any, dict[str, Any]]:
    return copy.deepcopy(tiny.model(name)), dict(next(iter(tiny.inputs(name).values())))


def shortened(model: Any, given: dict[str, Any], settings: ZipSettings) -> dict[str, Any]:
    family = family_of(model)
    kept = {
        modality: family.see(modality, {n: given[n] for n in names if n in given}, settings)
        for modality, names in family.arguments.items()
        if names[0] in given
    }
    return family.tell(given, kept)


def state_of(model: Any) -> tuple[Any, ...]:
    hooks = [
        hook
        for module in model.modules()
        for kind in ("_forward_hooks", "_forward_pre_hooks")
        for hook in getattr(module, kind).values()
    ]
    names = {name for module in model.modules() for name in vars(module)}
    return type(model).generate, type(model).forward, len(hooks), sorted(names)


@every_case
@torch.no_grad()
def test_keeping_everything_changes_nothing_to_the_bit(case: Any) -> None:
    model, given = case
    logits, said = model(**given).logits, model.generate(**given, **SAID)
    assert visionzip(model, keep=1.0) is model
    assert torch.equal(model(**given).logits, logits)
    assert torch.equal(model.generate(**given, **SAID), said)
    # As it does by our own way, with a budget larger than any picture.
    visionzip(model, dominant=4000, contextual=0)
    assert torch.equal(model(**given).logits, logits)
    assert torch.equal(model.generate(**given, **SAID), said)


@every_case
@torch.no_grad()
def test_forward_and_generate_go_on_from_what_is_kept(case: Any) -> None:
    model, given = case
    merge = family_of(model).merge
    short = shortened(model, given, ZipSettings(3, 2, merge))
    expected = model(**short).logits
    whole = given["input_ids"]
    visionzip(model, dominant=3, contextual=2)
    assert torch.equal(model(**given).logits, expected)
    said = model.generate(**given, **SAID)
    # It begins with the caller's own prompt, which callers cut off.
    assert torch.equal(said[:, : whole.shape[1]], whole)
    assert said.shape == (len(whole), whole.shape[1] + 6)
    assert short["input_ids"].shape[1] < whole.shape[1]
    assert torch.equal(said[:, whole.shape[1]], _likeliest(expected[:, -1]))
    # With a cache, without one, and as a value with more in it.
    assert torch.equal(model.generate(**given, **SAID, use_cache=False), said)
    told = model.generate(**given, **SAID, return_dict_in_generate=True)
    assert torch.equal(told.sequences, said)
    assert told.past_key_values.get_seq_length() == short["input_ids"].shape[1] + 5


@pytest.mark.parametrize(("name", "what"), [case for case in tiny.CASES if "video" in case[1]])
@torch.no_grad()
def test_across_frames_what_stands_still_is_kept_once(case: Any, name: str) -> None:
    """The first video of a row stands still, a second one does not."""
    model, given = case
    pixels = given["pixel_values_videos"].clone()
    if name.startswith("qwen"):
        pixels = pixels.unflatten(0, (3, -1))
        pixels[1:] = pixels[:1]
        pixels = pixels.flatten(0, 1)
    else:
        pixels[0, 1:] = pixels[0, :1]
    given["pixel_values_videos"] = pixels
    settings = ZipSettings(3, 2, family_of(model).merge, temporal=True)
    short = shortened(model, given, settings)
    apart = shortened(model, given, ZipSettings(3, 2, family_of(model).merge))
    # No more tokens, fewer where so many are not left.
    assert short["input_ids"].shape[1] <= apart["input_ids"].shape[1]
    expected = model(**short).logits
    assert expected.shape != (other := model(**apart).logits).shape or not torch.equal(
        expected, other
    )
    visionzip(model, dominant=3, contextual=2, temporal="on")
    assert torch.equal(model(**given).logits, expected)
    assert model.generate(**given, **SAID).shape[1] == given["input_ids"].shape[1] + 6


def test_across_frames_wants_a_video() -> None:
    with pytest.raises(SettingsError, match="single pictures"):
        visionzip(tiny.model("smolvlm"), temporal="on")
    with pytest.raises(SettingsError, match="temporal"):
        visionzip(tiny.model("video_llava"), temporal="yes")  # type: ignore[arg-type]


def _likeliest(logits: torch.Tensor) -> torch.Tensor:
    logits = logits.clone()
    logits[:, [*SAID["suppress_tokens"], 2]] = -torch.inf
    return logits.argmax(-1)


@every_case
@torch.no_grad()
def test_beams(case: Any) -> None:
    model, given = case
    short = shortened(model, given, ZipSettings(3, 2, family_of(model).merge))
    expected = model.generate(**short, **SAID, num_beams=3, num_return_sequences=2)
    visionzip(model, dominant=3, contextual=2)
    said = model.generate(**given, **SAID, num_beams=3, num_return_sequences=2)
    whole = given["input_ids"]
    assert torch.equal(said[:, whole.shape[1] :], expected[:, short["input_ids"].shape[1] :])
    assert torch.equal(said[:, : whole.shape[1]], whole.repeat_interleave(2, 0))


@every_family
@torch.no_grad()
def test_unzip_gives_the_model_back(name: str) -> None:
    model, given = first(name)
    model(**given)
    before, logits = state_of(model), model(**given).logits
    visionzip(model, keep=0.3)
    visionzip(model, dominant=3, contextual=2)  # the last one counts
    assert not torch.equal(model(**given).logits[:, -1], logits[:, -1])
    assert state_of(model)[2] == before[2] + 2
    assert unzip(model) is model
    assert state_of(model) == before
    assert torch.equal(model(**given).logits, logits)
    unzip(model)


@every_family
@torch.no_grad()
def test_a_copy_goes_its_own_way(name: str) -> None:
    model, given = first(name)
    visionzip(model, dominant=3, contextual=2)
    said = model.generate(**given, **SAID)
    copied = copy.deepcopy(model)
    assert copied.generate.__self__ is copied
    assert torch.equal(copied.generate(**given, **SAID), said)
    unzip(model)
    assert torch.equal(copied.generate(**given, **SAID), said)
    plain = copy.deepcopy(tiny.model(name))
    assert torch.equal(plain(**given).logits, model(**given).logits)
    unzip(copied)
    assert torch.equal(plain(**given).logits, copied(**given).logits)


@every_family
def test_gradients_through_labels(name: str) -> None:
    model, given = first(name)
    labels = given["input_ids"].clone()
    labels[:, :-4] = -100
    short = shortened(model, given | {"labels": labels}, ZipSettings(3, 2, family_of(model).merge))
    expected = model(**short).loss
    visionzip(model, dominant=3, contextual=2)
    loss = model(**given, labels=labels).loss
    torch.testing.assert_close(loss, expected)
    loss.backward()
    reached = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert any("embed_tokens" in name for name in reached)
    tower = family_of(model).vision()
    assert any(weight.grad is not None for weight in tower.parameters())


@every_family
@torch.no_grad()
def test_text_alone_passes_by(name: str) -> None:
    model, _ = first(name)
    given = tiny.rows([1, *tiny.text(9)])
    expected = model.generate(**given, **SAID)
    visionzip(model, dominant=3, contextual=2)
    assert torch.equal(model.generate(**given, **SAID), expected)
    assert torch.equal(model.generate(given["input_ids"], **SAID), expected)


@torch.no_grad()
def test_a_prompt_given_by_its_place_and_the_old_name_of_pixels() -> None:
    model, given = copy.deepcopy(tiny.model("video_llava")), tiny.inputs("video_llava")["picture"]
    visionzip(model, dominant=3, contextual=2)
    expected = model.generate(**given, **SAID)
    old = {"pixel_values_images": given["pixel_values"], "attention_mask": given["attention_mask"]}
    assert torch.equal(model.generate(given["input_ids"], **old, **SAID), expected)
    logits = model(**given).logits
    assert torch.equal(model(given["input_ids"], given["pixel_values"]).logits, logits)


def test_pixels_that_would_pass_by_unseen_are_refused() -> None:
    model, given = first("llava")
    visionzip(model)
    given["pixel_values_videos"] = given.pop("pixel_values")
    for call in (model, model.generate):
        with pytest.raises(ModelError, match="pixel_values_videos: not known of llava models"):
            call(**given)


@torch.no_grad()
def test_pixels_behind_a_full_cache_are_refused() -> None:
    model, given = first("llava")
    visionzip(model)
    told = model.generate(**given, **SAID, return_dict_in_generate=True)
    with pytest.raises(ModelError, match="give the whole conversation"):
        model.generate(**given, past_key_values=told.past_key_values, **SAID)


def test_a_prompt_of_another_picture_is_refused() -> None:
    model, given = first("llava")
    visionzip(model)
    short = {name: given[name][:, 3:-40] for name in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match="placeholders in the prompt for 36 features"):
        model(**short, pixel_values=given["pixel_values"])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"keep": 0.0}, "keep=0.0: a share"),
        ({"keep": 1.5}, "keep=1.5: a share"),
        ({"keep": 0.1, "dominant": 5}, "give one of them"),
        ({"dominant": -1}, "neither may be below 0"),
        ({"dominant": 0, "contextual": 0}, "one token at least must remain"),
        ({"merge": "median"}, 'choose "reference" or "mean"'),
    ],
)
def test_numbers_that_cannot_be_are_named(wrong: dict[str, Any], told: str) -> None:
    model, _ = first("llava")
    before = state_of(model)
    with pytest.raises(SettingsError, match=told):
        visionzip(model, **wrong)
    assert state_of(model) == before


def test_a_model_of_no_family_is_told_the_list() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    with pytest.raises(ModelError, match="type 'llama' is not known here; those of type llava, "):
        visionzip(LlamaForCausalLM(LlamaConfig(**tiny.TEXT)))


@torch.no_grad()
def test_a_share_is_of_each_pictures_own_cells() -> None:
    model, given = (
        copy.deepcopy(tiny.model("qwen3_vl")),
        tiny.inputs("qwen3_vl")["pictures in rows"],
    )
    visionzip(model, keep=0.25)
    short = shortened(model, given, model._visionzip)
    left = [(row == tiny.ID["<|image_pad|>"]).sum() for row in short["input_ids"]]
    assert [int(count) for count in left] == [4, 3 + 2]  # of 16, and of 12 and 9


# -- beside what people use


@torch.no_grad()
def test_a_peft_model_that_is_zipped_and_a_zipped_one_that_is_wrapped() -> None:
    peft = pytest.importorskip("peft", reason=NEEDS_TRAIN)
    about = peft.LoraConfig(target_modules=r".*language_model.*q_proj", task_type="CAUSAL_LM")
    model, given = first("llava")
    short = shortened(model, given, ZipSettings(3, 2, "reference"))
    expected, said = model(**short).logits, model.generate(**short, **SAID)
    wrapped = peft.get_peft_model(model, about)
    assert visionzip(wrapped, dominant=3, contextual=2) is wrapped
    torch.testing.assert_close(wrapped(**given).logits, expected)
    found = wrapped.generate(**given, **SAID)
    whole, kept = given["input_ids"].shape[1], short["input_ids"].shape[1]
    assert torch.equal(found[:, whole:], said[:, kept:])
    unzip(wrapped)
    assert "generate" not in vars(model)

    model, given = first("llava")
    late = peft.get_peft_model(visionzip(model, dominant=3, contextual=2), about)
    with pytest.raises(ModelError, match="call visionzip on what wraps it"):
        model.forward(**given)  # as PEFT before 0.21 does
    assert torch.equal(late.generate(**given, **SAID)[:, whole:], said[:, kept:])


@torch.no_grad()
def test_a_model_whose_weights_accelerate_moves(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate", reason=NEEDS_TRAIN)
    for name in ("llava", "llava_onevision", "qwen3_vl"):
        model, given = first(name)
        visionzip(model, dominant=3, contextual=2)
        expected = model.generate(**given, **SAID)
        unzip(model)
        plain = accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)
        visionzip(plain, dominant=3, contextual=2)
        assert torch.equal(plain.generate(**given, **SAID), expected)
    model, given = first("llava")
    visionzip(model, dominant=3, contextual=2)
    expected = model.generate(**given, **SAID)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))  # weights on meta
    assert next(model.parameters()).is_meta
    assert torch.equal(model.generate(**given, **SAID), expected)


def test_a_newline_that_is_not_in_memory_is_named() -> None:
    accelerate = pytest.importorskip("accelerate", reason=NEEDS_TRAIN)
    model, given = first("llava_next")
    visionzip(model, dominant=3, contextual=2)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    with torch.no_grad(), pytest.raises(ModelError, match="newline is not in memory"):
        model(**given)


@torch.no_grad()
def test_the_pipeline_and_the_models_own_processor() -> None:
    from transformers import CLIPImageProcessorPil, LlavaProcessor, pipeline

    model, _ = first("llava")
    size = {"size": {"shortest_edge": 84}, "crop_size": {"height": 84, "width": 84}}
    tokenizer = tiny.tokenizer()
    processor = LlavaProcessor(
        CLIPImageProcessorPil(**size), tokenizer, patch_size=14, image_token="<image>",
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=None,
    )  # fmt: skip
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    asked = {"text": "USER: <image>\nWhat? ASSISTANT:", "images": picture}
    given = processor(**asked, return_tensors="pt")
    assert int((given["input_ids"] == tiny.ID["<image>"]).sum()) == 36
    visionzip(model, dominant=3, contextual=2)
    said = model.generate(**given, **SAID)[0, given["input_ids"].shape[1] :]
    ask = pipeline("image-text-to-text", model=model, processor=processor)
    answer = ask(**asked, generate_kwargs=SAID, return_full_text=False)
    assert answer[0]["generated_text"] == tokenizer.decode(said, skip_special_tokens=True)


@torch.no_grad()
def test_a_prompt_read_in_chunks() -> None:
    model, given = first("llava")
    visionzip(model, dominant=3, contextual=2)
    expected = model.generate(**given, **SAID)
    assert torch.equal(model.generate(**given, **SAID, prefill_chunk_size=100), expected)
