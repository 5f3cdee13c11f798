"""Does a model work here, exactly? Its own forward against ours, and questions whose answers are
certain.

For every user to see for himself: pictures and a clip are drawn on the spot, nothing is fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vzvideo.models.encoder import NO_COMPRESSION, Encoder, ZipSettings
from vzvideo.models.language import LanguageModel
from vzvideo.types import FrameBatch

EDGE = 448  # pixels
QUESTION = "What is to be seen?"
# Of a logit's spread over the vocabulary, by precision: what another order of sums makes.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True)
class Exactness:
    """Of one input, the largest difference of a logit and what is allowed."""

    what: str
    largest: float
    allowed: float

    @property
    def holds(self) -> bool:
        return self.largest <= self.allowed


@dataclass(frozen=True)
class Certain:
    """A question with a certain answer; accepted: words of which the answer holds one."""

    question: str
    frames: NDArray[np.uint8]
    accepted: tuple[str, ...]


@dataclass(frozen=True)
class Said:
    """What was said of it, without compression and with it."""

    question: str
    accepted: tuple[str, ...]
    whole: str
    compressed: str

    def right(self, answer: str) -> bool:
        words = "".join(c if c.isalnum() else " " for c in answer.lower()).split()
        return any(word in words for word in self.accepted)


@torch.inference_mode()
def exactness(encoder: Encoder, language: LanguageModel) -> list[Exactness]:
    """Three pictures and a clip, uncompressed: our logits against the model's own from pixels."""
    inputs = {"a red square": square(), "three discs": discs(), "a word": word(), "a clip": clip()}
    return [_compare(encoder, language, what, frames) for what, frames in inputs.items()]


def answers(encoder: Encoder, language: LanguageModel, settings: ZipSettings) -> list[Said]:
    """Four questions, whole and compressed."""
    said = []
    for each in certain():
        texts = []
        for how in (NO_COMPRESSION, settings):
            prefix = language.prefill(encoder.encode(_batch(each.frames), how))
            texts.append(language.answer(prefix, each.question, max_new_tokens=24))
        said.append(Said(each.question, each.accepted, *texts))
    return said


def _compare(
    encoder: Encoder, language: LanguageModel, what: str, frames: NDArray[np.uint8]
) -> Exactness:
    batch, family, model = _batch(frames), encoder.family, language.model
    if family.newline and family.shows == "image":
        return _compare_tiles(encoder, language, what, frames)
    tokens = encoder.encode(batch, NO_COMPRESSION)
    prefix = language.prefill(tokens)
    ids = language.prompt_ids(prefix, QUESTION)
    pixels = encoder.preprocess(torch.from_numpy(batch.pixels), encoder.device)
    pixels = pixels.to(encoder.dtype)
    own = model(input_ids=ids, **family.clip_arguments(pixels, ids, tokens.pts_s.tolist()))
    ours = model(input_ids=ids, **language.handed(tokens, prefix, ids))
    return _difference(what, ours.logits[0, -1], own.logits[0, -1])


def _compare_tiles(
    encoder: Encoder, language: LanguageModel, what: str, frames: NDArray[np.uint8]
) -> Exactness:
    """A model that is shown pictures in tiles: two of each, one above the other."""
    family, model = encoder.family, language.model
    pixels = encoder.preprocess(torch.from_numpy(frames[:1]), encoder.device).to(encoder.dtype)
    edge = pixels.shape[-1]
    given: dict[str, Any] = {
        "pixel_values": pixels.expand(3, -1, -1, -1)[None],
        "image_sizes": torch.tensor([[2 * edge, edge]], device=pixels.device),
    }
    kept = family.see("image", given, None)
    before, after = language.prompts.opening(QUESTION)
    row = [*before, *[language.video_token] * kept[0].size, *after]
    given["input_ids"] = torch.tensor([row], device=language.device)
    ours = model(**family.tell(given, {"image": kept})).logits[0, -1]
    return _difference(what, ours, model(**given).logits[0, -1])


def _difference(what: str, ours: torch.Tensor, own: torch.Tensor) -> Exactness:
    allowed = TOLERANCE[own.dtype] * float(own.float().std())
    return Exactness(what, float((ours.float() - own.float()).abs().max()), allowed)


# -- what is drawn


def square() -> NDArray[np.uint8]:
    """A red square, in one frame (1, EDGE, EDGE, 3)."""
    picture, draw = _paper()
    draw.rectangle((120, 120, 328, 328), fill=(220, 20, 20))
    return np.array(picture)[None]


def discs() -> NDArray[np.uint8]:
    """Three black discs."""
    picture, draw = _paper()
    for x in (84, 224, 364):
        draw.ellipse((x - 50, 174, x + 50, 274), fill=(0, 0, 0))
    return np.array(picture)[None]


def word() -> NDArray[np.uint8]:
    """The word STOP, printed."""
    picture, draw = _paper()
    draw.text((224, 224), "STOP", fill=(0, 0, 0), anchor="mm", font_size=140)
    return np.array(picture)[None]


def clip() -> NDArray[np.uint8]:
    """Four frames: all red, then all blue."""
    colours = [(220, 20, 20)] * 2 + [(20, 20, 220)] * 2
    return np.stack([np.full((EDGE, EDGE, 3), colour, np.uint8) for colour in colours])


def certain() -> list[Certain]:
    """Four questions."""
    first = "Which colour comes first, red or blue? Answer with one word."
    return [
        Certain("What colour is the square? Answer with one word.", square(), ("red",)),
        Certain("How many discs are there? Answer with one word.", discs(), ("three", "3")),
        Certain(first, clip(), ("red",)),
        Certain("Which word is printed? Answer with that word.", word(), ("stop",)),
    ]


def _paper() -> tuple[Image.Image, Any]:
    picture = Image.new("RGB", (EDGE, EDGE), (255, 255, 255))
    return picture, ImageDraw.Draw(picture)


def _batch(frames: NDArray[np.uint8]) -> FrameBatch:
    return FrameBatch(frames, np.arange(len(frames), dtype=np.float64), "drawn")
