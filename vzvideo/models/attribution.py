"""Which parts of a video an answer rests on, as its model tells: attention, and frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vzvideo.models.language import LanguageModel
from vzvideo.models.prefix import Prefix, cache_argument, copy_cache

_CHUNK = 32  # tokens of an answer whose attention weights are held at a time


def frame_log_likelihoods(
    language: LanguageModel,
    prefix: Prefix,
    question: str,
    answers: list[str],
    covers: NDArray[np.bool_],
) -> list[list[float]]:
    """How likely each frame by itself makes each answer to a first question: mean
    log-probability a token, nats. All the other frames are hidden from question and answer.

    covers: (T, V), which visual token shows which frame; frames that have one count, in order.
        `prefix` stays as it was.
    """
    visible = _frame_masks(language, prefix, covers)
    said = [text for answer in answers for text in [language.token_ids(answer)] * len(visible)]
    seen = language.log_probabilities(prefix, question, said, visible.repeat(len(answers), 1))
    means = [float(each.mean()) for each in seen]
    return [means[at : at + len(visible)] for at in range(0, len(means), len(visible))]


def frame_yes_log_probabilities(
    language: LanguageModel, prefix: Prefix, question: str, covers: NDArray[np.bool_]
) -> list[float] | None:
    """The same of a yes; None where the tokenizer does not tell it from a no."""
    visible = _frame_masks(language, prefix, covers)
    told = language.logits_behind(prefix, question, [[]] * len(visible), visible)
    found = [language.yes_no.log_probability(each[0]) for each in told]
    return None if None in found else [each for each in found if each is not None]


def _frame_masks(language: LanguageModel, prefix: Prefix, covers: NDArray[np.bool_]) -> Tensor:
    """(frames, tokens of `prefix`), 0 for those of all other frames."""
    video = language.visual(prefix)
    shown = torch.from_numpy(covers[covers.any(1)]).to(language.device)
    visible = torch.ones((len(shown), len(video)), dtype=torch.long, device=language.device)
    visible[:, video] = shown.long()
    return visible


@torch.inference_mode()
def attention_to_video(
    language: LanguageModel, prefix: Prefix, question: str, answer: str
) -> Tensor:
    """How strongly `answer` attends to each visual token: (V,) float32, summing to 1.

    Over its tokens, the heads, and the last third of the layers. Of the frames it says little:
    the first and the last draw most, whatever is asked. Reads question and answer once
    more, in plain attention, for the fused kind keeps no weights. `prefix` stays as it was.
    """
    said = language.token_ids(answer)
    with language.using(prefix):
        known, cache = prefix.cache.get_seq_length(), copy_cache(prefix.cache)
        asked = language.prompt_ids(prefix, question)[:, known:]
        ids = torch.cat([asked, torch.tensor([said], dtype=torch.long, device=asked.device)], dim=1)
    video = language.visual(prefix)
    asking = ids.shape[1] - len(said) - 1  # what stands last before a token predicts it
    if asking:
        language.model(input_ids=ids[:, :asking], **cache_argument(cache), logits_to_keep=1)
    heard = torch.zeros(int(video.sum()), device=language.device)
    with _plain_attention(language):
        for part in ids[:, asking:].split(_CHUNK, dim=1):
            layers = language.model(
                input_ids=part,
                **cache_argument(cache),
                logits_to_keep=1,
                output_attentions=True,
            ).attentions
            for weights in layers[-(len(layers) // 3 or 1) :]:  # (1, heads, queries, keys)
                heard += weights[0, ..., : len(video)][..., video].float().sum((0, 1))
    return heard / heard.sum().clamp(min=torch.finfo(heard.dtype).tiny)


@contextmanager
def _plain_attention(language: LanguageModel) -> Iterator[None]:
    model = language.decoder
    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(usual)
