"""A checkpoint folder into memory: tower and language model on the device and in the precision
that suit them.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
)

from vzvideo.errors import ModelError
from vzvideo.models import weights
from vzvideo.models.catalog import CATALOG, recommended
from vzvideo.models.encoder import Encoder
from vzvideo.models.families import family_of
from vzvideo.models.language import LanguageModel
from vzvideo.models.quiet import quiet

_SMALL_BYTES = 4 << 30
_ROOM = 1.3  # times a checkpoint's size, for frames, cache and answer
# What quantising leaves alone, as patterns that are matched from a module's full name's beginning:
# the tower is small, and what it keeps decides everything after it.
UNQUANTIZED = (
    *(r".*video_tower", r".*image_tower", r".*vision_tower", r".*vision_model", r".*visual"),
    *(r".*multi_modal_projector", r".*connector", "lm_head"),
)


def choose_auto(device: str = "auto") -> tuple[str, str]:
    """The model that answers best on this machine and `device`, and why: (name, reason).

    Of those that are here the largest that fits; else, where the hub answers, the one that is
    recommended; else `mini`.
    """
    place = _device(device)
    memory = _memory_bytes(place)
    where = f"{memory / 2**30:.0f} GB of {'GPU ' if place.type == 'cuda' else ''}memory"
    found = []
    for card in CATALOG.values():
        if (folder := weights.locate(card)) and not weights.is_inexact(card):
            size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
            found.append((size, card.name))
    fitting = [(size, name) for size, name in found if size * _ROOM < memory]
    if fitting:
        name = max(fitting)[1]
        others = f"the largest of {len(found)} models here that fits {where}"
        return name, others if len(found) > 1 else "the model that is here"
    if weights.hub_answers():
        card = recommended(place.type, memory / 2**30)
        if weights.is_inexact(card):
            return "mini", f"{card.name}, recommended for {where}, does not work here exactly"
        return card.name, f"recommended for {where}; licence: {card.licence}"
    return "mini", "no other model is here, and the hub does not answer"


def fits(folder: Path, device: str = "auto") -> bool:
    """Whether a checkpoint's weights, with room for what they work on, fit this machine."""
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return size * _ROOM < _memory_bytes(_device(device))


def _memory_bytes(place: torch.device) -> int:
    if place.type == "cuda":
        return int(torch.cuda.get_device_properties(place).total_memory)
    pages, size = (os.sysconf(name) for name in ("SC_PHYS_PAGES", "SC_PAGE_SIZE"))
    return pages * size


Part = Literal["both", "tower", "language"]


def load(
    folder: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    part: Part = "both",
    timestamps: bool = False,
) -> tuple[Encoder, LanguageModel]:
    """Loads a checkpoint folder of any family known here, old key names included.

    device "auto": CUDA, then Apple's MPS, then the CPU. dtype "auto": float16 on an accelerator; on
    the CPU float32, and bfloat16 for checkpoints above 4 GB. part: which half is to be used; the
    other's weights are let go before anything reaches the device.

    Raises ModelError where files are missing, damaged, or lack weights the model needs.
    """
    config = weights.checkpoint(folder)
    _check_layers(folder, config)
    place = _device(device)
    options: dict[str, Any] = {"dtype": _dtype(dtype, place, folder)}
    if quantize:
        options["quantization_config"] = _quantization(quantize, place, options["dtype"])
        options["device_map"] = {"": place}
    try:
        with quiet():
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,  # nothing is ever unpickled
                output_loading_info=True,
                **options,
            )
            model, report = loaded
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        family = family_of(model)
        preprocess = family.preprocess(folder)
        template = _template(folder)
    except Exception as error:
        raise _unloadable(folder, error) from error
    # Where weights are missing, transformers fills in random ones and says so in passing.
    missing = [key for key in report["missing_keys"] if "image_tower" not in key]
    wrong = missing + [str(key) for key in report.get("mismatched_keys", ())]
    if wrong:
        raise ModelError(
            f"{folder}: {len(wrong)} weights are missing or of another shape, {wrong[0]} among "
            "them; the checkpoint is incomplete"
        )
    if hasattr(model.model, "image_tower"):
        del model.model.image_tower  # a second vision tower, for photographs; video has its own
    encoder = Encoder(family, preprocess)
    # What stands between tower and text may be needed by both.
    aside = {
        "both": (),
        "tower": (model.get_decoder(), model.get_output_embeddings()),
        "language": (encoder.tower,),
    }[part]
    if not quantize:
        for module in (*model.model.children(), model.get_output_embeddings()):
            module.to("meta" if any(module is each for each in aside) else place)
        model.model._apply(lambda weight: weight.to(place), recurse=False)
    if part == "language":  # or the model would be taken to be where its tower is
        name = next(n for n, child in model.model.named_children() if child is encoder.tower)
        delattr(model.model, name)
    return encoder, LanguageModel(model, tokenizer, template=template, timestamps=timestamps)


def outline(folder: Path) -> tuple[Encoder, LanguageModel]:
    """As `load`, without any weights: for planning, where nothing is computed."""
    _check_layers(folder, weights.checkpoint(folder))
    try:
        with quiet(), torch.device("meta"):
            config = AutoConfig.from_pretrained(folder)
            model: Any = AutoModelForImageTextToText.from_config(config)
        if (folder / "generation_config.json").exists():
            model.generation_config = GenerationConfig.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        family = family_of(model)
        preprocess = family.preprocess(folder)
        template = _template(folder)
    except Exception as error:
        raise _unloadable(folder, error) from error
    return Encoder(family, preprocess), LanguageModel(model, tokenizer, template=template)


def _template(folder: Path) -> str | None:
    """The chat template of a checkpoint's processor, which its tokenizer does not know of."""
    path = folder / "chat_template.json"
    if not path.is_file():
        return None
    template: str | None = json.loads(path.read_text()).get("chat_template")
    return template


def _check_layers(folder: Path, config: dict[str, Any]) -> None:
    layer = config.get("vision_feature_layer", -2)
    if not isinstance(layer, int):
        raise ModelError(f"{folder}: several vision feature layers ({layer}) are not supported")


def _unloadable(folder: Path, error: Exception) -> ModelError:
    """The first line of an error from any of four libraries."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ModelError(f"{folder}: the checkpoint cannot be loaded ({line[:300]})")


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        line = (str(error).splitlines() or [""])[0]
        raise ModelError(
            f"device {name!r} cannot be used here ({line[:200]}); choose auto, cpu, cuda or mps",
            code="device",
        ) from None
    return device


def _dtype(name: str, device: torch.device, folder: Path) -> torch.dtype:
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if device.type != "cpu":
        return torch.float16
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return torch.float32 if size < _SMALL_BYTES else torch.bfloat16


def _quantization(bits: str, device: torch.device, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None or device.type != "cuda":
        raise ModelError(
            f"quantize={bits}: needs a CUDA GPU and bitsandbytes "
            "(`pip install 'vzvideo[quantize]'`)",
            code="quantize",
        )
    return BitsAndBytesConfig(
        load_in_4bit=bits == "4bit",
        load_in_8bit=bits == "8bit",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(UNQUANTIZED),
    )
