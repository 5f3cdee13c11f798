"""How answers are generated: what `generate` is told, and its text piece by piece while it works.

Knows neither video nor prompt.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import TextStreamer

Say = Callable[[str], None]
Generate = Callable[[Say, StoppingCriteriaList], None]


@dataclass(frozen=True)
class Generation:
    """max_new_tokens: at most. temperature: 0 takes the likeliest word. num_beams: beginnings that
    are followed at once."""

    max_new_tokens: int
    temperature: float
    num_beams: int

    def arguments(self, room: int) -> dict[str, Any]:
        """For transformers' `generate`, where the window has room for so many tokens."""
        told: dict[str, Any] = {
            "max_new_tokens": min(self.max_new_tokens, room),
            "num_beams": self.num_beams,
        }
        if self.temperature > 0:
            told |= {"do_sample": True, "temperature": self.temperature}
        else:
            told |= {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if self.num_beams > 1:  # else a model's folder may say that beams mean something else
            told |= {"length_penalty": 1.0, "early_stopping": False}
        return told


class TextPieces(TextStreamer):
    """For `generate`: says each finished piece of text, the prompt left out."""

    def __init__(self, tokenizer: Any, say: Say) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._say = say

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._say(text)


class _Stop(StoppingCriteria):
    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        return torch.full((len(input_ids),), self._stop.is_set(), device=input_ids.device)


def stream_text(generate: Generate) -> Generator[str]:
    """What `generate` says, while it works in a thread of its own; its error is raised here.

    It is told to stop where the caller leaves early, and has ended when this has.
    """
    stop = threading.Event()
    pieces: SimpleQueue[str | BaseException | None] = SimpleQueue()

    def work() -> None:
        try:
            generate(pieces.put, StoppingCriteriaList([_Stop(stop)]))
            pieces.put(None)
        except BaseException as error:
            pieces.put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (piece := pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        stop.set()
        thread.join()
