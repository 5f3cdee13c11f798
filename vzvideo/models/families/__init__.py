"""One class for each family of vision-language models. Knows no torch until one is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vzvideo.errors import ModelError

if TYPE_CHECKING:
    from vzvideo.models.families.base import Family

# transformers' model type -> module and class
FAMILIES = {
    "llava": ("llava", "Llava"),
    "video_llava": ("video_llava", "VideoLlava"),
    "llava_next": ("llava_next", "LlavaNext"),
    "llava_next_video": ("llava_next_video", "LlavaNextVideo"),
    "llava_onevision": ("llava_onevision", "LlavaOnevision"),
    "smolvlm": ("smolvlm", "SmolVlm"),
    "idefics3": ("smolvlm", "SmolVlm"),
    "internvl": ("internvl", "InternVl"),
    "qwen2_5_vl": ("qwen2_5_vl", "Qwen25Vl"),
    "qwen3_vl": ("qwen3_vl", "Qwen3Vl"),
}


def family_class(model_type: str | None) -> type[Family]:
    """The class of a model type; ModelError with the list where there is none."""
    if model_type not in FAMILIES:
        raise ModelError(
            f"a model of type {model_type!r} is not known here; those of type "
            f"{', '.join(FAMILIES)} are",
            code="family",
        )
    module, name = FAMILIES[model_type]
    found: type[Family] = getattr(import_module(f"vzvideo.models.families.{module}"), name)
    return found


def family_of(model: Any) -> Family:
    """The family of a transformers model with a head, bound to it."""
    return family_class(model.config.model_type)(model.model)
