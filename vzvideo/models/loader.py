"""A checkpoint folder into memory: tower and language model on the device and in the precision
that suit them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    VideoLlavaForConditionalGeneration,
)

from vzvideo.errors import ModelError
from vzvideo.models import weights
from vzvideo.models.catalog import CATALOG
from vzvideo.models.encoder import Encoder
from vzvideo.models.language import LanguageModel
from vzvideo.models.preprocess import Preprocess
from vzvideo.models.quiet import quiet

GPU_BYTES = 15 << 30  # a card sold as 16 GB reports a little less
_SMALL_BYTES = 4 << 30
# What quantising leaves alone, as patterns that are matched from a module's full name's beginning:
# the tower is small, and what it keeps decides everything after it.
UNQUANTIZED = (r".*video_tower", r".*image_tower", r".*multi_modal_projector", "lm_head")


def choose_auto(device: str = "auto") -> tuple[str, str]:
    """The model that suits this machine and `device`, and why: (name, reason)."""
    place = _device(device)
    if place.type != "cuda":
        return "mini", "no CUDA GPU here" if device == "auto" else f"on {device}"
    if torch.cuda.get_device_properties(place).total_memory < GPU_BYTES:
        return "mini", "the GPU has less than 16 GB"
    if weights.locate(CATALOG["video-llava-7b"]) is None:
        return "mini", "video-llava-7b is not here; `vzvideo pull video-llava-7b` gets it"
    return "video-llava-7b", "a GPU with 16 GB and its weights are here"


Part = Literal["both", "tower", "language"]


def load(
    folder: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    part: Part = "both",
) -> tuple[Encoder, LanguageModel]:
    """Loads a Video-LLaVA checkpoint folder, old key names included.

    device "auto": CUDA, then Apple's MPS, then the CPU. dtype "auto": float16 on an accelerator; on
    the CPU float32, and bfloat16 for checkpoints above 4 GB. part: which half is to be used; the
    other's weights are let go before anything reaches the device.

    Raises ModelError where files are missing, damaged, or lack weights the model needs.
    """
    config = weights.checkpoint(folder)
    place = _device(device)
    options: dict[str, Any] = {"dtype": _dtype(dtype, place, folder)}
    if quantize:
        options["quantization_config"] = _quantization(quantize, place, options["dtype"])
        options["device_map"] = {"": place}
    layer = _feature_layer(folder, config)
    try:
        preprocess = Preprocess.from_folder(folder)
        with quiet():
            loaded: Any = VideoLlavaForConditionalGeneration.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,  # nothing is ever unpickled
                output_loading_info=True,
                **options,
            )
            model, report = loaded
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
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
    del model.model.image_tower  # a second vision tower, for photographs; video has its own
    encoder = Encoder(model.model.video_tower, preprocess, layer)
    if part != "both":
        del model.model.video_tower
    if not quantize:
        encoder.tower.to("meta" if part == "language" else place)
        model.to("meta" if part == "tower" else place)
    return encoder, LanguageModel(model, tokenizer)


def outline(folder: Path) -> tuple[Encoder, LanguageModel]:
    """As `load`, without any weights: for planning, where nothing is computed."""
    config = weights.checkpoint(folder)
    layer = _feature_layer(folder, config)
    try:
        with quiet(), torch.device("meta"):
            model: Any = VideoLlavaForConditionalGeneration(AutoConfig.from_pretrained(folder))
        if (folder / "generation_config.json").exists():
            model.generation_config = GenerationConfig.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        preprocess = Preprocess.from_folder(folder)
    except Exception as error:
        raise _unloadable(folder, error) from error
    return Encoder(model.model.video_tower, preprocess, layer), LanguageModel(model, tokenizer)


def _feature_layer(folder: Path, config: dict[str, Any]) -> int:
    layer = config.get("vision_feature_layer", -2)
    if not isinstance(layer, int):
        raise ModelError(f"{folder}: several vision feature layers ({layer}) are not supported")
    return layer


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
