"""How a model is told of a clip: token ids up to its last placeholder.

A *run* is what placeholders without a word between them show: a frame, or the whole clip. Knows no
weights: what is read is an unread `Prefix`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerBase

from vzvideo.errors import ModelError
from vzvideo.models.families.base import Family
from vzvideo.models.prefix import Prefix, common_prefix_length
from vzvideo.models.prompts import Prompts
from vzvideo.types import VisualTokens
from vzvideo.words import format_time


class ClipPrompt:
    """Prompts of one model that show a clip of visual tokens."""

    def __init__(
        self,
        family: Family,
        tokenizer: PreTrainedTokenizerBase,
        template: str | None = None,
        timestamps: bool = False,
    ) -> None:
        """See `LanguageModel`."""
        self._family = family
        self._timestamps = timestamps and not family.tells_time
        self.token = family.token_id(family.shows)
        self.prompts = self._prompts(tokenizer, template)

    def _prompts(self, tokenizer: Any, template: str | None) -> Prompts:
        """The checkpoint's own form where it can show a video, else the family's published one."""
        family = self._family
        own = None if family.template_first else template or tokenizer.chat_template
        word = tokenizer.convert_ids_to_tokens(self.token)
        for form in filter(None, (own, family.template(word))):
            prompts = Prompts(
                tokenizer,
                self.token,
                template=form,
                kind=family.kind,
                mark=family.mark,
                visual=family.layout(word, [0.0]),
            )
            with suppress(ModelError, TemplateError):
                prompts.opening("?")
                return prompts
        return prompts

    @property
    def frame_text(self) -> int:
        """Tokens of text that each frame takes beside its visual tokens."""
        one, two = (len(self.reading([1] * n, [0.0] * n)) for n in (2, 3))
        return two - one - 1

    def unread(self, tokens: VisualTokens, cache: DynamicCache, device: torch.device) -> Prefix:
        """What is to be read of a video, with nothing read yet; cache: an empty one."""
        counts, times_s = self.runs(tokens)
        if not self._family.has_positions:
            newline = self._family.newline
            ids = _row(self.reading([count + newline for count in counts], times_s), device)
            visual = ids[0] == self.token
            ends = torch.tensor([count + newline for count in counts], device=ids.device).cumsum(0)
            if newline:
                visual[visual.nonzero()[ends - 1, 0]] = False
            return Prefix(ids, cache, visual=visual)
        # The prompt as if nothing were compressed, and of it the places of what is kept: text, and
        # run by run the tokens as they come.
        groups, (rows, columns) = self._frame_runs(tokens), tokens.grid
        cells = rows * columns
        whole = _row(self.reading([cells] * len(groups[0]), groups[1]), device)
        positions, ahead = self._family.clip_positions(whole, tokens.grid, groups[1])
        text = (whole[0] != self.token).nonzero()[:, 0]
        slots = (whole[0] == self.token).nonzero()[:, 0]
        run = torch.repeat_interleave(torch.tensor(groups[0])).to(device) * cells
        patch = torch.from_numpy(tokens.patch).to(device, torch.long)
        order = torch.cat([text, slots[run]]).argsort(stable=True)
        at = torch.cat([text, slots[run + patch]])[order]
        gapless = torch.arange(len(at), device=device).view(1, 1, -1)
        return Prefix(
            whole[:, at],
            cache,
            visual=whole[0, at] == self.token,
            positions=torch.cat([gapless, positions[..., at]]),
            ahead=ahead + (whole.shape[1] - len(at)),
        )

    def known(
        self, prefix: Prefix, tokens: VisualTokens, known: tuple[VisualTokens, Prefix] | None
    ) -> tuple[int, int]:
        """Of a video's tokens and of its prefix, how many come first in what is known, too."""
        assert prefix.visual is not None
        several = len(self.runs(tokens)[0]) > 1
        if known is None or (several and self._family.newline):
            return 0, 0
        same = common_prefix_length(known[0].features, tokens.features[:-1])  # one is to be read
        at = prefix.visual.nonzero()[:, 0]
        done = int(at[same])
        for own, other in (
            (prefix.ids, known[1].ids), (prefix.positions, known[1].positions),
        ):  # fmt: skip
            if own is not None and other is not None:
                done = min(done, common_prefix_length(own.flatten(0, -2).T, other.flatten(0, -2).T))
        same = int((at < done).sum())
        return same, done if same else 0

    def runs(self, tokens: VisualTokens) -> tuple[list[int], list[float]]:
        """Tokens of each run of placeholders, and its time."""
        counts, times_s = self._frame_runs(tokens)
        if not self.apart:
            return [sum(counts)], times_s[:1]
        shown = [run for run in zip(counts, times_s, strict=True) if run[0]]
        return [count for count, _ in shown], [time_s for _, time_s in shown]

    def _frame_runs(self, tokens: VisualTokens) -> tuple[list[int], list[float]]:
        """The same frame by frame; where a stream has kept few tokens of a frame, of several."""
        each = np.bincount(tokens.frame, minlength=tokens.frames)
        if "stand_for" not in tokens.settings:
            return each.tolist(), tokens.pts_s.tolist()
        runs: list[tuple[int, float]] = []
        for count, time_s in zip(each.tolist(), tokens.pts_s.tolist(), strict=True):
            if runs and runs[-1][0] + count <= each.max():
                runs[-1] = (runs[-1][0] + count, runs[-1][1])
            else:
                runs.append((count, time_s))
        return [count for count, _ in runs], [time_s for _, time_s in runs]

    @property
    def apart(self) -> bool:
        """Whether each frame has a run of placeholders of its own."""
        return self._timestamps or self._family.layout("x", [0.0, 1.0]).count("x") > 1

    def reading(self, counts: list[int], times_s: list[float]) -> list[int]:
        """Token ids up to the video's last placeholder; counts: placeholders of each run."""
        word = self.prompts.token
        if self._timestamps:
            visual = "\n".join(f"{format_time(at)}: {word}" for at in times_s)
        else:
            visual = self._family.layout(word, times_s)
        ids = self.prompts.up_to_video(visual)
        runs = sum(token == self.token for token in ids)
        left = iter(counts if runs == len(counts) else [sum(counts)])
        return [
            each
            for token in ids
            for each in ([token] * next(left) if token == self.token else [token])
        ]


def _row(ids: list[int], device: torch.device) -> Tensor:
    return torch.tensor([ids], dtype=torch.long, device=device)
