"""A vision tower, run up to its feature layer, and how much attention each of its patches gets.

Fused attention throughout: only the scoring layer's queries and keys are looked at, through hooks
on that one instance. B pictures, N tokens of the tower (a CLS counted), D channels, K of a key.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from vzvideo import visionzip
from vzvideo.errors import ModelError

# transformers' model types -> their names for users
TOWERS = {
    "clip_vision_model": "CLIP",
    "dinov2": "DINOv2",
    "siglip_vision_model": "SigLIP",
    "internvl_vision": "InternViT",
    "idefics3_vision": "Idefics3",
    "smolvlm_vision": "SmolVLM",
}


class Scored(NamedTuple):
    """Features hidden (B, N, D), scores (B, N) and keys (B, N, K): what `compress` takes."""

    hidden: Tensor
    scores: Tensor
    keys: Tensor


def of_this_thread(hook: Callable[..., None]) -> Callable[..., None]:
    """A hook that passes over what other threads run: they share the module, and all its hooks."""
    caller = threading.get_ident()

    def own(*args: Any) -> None:
        if threading.get_ident() == caller:
            hook(*args)

    return own


@contextmanager
def watch(attention: Any, heads: int, has_cls: bool) -> Iterator[dict[str, Tensor]]:
    """While an attention module runs, notes its "q" (where there is a CLS, its own alone) and "k",
    each (B, heads, N, d)."""
    seen: dict[str, Tensor] = {}

    def note(name: str, tokens: int | None) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
            # One row is copied out, or it would keep all the others alive.
            rows = output if tokens is None else output[:, :tokens].clone()
            seen[name] = rearrange(rows.detach(), "b n (h d) -> b h n d", h=heads)

        return of_this_thread(hook)

    # InternViT normalises behind the projections; its norms are Identity where there are none.
    queries, keys = (
        getattr(attention, f"{name}_norm", None) or getattr(attention, f"{name}_proj")
        for name in "qk"
    )
    # A CLS needs one row of attention, its own; without one every query counts.
    hooks = [
        queries.register_forward_hook(note("q", 1 if has_cls else None)),
        keys.register_forward_hook(note("k", None)),
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


class Tower:
    """A vision tower up to one layer.

    Args:
        module: a CLIP, DINOv2, SigLIP, InternViT, Idefics3 or SmolVLM vision model.
        feature_layer: index into its hidden states, as transformers' `vision_feature_layer`; layers
            behind it are never run. None: its whole forward, a norm at the end included.

    Raises ModelError for another module, or a layer that it does not have.
    """

    def __init__(self, module: nn.Module, feature_layer: int | None = -2) -> None:
        config: Any = getattr(module, "config", None)
        if getattr(config, "model_type", None) not in TOWERS:
            raise ModelError(
                f"vision tower {type(module).__name__} is not known here: "
                f"{', '.join(TOWERS.values())} towers are"
            )
        self.module: Any = module
        encoder: Any = module.encoder
        layers = getattr(encoder, "layers", None) or encoder.layer
        states = len(layers) + 1
        self.whole = feature_layer is None
        layer = -1 if feature_layer is None else feature_layer
        depth = layer if layer >= 0 else states + layer
        if not 1 <= depth < states:
            raise ModelError(
                f"feature layer {layer}: the tower has {len(layers)} layers; "
                f"{-len(layers)}..-1 or 1..{len(layers)} are allowed"
            )
        self.embed: Any = module.embeddings
        self.norm = getattr(module, "pre_layrnorm", nn.Identity())  # CLIP's spelling
        self.layers = layers[:depth]
        self.heads = int(config.num_attention_heads)
        self.has_cls = hasattr(self.embed, "class_embedding") or hasattr(self.embed, "cls_token")
        self.width = int(config.hidden_size)
        patch = config.patch_size
        self.patch = int(patch[0] if isinstance(patch, list | tuple) else patch)

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    def hidden(self, inputs: Tensor, **options: Any) -> Tensor:
        """Preprocessed (B, 3, H, W) -> features (B, N, D), nothing scored.

        options: what else the tower's forward takes, where it is run whole.
        """
        if self.device.type != "meta":  # else accelerate has put the weights aside, and moves all
            inputs = inputs.to(self.device)
        inputs = inputs.to(self.dtype)
        if self.whole:
            features: Tensor = self.module(pixel_values=inputs, **options).last_hidden_state
            return features
        state = self.norm(self.embed(inputs))
        for layer in self.layers:
            state = layer(state, None)
        return state

    def score(self, inputs: Tensor, **options: Any) -> Scored:
        """Preprocessed (B, 3, H, W) -> features with the scores and keys to compress them by."""
        with self.watch() as seen:
            hidden = self.hidden(inputs, **options)
        return Scored(hidden, self.scores(seen), visionzip.mean_keys(seen["k"]))

    def score_layers(self, inputs: Tensor) -> tuple[Scored, Tensor]:
        """As `score`, and the scores (L, B, N) of every layer that is run."""
        with ExitStack() as watching:
            seen = [watching.enter_context(self.watch(layer)) for layer in self.layers]
            hidden = self.hidden(inputs)
        scores = torch.stack([self.scores(each) for each in seen])
        return Scored(hidden, scores[-1], visionzip.mean_keys(seen[-1]["k"])), scores

    def watch(self, layer: Any = None) -> AbstractContextManager[dict[str, Tensor]]:
        """See `watch`; of the scoring layer, unless another is given."""
        layer = self.layers[-1] if layer is None else layer
        attention = getattr(layer, "self_attn", None) or layer.attention
        return watch(attention, self.heads, self.has_cls)

    @torch.no_grad()
    def scores(self, seen: dict[str, Tensor]) -> Tensor:
        """(B, N) of what was watched: the attention of the CLS, or what each token receives."""
        score = visionzip.cls_attention if self.has_cls else visionzip.attention_received
        return score(seen["q"], seen["k"], seen["q"].shape[-1] ** -0.5)
