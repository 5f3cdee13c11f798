"""What a model has read, as keys and values that further questions build upon."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM

from vzvideo.errors import ModelError


@dataclass
class Prefix:
    """What the model has read so far: a video, and the conversation about it if there is one.

    ids: (1, S) on the model's device. cache: keys and values of the first tokens of `ids`.
    asked: questions it holds already. busy: an answer is being generated from it.
    visual: (S,) bool, where the video's tokens are, of the first tokens of `ids`.
    positions: (4, 1, S) of the video's tokens, where they do not count from 0; ahead: by how much
        what follows is ahead of its place then, (1, 1).
    """

    ids: Tensor
    cache: DynamicCache
    asked: int = 0
    busy: bool = False
    visual: Tensor | None = None
    positions: Tensor | None = None
    ahead: Tensor | None = None

    @property
    def length(self) -> int:
        return int(self.ids.shape[1])

    def crop(self, length: int) -> None:
        """Forgets what the cache holds behind its first `length` tokens."""
        layer: Any
        for layer in self.cache.layers:
            # Each by itself: a forward that failed half way has left them of different lengths.
            layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Refuses a second use while one goes on: both would write into the same cache."""
        if self.busy:
            raise ModelError(
                "an earlier answer from the same video is still being generated: finish or close "
                "it first, or use a chat for each",
                code="busy",
            )
        self.busy = True
        try:
            yield
        finally:
            self.busy = False


# transformers 5.24 calls it otherwise, and warns of the old name.
_ARGUMENT = (
    "cache" if "cache" in signature(LlamaForCausalLM.forward).parameters else "past_key_values"
)


def cache_argument(cache: DynamicCache) -> dict[str, DynamicCache]:
    """The cache as a keyword argument of `forward` and `generate`."""
    return {_ARGUMENT: cache}


def copy_cache(cache: DynamicCache, rows: int = 1, length: int | None = None) -> DynamicCache:
    """A cache of its own for each of `rows` rows, filled with what `cache` (one row) holds, or with
    the first `length` tokens of that."""
    copied = DynamicCache()
    layer: Any
    for number, layer in enumerate(cache.layers):
        keys, values = layer.keys[..., :length, :], layer.values[..., :length, :]
        copied.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), number)
    return copied


def common_prefix_length(one: Tensor, other: Tensor) -> int:
    """How many rows (N, D) two tensors have in common at their beginning."""
    count = min(len(one), len(other))
    differ = (one[:count] != other[:count]).any(dim=1).nonzero()
    return int(differ[0]) if len(differ) else count
