"""The paper's question: does a 13B with VisionZip start to answer sooner than a 7B without?

The language models of LLaVA-NeXT, Vicuna 7B and 13B, with random weights, read as many visual
tokens as an image makes there: 2880, and the 640, 320 and 160 that VisionZip keeps (paper,
section 4). Embeddings are random, and there is no text beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from vzvideo.bench import models
from vzvideo.bench.measure import (
    Numbers,
    error_line,
    peak_bytes_by_size,
    peaks_in_child,
    ratio,
    runnable,
    spread,
    time_alternating,
)
from vzvideo.bench.models import Setup, random_dtype

WHOLE = 2880
TOKENS = (WHOLE, 640, 320, 160)
QUICK_TOKENS = (WHOLE, 160)
SHAPES: dict[str, dict[str, Any]] = {
    "vicuna-7b": {
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_attention_heads": 32,
    },
    "vicuna-13b": {
        "num_hidden_layers": 40,
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_attention_heads": 40,
    },
}
BASE = "vicuna-7b"  # what the others are compared with, where it reads everything


def measure(setup: Setup) -> Numbers:
    counts = QUICK_TOKENS if setup.quick else TOKENS
    memory = {name: peaks_in_child(_memory, setup, name, sorted(counts)) for name in SHAPES}
    found: Numbers = {"dtype": str(random_dtype(setup)).removeprefix("torch."), "models": []}
    variants: dict[str, Callable[[], Any]] = {}
    whose: dict[str, tuple[str, int]] = {}
    for name in SHAPES:
        try:
            model = make(setup, name)
        except Exception as error:  # both at once need 40 GB
            found["models"].append({"model": name, "error": error_line(error)})
            continue
        weight_bytes = sum(w.numel() * w.element_size() for w in model.parameters())
        layers = model.config.num_hidden_layers
        found["models"].append({"model": name, "layers": layers, "weight_bytes": weight_bytes})
        for count in counts:
            key = f"{name}, {count}"
            variants[key], whose[key] = partial(read, model, count), (name, count)
    variants, errors = runnable(variants)
    taken = time_alternating(variants, setup.repeats) if variants else {}
    found["cells"] = []
    for key, (name, count) in whose.items():
        cell: Numbers = {"model": name, "tokens": count, "whole": count == WHOLE}
        if key in taken:
            cell["prefill_s"] = spread(taken[key])
            if (base := f"{BASE}, {WHOLE}") in taken:
                cell[f"time_to_{BASE}_whole"] = ratio(taken[key], taken[base])
        else:
            cell |= errors[key]
        grown = memory[name][count]
        cell["peak_bytes"] = {"error": grown} if isinstance(grown, str) else spread([grown])
        found["cells"].append(cell)
    return found


def make(setup: Setup, name: str) -> Any:
    """A Vicuna of that shape and of random weights, made on its device."""
    config = LlamaConfig(
        vocab_size=32000, max_position_embeddings=4096, rms_norm_eps=1e-5, **SHAPES[name]
    )
    config.num_hidden_layers = setup.layers or config.num_hidden_layers
    return models.make(setup, AutoModelForCausalLM, config)


@torch.inference_mode()
def read(model: Any, count: int) -> Any:
    """Prefill of `count` embeddings: keys and values of all, scores after the last."""
    embeddings = torch.randn(
        1, count, model.config.hidden_size, device=model.device, dtype=model.dtype
    )
    return model(inputs_embeds=embeddings, use_cache=True, logits_to_keep=1)


def _memory(setup: Setup, name: str, counts: Sequence[int]) -> dict[int, int | str]:
    """Peak growth in bytes by tokens read, once everything has been used."""
    model = make(setup, name)
    read(model, 1)
    return peak_bytes_by_size(partial(read, model), counts)
