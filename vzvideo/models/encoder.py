"""Frames to visual tokens: a vision tower run up to its feature layer, and VisionZip behind it.

Works with CLIP, DINOv2 and SigLIP towers of transformers, on fused attention throughout: only the
scoring layer's queries and keys are looked at, through hooks on that one instance. Knows nothing of
language models.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from vzvideo import visionzip
from vzvideo.errors import ModelError, SettingsError
from vzvideo.models.preprocess import Preprocess
from vzvideo.types import FrameBatch, Role, VisualTokens


@dataclass(frozen=True)
class ZipSettings:
    """How frames are compressed.

    dominant: tokens kept a frame, the CLS counted; None keeps all (no compression).
    contextual: tokens the rest is merged into.
    merge: see `visionzip.compress`.
    """

    dominant: int | None = 14
    contextual: int = 3
    merge: Literal["reference", "mean"] = "reference"

    def tokens_per_frame(self, tokens: int) -> int:
        """Of a frame's `tokens`, how many come out."""
        if self.dominant is None:
            return tokens
        return self.dominant + min(self.contextual, tokens - self.dominant)


NO_COMPRESSION = ZipSettings(dominant=None, contextual=0)
TOWERS = ("clip_vision_model", "dinov2", "siglip_vision_model")  # transformers' model types


class Scored(NamedTuple):
    """Features hidden (B, N, D), scores (B, N) and keys (B, N, K): what `compress` takes."""

    hidden: Tensor
    scores: Tensor
    keys: Tensor


class Encoder:
    """A vision tower, its preprocessing, and VisionZip.

    Args:
        tower: `CLIPVisionModel`, `Dinov2Model` or `SiglipVisionModel`.
        preprocess: what the tower expects of its pixels.
        feature_layer: index into the tower's hidden states, as Video-LLaVA's
            `vision_feature_layer`; layers behind it are never run.
    """

    def __init__(self, tower: nn.Module, preprocess: Preprocess, feature_layer: int = -2) -> None:
        config: Any = getattr(tower, "config", None)
        if getattr(config, "model_type", None) not in TOWERS:
            raise ModelError(
                f"vision tower {type(tower).__name__} is not known here: "
                "CLIP, DINOv2 and SigLIP towers are"
            )
        encoder: Any = tower.encoder
        layers = encoder.layer if config.model_type == "dinov2" else encoder.layers
        states = len(layers) + 1
        depth = feature_layer if feature_layer >= 0 else states + feature_layer
        if not 1 <= depth < states:
            raise ModelError(
                f"feature layer {feature_layer}: the tower has {len(layers)} layers; "
                f"{-len(layers)}..-1 or 1..{len(layers)} are allowed"
            )
        self.tower = tower.eval()
        self.preprocess = preprocess
        self._embed: Any = tower.embeddings
        self._norm = getattr(tower, "pre_layrnorm", nn.Identity())  # CLIP's spelling
        self._layers = layers[:depth]
        self.heads = int(config.num_attention_heads)
        self.has_cls = hasattr(self._embed, "class_embedding") or hasattr(self._embed, "cls_token")
        patches = preprocess.crop // int(config.patch_size)
        self.grid = (patches, patches)
        self.width = int(config.hidden_size)

    @property
    def tokens(self) -> int:
        """Tokens of an uncompressed frame, the CLS counted."""
        return self.grid[0] * self.grid[1] + self.has_cls

    @property
    def device(self) -> torch.device:
        return next(self.tower.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.tower.parameters()).dtype

    @torch.inference_mode()
    def hidden(self, inputs: Tensor) -> Tensor:
        """Preprocessed (B, 3, H, W) -> features (B, N, D), nothing scored."""
        state = self._norm(self._embed(inputs.to(self.device, self.dtype)))
        for layer in self._layers:
            state = layer(state, None)
        return state

    @torch.inference_mode()
    def score(self, inputs: Tensor) -> Scored:
        """Preprocessed (B, 3, H, W) -> features with the scores and keys to compress them by."""
        with self._watched(self._layers[-1]) as seen:
            hidden = self.hidden(inputs)
        return Scored(hidden, self._scores(seen), visionzip.mean_keys(seen["k"]))

    @torch.inference_mode()
    def score_layers(self, inputs: Tensor) -> tuple[Scored, Tensor]:
        """As `score`, and the scores (L, B, N) of every layer that is run."""
        with ExitStack() as watching:
            seen = [watching.enter_context(self._watched(layer)) for layer in self._layers]
            hidden = self.hidden(inputs)
        scores = torch.stack([self._scores(each) for each in seen])
        return Scored(hidden, scores[-1], visionzip.mean_keys(seen[-1]["k"])), scores

    def _scores(self, seen: dict[str, Tensor]) -> Tensor:
        attention = visionzip.cls_attention if self.has_cls else visionzip.attention_received
        return attention(seen["q"], seen["k"], seen["q"].shape[-1] ** -0.5)

    @contextmanager
    def _watched(self, layer: nn.Module) -> Iterator[dict[str, Tensor]]:
        """While the tower runs, notes the layer's "q" (where there is a CLS, its own alone) and
        "k", each (B, heads, N, d)."""
        seen: dict[str, Tensor] = {}
        caller = threading.get_ident()  # a hook sees every thread that runs the tower
        attention: Any = getattr(layer, "self_attn", None) or layer.attention

        def keep(name: str, tokens: int | None) -> Any:
            def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
                if threading.get_ident() == caller:
                    # One row is copied out, or it would keep all the others alive.
                    rows = output if tokens is None else output[:, :tokens].clone()
                    seen[name] = rearrange(rows, "b n (h d) -> b h n d", h=self.heads)

            return hook

        # A CLS needs one row of attention, its own; without one every query counts.
        queries = attention.q_proj.register_forward_hook(keep("q", 1 if self.has_cls else None))
        keys = attention.k_proj.register_forward_hook(keep("k", None))
        try:
            yield seen
        finally:
            queries.remove()
            keys.remove()

    def encode(self, frames: FrameBatch, settings: ZipSettings | None = None) -> VisualTokens:
        """uint8 frames (T, H, W, 3) -> their tokens, on the tower's device."""
        settings = settings or ZipSettings()
        self.check(settings)
        inputs = self.preprocess(torch.from_numpy(frames.pixels), self.device)
        if settings.dominant is None:
            patch = torch.arange(self.tokens).expand(len(frames), -1)
            return self._pack(frames, self.hidden(inputs), patch, settings)
        return self.compress(frames, self.score(inputs), settings)

    def compress(self, frames: FrameBatch, scored: Scored, settings: ZipSettings) -> VisualTokens:
        """The tokens of frames (T, H, W, 3) that `score` has seen; `settings` with a dominant."""
        assert settings.dominant is not None
        features, patch, _ = visionzip.compress(
            *scored,
            settings.dominant,
            settings.contextual,
            merge=settings.merge,
            has_cls=self.has_cls,
        )
        return self._pack(frames, features, patch, settings)

    def encode_stream(
        self, batches: Iterable[FrameBatch], settings: ZipSettings | None = None
    ) -> Iterator[VisualTokens]:
        """Tokens for each batch of frames as it comes."""
        for batch in batches:
            yield self.encode(batch, settings)

    def check(self, settings: ZipSettings) -> None:
        """Raises SettingsError where a frame of this tower cannot be compressed so."""
        if settings.dominant is None:
            return
        if settings.merge not in ("reference", "mean"):
            raise SettingsError(f'merge={settings.merge!r}: choose "reference" or "mean"')
        dominant, contextual = settings.dominant, settings.contextual
        least = 1 if self.has_cls else 0
        if not least <= dominant <= self.tokens or contextual < 0 or dominant + contextual < 1:
            raise SettingsError(
                f"dominant={dominant}, contextual={contextual}: this tower makes {self.tokens} "
                f"tokens a frame; dominant must be {least}..{self.tokens}, contextual at least 0, "
                "and one token at least must remain"
            )

    def _pack(
        self,
        frames: FrameBatch,
        features: Tensor,
        patch: Tensor,
        settings: ZipSettings,
    ) -> VisualTokens:
        """features (T, M, D) and the token (T, M) each stands for, the CLS counted."""
        count, each = patch.shape
        dominant = each if settings.dominant is None else settings.dominant
        role = np.full((count, each), Role.CONTEXTUAL, np.int8)
        role[:, :dominant] = Role.DOMINANT
        if self.has_cls:
            role[:, 0] = Role.CLS
        return VisualTokens(
            features=features.flatten(0, 1),
            frame=np.repeat(np.arange(count, dtype=np.int32), each),
            role=role.reshape(-1),
            patch=(patch.cpu().numpy() - self.has_cls).astype(np.int32).reshape(-1),
            pts_s=frames.pts_s,
            grid=self.grid,
            source=frames.source,
            settings=asdict(settings),
        )


def join(parts: list[VisualTokens]) -> VisualTokens:
    """Consecutive parts of one video as one."""
    first = np.cumsum([0, *(part.frames for part in parts[:-1])])
    return replace(
        parts[0],
        features=torch.cat([part.features for part in parts]),
        frame=np.concatenate([p.frame + np.int32(n) for p, n in zip(parts, first, strict=True)]),
        role=np.concatenate([part.role for part in parts]),
        patch=np.concatenate([part.patch for part in parts]),
        pts_s=np.concatenate([part.pts_s for part in parts]),
    )
