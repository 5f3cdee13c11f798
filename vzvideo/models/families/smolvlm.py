"""SmolVLM, SmolVLM2 and Idefics3: s x s patches shuffled into a cell, and one linear layer.

That layer has no bias, so that merging before it and behind it is the same. Frames are pictures;
the text between them says when.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

from vzvideo import visionzip
from vzvideo.models.families.items import Item
from vzvideo.models.families.pictures import PictureFamily, mean_pool
from vzvideo.models.preprocess import Preprocess
from vzvideo.models.tower import Scored

_DEFAULTS = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 1}


class SmolVlm(PictureFamily):
    arguments: ClassVar = {"image": ("pixel_values", "pixel_attention_mask")}
    towers: ClassVar = {"image": "vision_model"}
    merge: ClassVar = "mean"
    shows: ClassVar = "image"
    mark: ClassVar = "<video>"
    template_first: ClassVar = True  # as its processor does for videos, whatever the checkpoint's
    tells_time: ClassVar = True

    def preprocess(self, folder: Path) -> Preprocess:
        config, path = {}, folder / "preprocessor_config.json"
        if path.is_file():
            config = json.loads(path.read_text())
        edge = int(self.core.config.vision_config.image_size)
        video = (config.get("video_sampling") or {}).get("video_size") or config.get("size") or {}
        square = {"height": edge, "width": edge}
        own = Preprocess.from_config({**_DEFAULTS, **config, "size": square, "crop_size": None})
        return replace(own, longest=min(int(video.get("longest_edge") or edge), 4096))

    def template(self, word: str) -> str:
        return DEFAULT_CHAT_TEMPLATE

    def layout(self, word: str, times_s: Sequence[float]) -> str:
        picture = f"<fake_token_around_image><global-img>{word}<fake_token_around_image>"
        frames = "".join(
            f"\nFrame from {int(time_s // 60):02d}:{int(time_s % 60):02d}:{picture}"
            for time_s in times_s
        )
        last = timedelta(seconds=int(times_s[-1]))
        return (
            f"You are provided the following series of {number_in_words(len(times_s))} frames from "
            f"a {last} [H:MM:SS] video.\n{frames}\n\n"
        )

    @property
    def width(self) -> int:
        return int(self.core.config.get_text_config().hidden_size)

    @property
    def pooled(self) -> int:
        return int(self.core.config.scale_factor)

    def feature_layer(self) -> int | None:
        return None

    def shows_cls(self, modality: str) -> bool:
        return True  # there is none

    def features(self, modality: str, hidden: Tensor) -> Tensor:
        connected: Tensor = self.core.connector(hidden)
        return connected

    def pool(self, modality: str, values: Tensor) -> Tensor:
        return mean_pool(values, self.pooled)

    def items(self, modality: str, given: dict[str, Any]) -> list[Item]:
        # Through the model's own method, which knows which of a row's pictures are padding.
        tower = self.tower(modality)
        with tower.watch() as seen:
            out = self.core.get_image_features(**given, return_dict=True)
        features = torch.cat(list(out.pooler_output))
        scores, keys = tower.scores(seen), visionzip.mean_keys(seen["k"])
        values = self.pool(modality, torch.cat([scores[..., None], keys.float()], dim=-1))
        hidden = features.view(*values.shape[:2], -1)
        return self.framed(modality, Scored(hidden, values[..., 0], values[..., 1:]), 1)


_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def number_in_words(number: int) -> str:
    """0..999 999, as the package num2words says it, which the published processor uses."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + (f"-{_ONES[ones]}" if ones else "")
    size, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    whole, rest = divmod(number, size)
    link = " and " if rest < 100 else ", "
    return f"{number_in_words(whole)} {name}" + (link + number_in_words(rest) if rest else "")
