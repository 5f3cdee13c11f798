"""Questions and answers of videos, packed for training: all about a video share one sequence.

They share the video, and a block mask keeps each from seeing the others, so that the video is paid
for once. Knows no model, only how it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from vzvideo.models.language import LanguageModel


@dataclass(frozen=True)
class Packed:
    """A batch of videos, each with several questions and answers behind it; S is the longest.

    ids (B, S); positions (B, S); mask bool (B, 1, S, S), True where attention is allowed;
    row, source, target (A,): the hidden state that predicts each answer token, and that token;
    weight (A,): how much it counts; answer (A,): the number of the answer it belongs to.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    row: Tensor
    source: Tensor
    target: Tensor
    weight: Tensor
    answer: Tensor

    def to(self, device: torch.device) -> Packed:
        """The same on another device."""
        return Packed(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


class Packer:
    """Questions and answers -> `Packed`, in the chat form that the model is asked in."""

    def __init__(
        self,
        opening: Callable[[str], tuple[list[int], list[int]]],
        tokenizer: Any,
        video_token: int,
        end: int,
    ) -> None:
        """opening: a question -> token ids before and after the video. end: ends an answer."""
        self._opening = opening
        self._tokenizer = tokenizer
        self._video, self._end = video_token, end

    def length(self, question: str, answer: str) -> int:
        """Tokens that a question and its answer take behind the video."""
        _, after, said = self._branch(question, answer)
        return len(after) + len(said) - 1

    def _branch(self, question: str, answer: str) -> tuple[list[int], list[int], list[int]]:
        """Token ids before the video, after it, and of the answer with its end."""
        before, after = self._opening(question)
        ids: list[int] = self._tokenizer(answer, add_special_tokens=False).input_ids
        return before, after, [*ids, self._end]

    def __call__(
        self,
        items: Sequence[Sequence[tuple[str, str]]],
        visual: int | Sequence[int],
        *,
        decisive: float = 1.0,
    ) -> Packed:
        """items: of each video its (question, answer) pairs; visual: video tokens of each video,
            one number where all have as many.

        decisive: how much each token of an answer of up to five counts, its end apart: such an
            answer is decided by one of them, and long answers would drown it.
        """
        rows = []
        counts = [visual] * len(items) if isinstance(visual, int) else visual
        for pairs, count in zip(items, counts, strict=True):
            before: list[int] = []
            branches = []
            for question, answer in pairs:
                before, after, said = self._branch(question, answer)
                branches.append((after, said))
            rows.append(([*before, *[self._video] * count], branches))
        shape = (
            len(rows),
            max(len(p) + sum(len(q) + len(a) - 1 for q, a in branches) for p, branches in rows),
        )
        ids, positions = torch.full(shape, self._end), torch.zeros(shape, dtype=torch.long)
        branch = torch.full(shape, -1)  # -1 padding, 0 the video, 1.. questions
        row: list[int] = []
        source: list[int] = []
        target: list[int] = []
        weight: list[float] = []
        number: list[int] = []
        answers = 0
        for b, (prompt, branches) in enumerate(rows):
            at = len(prompt)
            ids[b, :at], positions[b, :at] = torch.tensor(prompt), torch.arange(at)
            branch[b, :at] = 0
            for n, (asked, said) in enumerate(branches, start=1):
                text = asked + said[:-1]  # the last token is only ever a target
                span = slice(at, at + len(text))
                ids[b, span] = torch.tensor(text)
                positions[b, span] = torch.arange(len(prompt), len(prompt) + len(text))
                branch[b, span] = n
                row += [b] * len(said)
                source += range(span.start + len(asked) - 1, span.stop)
                target += said
                weight += [decisive if len(said) <= 6 else 1.0] * (len(said) - 1) + [1.0]
                number += [answers] * len(said)
                answers += 1
                at = span.stop
        order = torch.arange(shape[1])
        causal = order[:, None] >= order[None, :]
        same = branch[:, :, None] == branch[:, None, :]
        mask = causal & (same | (branch == 0)[:, None, :])
        return Packed(
            ids,
            positions,
            mask.unsqueeze(1),
            *(torch.tensor(part) for part in (row, source, target, weight, number)),
        )


def packer_for(language: LanguageModel) -> Packer:
    """Packs as `language` asks."""
    return Packer(language.prompts.opening, language.tokenizer, language.video_token, language.end)


def answer_losses(losses: Tensor, batch: Packed) -> Tensor:
    """Token losses (A,) -> the mean loss of each answer, nats a token (answers,)."""
    count = int(batch.answer.max()) + 1
    total = torch.zeros(count, device=losses.device).index_add(0, batch.answer, losses)
    tokens = torch.bincount(batch.answer, minlength=count)
    return total / tokens
