"""A connector that speaks in words: taught by bags of words, without running a language model.

The mean of a picture's projected tokens should score the words that are said of it highest, by
their embeddings. It costs a hundredth of what the language model takes to ask for the same, so that
every picture can be shown many times; the language model then finds words it knows.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.mini.data import Example
from pipelines.mini.features import Features
from pipelines.mini.trainer import Connector

BUDGET = 9  # tokens a picture, whatever the language model is shown
PICTURES = 256  # a batch


class Bags:
    """What is said of each example, as a distribution over words; rare words count more."""

    def __init__(
        self, examples: Sequence[Example], tokenizer: Any, words: Tensor, like: Bags | None = None
    ) -> None:
        """words: the token embeddings (vocabulary, width). like: whose vocabulary to share."""
        self.examples = examples
        counts = [_tokens(example, tokenizer) for example in examples]
        spread = Counter(token for count in counts for token in count)
        known = sorted(t for t, n in spread.items() if 3 <= n < max(len(counts) // 5, 4))
        rarity = torch.tensor([len(counts) / spread[token] for token in known]).log()
        self._column: dict[int, int] = (
            like._column if like else {token: at for at, token in enumerate(known)}
        )
        self._table: Tensor = like._table if like else words[known].detach().float().cpu()
        self._weight: Tensor = like._weight if like else rarity
        self._bags = [
            {self._column[token]: n for token, n in count.items() if token in self._column}
            for count in counts
        ]
        self.usable = [number for number, bag in enumerate(self._bags) if bag]

    def loss(
        self, connector: Connector, features: Features, numbers: Sequence[int],
        budget: int = BUDGET,
    ) -> Tensor:  # fmt: skip
        """Cross-entropy of the words of these examples, nats; one frame of each is shown."""
        views = [self.examples[n].views[len(self.examples[n].rows) // 2] for n in numbers]
        tokens = features.compressed(views, budget).to(connector.mean.device)
        targets = torch.zeros(len(numbers), len(self._table))
        for row, number in enumerate(numbers):
            places = torch.tensor(list(self._bags[number]))
            weight = self._weight[places] * torch.tensor(list(self._bags[number].values()))
            targets[row, places] = weight / weight.sum()
        scores = connector(tokens).mean(1) @ self._table.T.to(tokens.device)
        return F.cross_entropy(scores, targets.to(tokens.device))


def _tokens(example: Example, tokenizer: Any) -> Counter[int]:
    """How often each token is said of it; a word as it stands within a sentence."""
    texts = [*example.captions, *example.labels]
    # One caption by who looked weighs as much as several.
    texts += [example.written] * 3 if example.written else []
    texts += [answer for _, answer in example.qa if answer not in ("Yes.", "No.")]
    ids = tokenizer([" " + text for text in texts]).input_ids if texts else []
    return Counter(token for each in ids for token in set(each))


def warm_up(
    connector: Connector, features: Features, bags: Bags, dev: Bags | None, epochs: int,
    rng: random.Random, *, budget: int = BUDGET, rate: float = 1e-3,
) -> None:  # fmt: skip
    """Some epochs of this alone, before any language model is run."""
    optimizer = torch.optim.AdamW(connector.parameters(), lr=rate, weight_decay=0.01)
    for epoch in range(epochs):
        order = rng.sample(bags.usable, len(bags.usable))
        size = max(1, min(PICTURES // 4, len(order)))
        losses = []
        for start in range(0, len(order) - size + 1, size):
            loss = bags.loss(connector, features, order[start : start + size], budget)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        told = f"warm-up {epoch + 1}/{epochs}: loss {sum(losses) / max(len(losses), 1):.3f}"
        if dev and dev.usable:
            with torch.no_grad():
                told += f", dev {dev.loss(connector, features, dev.usable, budget).item():.3f}"
        print(told, flush=True)
