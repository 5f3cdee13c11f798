"""Visual tokens and words in, words out: a vision-language model over a compressed video.

One class for every family: transformers' own model, with the tokens handed over as ready features.
The key-value cache of the video prefix is kept, so that many questions, or a
conversation, pay for the video once. Knows nothing of frames or files.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)

from vzvideo.errors import BudgetError, ModelError, VzVideoError
from vzvideo.models.clip_prompt import ClipPrompt
from vzvideo.models.families import family_of
from vzvideo.models.generation import Generation, Say, TextPieces, stream_text
from vzvideo.models.prefix import Prefix, cache_argument, copy_cache
from vzvideo.models.yes_no import YesNo, yes_or_no
from vzvideo.types import VisualTokens

SHORTEST_ANSWER = 16  # tokens; with less room left, a question is refused instead of cut short
# Tokens of video that a batch of questions may hold in copies; one question may hold more.
_BATCH_TOKENS = 8192


class LanguageModel:
    """A language model that has learned to read visual tokens. Not for several threads at once."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        template: str | None = None,
        timestamps: bool = False,
    ) -> None:
        """template: the checkpoint's chat template, where its tokenizer does not bring it.
        timestamps: tell the model of each frame when it is, in words, where it is not told so."""
        self.model: Any = model.eval()
        self.tokenizer: Any = tokenizer
        self.family = family_of(model)
        config: Any = model.config
        self.clips = ClipPrompt(self.family, tokenizer, template, timestamps)
        self.prompts, self.video_token = self.clips.prompts, self.clips.token
        self.width = self.family.width
        self.window = int(config.get_text_config().max_position_embeddings)
        ends = model.generation_config.eos_token_id
        ends = tokenizer.eos_token_id if ends is None else ends
        self.ends = set(ends if isinstance(ends, list) else [ends])
        end = tokenizer.eos_token_id
        self.end = int(end if end in self.ends else min(self.ends))
        pad = tokenizer.pad_token_id
        self.pad = int(min(self.ends) if pad is None else pad)
        self.yes_no = YesNo(tokenizer, *getattr(config, "yes_no", ()))  # as `mini_build` has it

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    @property
    def decoder(self) -> Any:
        """The text model alone."""
        return self.model.get_decoder()

    @property
    def frame_text(self) -> int:
        """Tokens of text that each frame takes beside its visual tokens."""
        return self.clips.frame_text

    # -- reading

    @torch.inference_mode()
    def prefill(
        self, tokens: VisualTokens, known: tuple[VisualTokens, Prefix] | None = None
    ) -> Prefix:
        """The model reads a video, whatever will be asked of it: the prefill that is paid once.

        known: other tokens and what was read of them; where both begin alike, that is not read
            again. What is known stays as it was.
        """
        if tokens.features.shape[1] != self.width:
            raise ModelError(
                f"these tokens are {tokens.features.shape[1]} wide, the model wants {self.width}: "
                "they were encoded for another model; encode the video again",
                code="other_model",
            )
        cache = DynamicCache(config=self.model.config.get_text_config())
        prefix = self.clips.unread(tokens, cache, self.device)
        self._check(prefix.length + 1)
        same, done = self.clips.known(prefix, tokens, known)
        if known and done:
            prefix.cache = copy_cache(known[1].cache, length=done)
        features = tokens.features[same:].to(self.device, self.model.dtype)
        handed = self.family.finish(
            features, self.clips.runs(tokens)[0] if not same else [len(features)]
        )
        modality = self.family.shows
        placed = {} if prefix.positions is None else {"position_ids": prefix.positions[..., done:]}
        self.model(
            input_ids=prefix.ids[:, done:],
            **cache_argument(prefix.cache),
            use_cache=True,
            logits_to_keep=1,
            mm_encoder_outputs={modality: self.family.hand_over(modality, [handed])},
            **placed,
        )
        return prefix

    def handed(self, tokens: VisualTokens, prefix: Prefix, ids: Tensor) -> dict[str, Any]:
        """What one forward of the model is told of a video, beside the ids (1, S) that begin with
        those of `prefix`."""
        family = self.family
        features = tokens.features.to(self.device, self.model.dtype)
        cells = family.finish(features, self.clips.runs(tokens)[0])
        told: dict[str, Any] = {
            "mm_encoder_outputs": {family.shows: family.hand_over(family.shows, [cells])}
        }
        if prefix.positions is not None:
            rest = family.following(prefix.length, ids[:, prefix.length :], prefix.ahead)
            told["position_ids"] = torch.cat([prefix.positions, rest["position_ids"]], dim=-1)
        return told

    @torch.inference_mode()
    def prefill_text_only(self) -> Prefix:
        """A prefix without any video: what the model would say having seen none."""
        before, _ = self.prompts.opening("?")
        self.family.resume(None)
        ids = torch.tensor([before], device=self.device)
        cache = DynamicCache(config=self.model.config.get_text_config())
        self.model(input_ids=ids, **cache_argument(cache), use_cache=True, logits_to_keep=1)
        return Prefix(ids, cache)

    def prompt_ids(self, prefix: Prefix, question: str) -> Tensor:
        """All token ids (1, S) up to where the answer to the next question begins."""
        prompts = self.prompts
        tail = prompts.following(question) if prefix.asked else prompts.opening(question)[1]
        return torch.cat([prefix.ids, self._row(tail)], dim=1)

    @torch.inference_mode()
    def logits(self, prefix: Prefix, question: str) -> Tensor:
        """Scores (vocabulary,) of the answer's first token, float32. `prefix` stays as it was."""
        ids = self.prompt_ids(prefix, question)
        done = prefix.cache.get_seq_length()
        with self.using(prefix):
            try:
                scores = self.model(
                    input_ids=ids[:, done:], **cache_argument(prefix.cache), logits_to_keep=1
                ).logits
            finally:
                prefix.crop(done)
        return scores[0, -1].float()

    def yes_probability(self, prefix: Prefix, question: str, answer: str) -> float | None:
        """Where `answer` to a first question says yes or no: the probability of yes, 0..1."""
        if yes_or_no(answer) is None:
            return None
        return self.yes_no.probability(self.logits(prefix, question))

    @contextmanager
    def using(self, prefix: Prefix) -> Iterator[None]:
        """The model goes on from a prefix, which nobody else may use meanwhile."""
        with prefix.in_use():
            self.family.resume(prefix.ahead)
            yield

    def _row(self, ids: list[int]) -> Tensor:
        return torch.tensor([ids], dtype=torch.long, device=self.device)

    # -- answering

    def stream(
        self,
        prefix: Prefix,
        question: str,
        *,
        remember: bool = False,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        num_beams: int = 1,
    ) -> Generator[str]:
        """The answer, piece by piece as it is generated; the caller may stop early.

        num_beams: beginnings of the answer followed at once (beam search), of which the one
            likeliest a token wins. With more than one it comes in one piece, and the video is held
            as many times more; not together with a temperature.
        remember: afterwards `prefix` holds the question and what was said, ready for the next
            question of a conversation. Without it `prefix` stays as it was.
        """
        how = Generation(max_new_tokens, temperature, num_beams)
        with self.using(prefix):
            yield from self._stream(prefix, question, remember, how)

    def _stream(
        self, prefix: Prefix, question: str, remember: bool, how: Generation
    ) -> Generator[str]:
        ids = self.prompt_ids(prefix, question)
        self._check(ids.shape[1] + min(how.max_new_tokens, SHORTEST_ANSWER))
        before = prefix.cache.get_seq_length()
        said: list[Tensor] = []
        one = how.num_beams == 1  # of several it is known only at the end which of them wins
        heard = one  # what an interruption leaves of several, nobody has heard

        def generate(say: Say, stop: StoppingCriteriaList) -> None:
            cache = prefix.cache if one else self._beams(prefix.cache, ids, how.num_beams)
            streamer = TextPieces(self.tokenizer, say) if one else None
            said.append(self._generate(ids, cache, how, streamer=streamer, stopping_criteria=stop))
            if not one:
                say(self._text(said[0][0, ids.shape[1] :]))

        pieces = stream_text(generate)
        try:
            for piece in pieces:
                heard = True
                if piece:
                    yield piece
        finally:
            pieces.close()  # from here on nobody writes into the cache
            if remember and said and heard:
                ended = int(said[0][0, -1]) in self.ends
                prefix.ids = said[0][:, : said[0].shape[1] - ended]
                prefix.asked += 1
                prefix.crop(prefix.length)
            else:
                prefix.crop(before)

    def answer(self, prefix: Prefix, question: str, **options: Any) -> str:
        """As `stream`, in one piece."""
        with closing(self.stream(prefix, question, **options)) as pieces:
            return "".join(pieces).strip()

    @torch.inference_mode()
    def answer_many(
        self,
        prefix: Prefix,
        questions: list[str],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        num_beams: int = 1,
    ) -> list[str]:
        """Answers to many first questions in one batch over one prefix, which stays as it was."""
        how = Generation(max_new_tokens, temperature, num_beams)
        tails = [self.prompts.opening(question)[1] for question in questions]
        # As many at a time as keep the copies of the video within _COPIED tokens.
        rows = max(1, _BATCH_TOKENS // (prefix.length * num_beams))
        answers = []
        with self.using(prefix):
            for first in range(0, len(tails), rows):
                answers += self._answer_batch(prefix, tails[first : first + rows], how)
        return answers

    def answer_each(
        self, prefix: Prefix, questions: list[str], **options: Any
    ) -> list[str | VzVideoError]:
        """As `answer_many`, but one that cannot be asked gets its error, and the others answers."""
        try:
            return [*self.answer_many(prefix, questions, **options)]
        except VzVideoError as error:
            if len(questions) == 1:
                return [error]
        return [self.answer_each(prefix, [question], **options)[0] for question in questions]

    def log_likelihoods(self, prefix: Prefix, question: str, answers: list[str]) -> list[float]:
        """How likely each answer to a first question is: mean log-probability a token, nats.

        The token that ends an answer counts as one of its own. `prefix` stays as it was.
        """
        said = [[*self.token_ids(text), self.end] for text in answers]
        return [float(each.mean()) for each in self.log_probabilities(prefix, question, said)]

    def log_probabilities(
        self, prefix: Prefix, question: str, said: list[list[int]], visible: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Log-probabilities of the tokens of each text behind a first question."""
        logits = self.logits_behind(prefix, question, [text[:-1] for text in said], visible)
        for each, text in zip(logits, said, strict=True):
            wanted = torch.tensor(text, device=self.device)
            yield each.log_softmax(-1).gather(1, wanted[:, None])[:, 0]

    @torch.inference_mode()
    def logits_behind(
        self, prefix: Prefix, question: str, texts: list[list[int]], visible: Tensor | None
    ) -> Iterator[Tensor]:
        """Scores (tokens of the text + 1, vocabulary) of what follows a first question and each
        token of a text, float32. visible: (texts, tokens of `prefix`), 0 for those that are hidden
        from a text; None hides nothing."""
        tail = self.prompts.opening(question)[1]
        longest = len(tail) + max(map(len, texts))
        self._check(prefix.length + longest)
        rows = max(1, _BATCH_TOKENS // (prefix.length + longest))
        with self.using(prefix):
            for first in range(0, len(texts), rows):
                some = texts[first : first + rows]
                ids = torch.full((len(some), longest), self.pad, device=self.device)
                mask = torch.ones(
                    (len(some), prefix.length + longest), dtype=torch.long, device=self.device
                )
                if visible is not None:
                    mask[:, : prefix.length] = visible[first : first + rows]
                for row, text in enumerate(some):
                    whole = [*tail, *text]
                    ids[row, : len(whole)] = torch.tensor(whole, device=self.device)
                    mask[row, prefix.length + len(whole) :] = 0
                logits = self.model(
                    input_ids=ids,
                    attention_mask=mask,
                    **cache_argument(copy_cache(prefix.cache, len(some))),
                    **self.family.following(prefix.length, ids, prefix.ahead),
                    logits_to_keep=longest - len(tail) + 1,
                ).logits.float()
                for row, text in enumerate(some):
                    yield logits[row, : len(text) + 1]

    def token_ids(self, text: str) -> list[int]:
        """A text by itself, without special tokens."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def visual(self, prefix: Prefix) -> Tensor:
        """Where of a prefix's tokens (S,) the video's are."""
        return prefix.ids[0] == self.video_token if prefix.visual is None else prefix.visual

    def _answer_batch(self, prefix: Prefix, tails: list[list[int]], how: Generation) -> list[str]:
        longest = max(map(len, tails))
        self._check(prefix.length + longest + min(how.max_new_tokens, SHORTEST_ANSWER))
        ids = torch.full((len(tails), longest), self.pad, device=self.device)
        mask = torch.zeros_like(ids)
        for row, tail in enumerate(tails):
            ids[row, longest - len(tail) :] = torch.tensor(tail, device=self.device)
            mask[row, longest - len(tail) :] = 1
        shared = prefix.ids.expand(len(tails), -1)
        cache = copy_cache(prefix.cache, len(tails) * how.num_beams)
        mask = torch.cat([torch.ones_like(shared), mask], 1)
        said = self._generate(torch.cat([shared, ids], 1), cache, how, attention_mask=mask)
        return [self._text(answer).strip() for answer in said[:, prefix.length + longest :]]

    @torch.inference_mode()
    def _beams(self, cache: DynamicCache, ids: Tensor, num_beams: int) -> DynamicCache:
        """`cache`, which now knows `ids` but for the last one, once for each beam."""
        known = cache.get_seq_length()
        if known < ids.shape[1] - 1:
            self.model(input_ids=ids[:, known:-1], **cache_argument(cache), logits_to_keep=1)
        return copy_cache(cache, num_beams)

    def _text(self, ids: Tensor) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    @torch.inference_mode()
    def _generate(
        self, ids: Tensor, cache: DynamicCache, how: Generation, **options: Any
    ) -> Tensor:
        """ids: (B, S). cache: of B x num_beams rows. -> (B, longest), the question's ids first."""
        options.setdefault("attention_mask", torch.ones_like(ids))
        said: Tensor = self.model.generate(
            input_ids=ids,
            **cache_argument(cache),
            eos_token_id=sorted(self.ends),
            pad_token_id=self.pad,
            **how.arguments(self.window - ids.shape[1]),
            **options,
        )
        return said

    def _check(self, needed: int) -> None:
        if needed > self.window:
            raise BudgetError(
                f"{needed} tokens are needed, the model's window holds {self.window}: use fewer "
                "frames, fewer tokens a frame, or begin a new conversation"
            )
