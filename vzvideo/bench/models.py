"""What is measured: a model by name, or one of a published shape with random weights, and frames
of noise for it.

Random weights take the same time as trained ones, and need no download.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    LlamaConfig,
    PreTrainedTokenizerFast,
    VideoLlavaConfig,
)

from vzvideo.models import loader
from vzvideo.models.encoder import Encoder
from vzvideo.models.language import LanguageModel
from vzvideo.models.preprocess import Preprocess
from vzvideo.types import FrameBatch

SEED = 0
FEATURE_LAYER = -2  # of Video-LLaVA, and of mini


@dataclass(frozen=True)
class Setup:
    """What to measure, and how thoroughly.

    model: checkpoint folder; name: what it is called. geometry: in its place a published shape,
    with `layers` layers of tower and language model where a few will do for a trial;
    `shared_layers`: the language model's read the weights of one (see `make`). scratch: for clips
    made here. video: for the end-to-end parts, in place of a made clip. compiled: the encoder
    through torch.compile, too. quick: smaller and fewer of all; brief: of
    these the least, and no memory, which is measured in fresh processes that take long to start.
    """

    model: str = ""
    name: str = ""
    device: str = "cpu"
    geometry: str | None = None
    layers: int | None = None
    shared_layers: bool = False
    repeats: int = 7
    quick: bool = False
    brief: bool = False
    compiled: bool = False
    scratch: Path = Path(".cache/benchmark")
    video: Path | None = None


def load(setup: Setup) -> tuple[Encoder, LanguageModel]:
    """The model asked for; with a geometry, one of random weights, made on its device."""
    if not setup.geometry:
        return loader.load(Path(setup.model), device=setup.device)
    # As published; the tower is the configuration's own default, ViT-L/14 at 224 pixels.
    text = LlamaConfig(vocab_size=32064, max_position_embeddings=4096, rms_norm_eps=1e-5)
    config: Any = VideoLlavaConfig(text_config=text.to_dict())
    if setup.layers:
        config.text_config.num_hidden_layers = setup.layers
        # One layer more than is run, for the feature layer is the last but one.
        config.vision_config.num_hidden_layers = max(2, setup.layers)
    model = make(setup, AutoModelForImageTextToText, config)
    del model.model.image_tower
    tokenizer = wordless({"<unk>": 0, "<s>": 1, "</s>": 2, "<image>": 32000, "<video>": 32001})
    encoder = Encoder(model.model.video_tower, Preprocess(), FEATURE_LAYER)
    return encoder, LanguageModel(model, tokenizer)


def make(setup: Setup, auto: Any, config: Any, dtype: torch.dtype | None = None) -> Any:
    """A model of `config` and random weights, of the transformers class `auto`, on its device;
    dtype: the 16 bits that this is quick with, unless told."""

    def new(where: str) -> Any:
        with torch.device(where):
            return auto.from_config(config, dtype=dtype or random_dtype(setup))

    torch.manual_seed(SEED)
    if not setup.shared_layers:
        return new(setup.device).eval()
    # Every layer is there, and reads the weights of the first: the same work in a fraction of the
    # memory and, as a layer of the 7B takes 0.4 GB, hardly less to fetch.
    shells = new("meta")
    config = copy.deepcopy(config)
    count = config.get_text_config().num_hidden_layers
    config.get_text_config().num_hidden_layers = 1
    model = new(setup.device)
    decoder = model.get_decoder()
    for shell in shells.get_decoder().layers[1:]:
        shell.load_state_dict(decoder.layers[0].state_dict(), assign=True)
        decoder.layers.append(shell)
    model.config.get_text_config().num_hidden_layers = decoder.config.num_hidden_layers = count
    return model.eval()


def wordless(ids: dict[str, int]) -> PreTrainedTokenizerFast:
    """A tokenizer for a model of random weights: of all words it knows the special ones."""
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=words, additional_special_tokens=["<image>", "<video>"], **special
    )


def random_dtype(setup: Setup) -> torch.dtype:
    """Of random weights: the 16 bits that the device is quick with."""
    return torch.float16 if setup.device.startswith("cuda") else torch.bfloat16


def noise(encoder: Encoder, count: int) -> FrameBatch:
    """Frames as a decoder gives them: wide, and of twice the size that the tower sees."""
    edge = 2 * encoder.preprocess.size
    shape = (count, edge, edge * 16 // 9, 3)
    pixels = np.random.default_rng(SEED).integers(0, 256, shape, np.uint8)
    return FrameBatch(pixels, np.arange(count, dtype=np.float64))


def prepared_noise(encoder: Encoder, count: int) -> Tensor:
    return encoder.preprocess(torch.from_numpy(noise(encoder, count).pixels), encoder.device)
