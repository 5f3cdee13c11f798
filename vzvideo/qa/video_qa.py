"""Questions about videos: encode a video once, ask as often as you like.

Brings encoding and language model together; `loading` makes one of a model's name.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vzvideo import config, visionzip
from vzvideo.errors import ModelError, SettingsError
from vzvideo.models import attribution, catalog, weights
from vzvideo.models.encoder import Encoder
from vzvideo.models.language import LanguageModel
from vzvideo.models.prefix import Prefix
from vzvideo.models.yes_no import yes_or_no
from vzvideo.qa import encoding
from vzvideo.qa.asking import AnswerStream, Chat, validate_question
from vzvideo.qa.encoding import CachedEncoder, Encoded, Progress, Source, synchronize
from vzvideo.qa.evidence import NEUTRAL, Evidence, evidence
from vzvideo.qa.recipe import Recipe, Recipes
from vzvideo.qa.store import TokenCache
from vzvideo.types import Answer, Policy, VisualTokens
from vzvideo.video.base import check_file

if TYPE_CHECKING:
    from vzvideo.live.stream import Stream


class VideoQA:
    """A loaded model that answers questions about videos. Not for several threads at once."""

    def __init__(
        self,
        card: catalog.ModelCard,
        encoder: Encoder,
        language: LanguageModel,
        tower: str,
        settings: config.Settings,
    ) -> None:
        self.settings = settings
        self._recipes = Recipes(card, encoder, language, tower)
        limit = int(settings.cache_gib * (1 << 30))
        cache = TokenCache(weights.cache_root() / "tokens", limit) if settings.cache else None
        self._encoding = CachedEncoder(cache)
        self._prefilled: tuple[VisualTokens, Prefix] | None = None

    @property
    def card(self) -> catalog.ModelCard:
        return self._recipes.card

    @property
    def name(self) -> str:
        """What the model is called."""
        return self.card.name

    @property
    def encoder(self) -> Encoder:
        """Frames to visual tokens."""
        return self._recipes.encoder

    @property
    def language(self) -> LanguageModel:
        """Visual tokens and words to words."""
        return self._recipes.language

    @property
    def tower(self) -> str:
        """The fingerprint of the encoder's weights."""
        return self._recipes.tower

    # -- encoding

    def encode(
        self, source: Source, *, progress: Progress | None = None, **changes: Any
    ) -> VisualTokens:
        """A video's visual tokens, from the cache where they are there.

        Args:
            source: path, URL, a file that `VisualTokens.save` wrote, tokens themselves, a picture
                of Pillow's, or frames in memory, uint8 (H, W, 3) or (T, H, W, 3).
            progress: called with ("decode" or "encode", frames done, frames in all).
            changes: settings for this video (`frames=64`, `dominant=14`, `contextual=3`,
                `tokens_per_frame=33`, `sampling="scenes"`, `start_s=10.0`, ...).
        """
        return self.encode_timed(source, progress=progress, **changes).tokens

    def encode_timed(
        self,
        source: Source,
        *,
        question: str = "?",
        progress: Progress | None = None,
        **changes: Any,
    ) -> Encoded:
        """As `encode`, with the time each stage took; the budget leaves room for `question`."""
        settings = self._with(changes)  # a wrong name is told whatever the source
        encoded = encoding.already_encoded(source)
        if encoded is not None:
            self._check_tower(encoded.tokens)
            if late := config.ENCODING & changes.keys():
                raise SettingsError(
                    f"{', '.join(sorted(late))}: these tokens are encoded already; give the video "
                    "itself to encode it otherwise"
                )
            return encoded
        if (frames := encoding.as_frames(source)) is not None:
            recipe = self._recipes.recipe(settings.replace(frames=len(frames)), question)
            return self._encoding.encode_frames(frames, recipe)
        assert isinstance(source, str | Path)
        recipe = self._recipes.recipe(settings, question)
        return self._encoding.encode(os.fspath(source), recipe, progress)

    def recipe(self, question: str = "?", **changes: Any) -> Recipe:
        """How a video would become tokens with these settings; the budget leaves room for
        `question`."""
        return self._recipes.recipe(self._with(changes), question)

    def plan(self, question: str = "?", **changes: Any) -> visionzip.Budget:
        """How the model's window would be shared between video, `question` and answer.

        `print(qa.plan(frames=64))` says it in one line; BudgetError says what would fit instead.
        """
        return self._recipes.budget(self._with(changes), question)

    def _with(self, changes: dict[str, Any]) -> config.Settings:
        """The settings with `changes`, which may not ask for another model than is loaded."""
        if late := config.LOADING & changes.keys():
            raise SettingsError(
                f"{', '.join(sorted(late))}: the model is loaded already; say it to `vzvideo.load`"
            )
        return self.settings.replace(**changes)

    def _check_tower(self, tokens: VisualTokens) -> None:
        tower = tokens.settings.get("tower", self.tower)
        if tower != self.tower:
            raise ModelError(
                f"{tokens.source or 'these tokens'}: encoded for model "
                f"{tokens.settings.get('model', '?')!r}, not for {self.name!r}; choose that model "
                "or encode the video again",
                code="other_model",
            )

    # -- asking

    def ask(
        self, source: Source, question: str, *, progress: Progress | None = None, **changes: Any
    ) -> Answer:
        """The answer to one question about a video, a token file or tokens."""
        return self.start(source, question, progress=progress, **changes).finish()

    def start(
        self, source: Source, question: str, *, progress: Progress | None = None, **changes: Any
    ) -> AnswerStream:
        """Encodes and reads the video; the `AnswerStream` then gives the answer as it is generated.

        progress: as in `encode`, and ("prefill", 0, 0) where the language model begins to read.
        """
        question = validate_question(question)
        settings = self._with(changes)
        encoded = self.encode_timed(source, question=question, progress=progress, **changes)
        prefix, prefill_s = self.prefill(encoded.tokens, progress)
        seconds = encoded.seconds | {"prefill": prefill_s}
        return self.answer_stream(encoded, prefix, question, settings, seconds)

    def answer_stream(
        self,
        encoded: Encoded,
        prefix: Prefix,
        question: str,
        settings: config.Settings,
        seconds: dict[str, float],
        *,
        remember: bool = False,
    ) -> AnswerStream:
        """The answer to a question about what `prefix` holds, as it is generated.

        seconds: of the stages before. remember: see `LanguageModel.stream`.
        """
        pieces = self.language.stream(prefix, question, remember=remember, **settings.answering)

        def finish(text: str, generate_s: float) -> Answer:
            spent = seconds | {"generate": generate_s}
            return self.answer(encoded, None if remember else prefix, question, text, spent)

        def evidence(answer: Answer) -> Evidence:
            return self.evidence(encoded, answer)

        return AnswerStream(encoded, pieces, finish, None if remember else evidence)

    def stream_answer(self, source: Source, question: str, **changes: Any) -> Iterator[str]:
        """The answer's text, piece by piece as it is generated."""
        return iter(self.start(source, question, **changes))

    def ask_many(
        self,
        source: Source,
        questions: list[str],
        *,
        progress: Progress | None = None,
        **changes: Any,
    ) -> list[Answer]:
        """Answers to many questions of one video, in one batch over one prefill.

        `seconds` of each answer are those of the whole call.
        """
        if isinstance(questions, str):
            raise SettingsError("questions: one text given, a list of them is needed")
        if not questions:
            return []
        questions = [validate_question(question) for question in questions]
        settings = self._with(changes)
        question = self.longest_question(questions)
        encoded = self.encode_timed(source, question=question, progress=progress, **changes)
        prefix, prefill_s = self.prefill(encoded.tokens, progress)
        begun = time.perf_counter()
        texts = self.language.answer_many(prefix, questions, **settings.answering)
        seconds = encoded.seconds | {
            "prefill": prefill_s,
            "generate": time.perf_counter() - begun,
        }
        return [
            self.answer(encoded, prefix, question, text, seconds)
            for question, text in zip(questions, texts, strict=True)
        ]

    def longest_question(self, questions: list[str]) -> str:
        """The question that takes the most room, for which a budget has to be planned."""
        return max(map(validate_question, questions), key=self.language.prompts.length)

    def evidence(self, source: Source, answer: Answer) -> Evidence:
        """Which frames and tokens of a video `answer` was drawn from: those that make it likelier
        by themselves. Of an answer of yes or no, those that make a yes likely, whichever it says.

        Costs reading question and answer twice for each frame, of yes or no the question once; what
        was read of the last video is known yet.

        Args:
            source: the tokens that were asked, in memory or in a file; not the video itself, of
                which others may be made.
        """
        encoded = encoding.already_encoded(source)
        if encoded is None:
            if "://" not in str(source):
                check_file(Path(str(source)))
            raise SettingsError(
                f"evidence: {source} is a video; give the tokens that were asked, qa.encode(video)"
            )
        tokens = encoded.tokens
        covers = tokens.covers()
        prefix, _ = self.prefill(tokens)
        language, asked, said = self.language, answer.question, answer.text
        nats, length = None, 1
        if yes_or_no(said) is not None:
            nats = attribution.frame_yes_log_probabilities(language, prefix, asked, covers)
        if nats is None:
            both = attribution.frame_log_likelihoods(
                language, prefix, asked, [said, NEUTRAL], covers
            )
            nats = [told - neutral for told, neutral in zip(*both, strict=True)]
            length = len(language.tokenizer(said, add_special_tokens=False).input_ids)
        attended = attribution.attention_to_video(language, prefix, asked, said).cpu().numpy()
        return evidence(nats, length, attended, covers, tokens.pts_s)

    def chat(self, source: Source, *, progress: Progress | None = None, **changes: Any) -> Chat:
        """A conversation about one video; later questions do not pay for it again."""
        encoded = self.encode_timed(source, progress=progress, **changes)
        settings = self._with(changes)
        prefix, prefill_s = self.prefill_fresh(encoded.tokens)

        def start(question: str, seconds: dict[str, float]) -> AnswerStream:
            return self.answer_stream(encoded, prefix, question, settings, seconds, remember=True)

        return Chat(encoded, encoded.seconds | {"prefill": prefill_s}, start)

    def stream(
        self,
        *,
        budget: int | None = None,
        queue: int = 32,
        policy: Policy = "block",
        tolerance: float = 0.04,
        restore: str | Path | None = None,
        **changes: Any,
    ) -> Stream:
        """Video that goes on for as long as it likes, to be asked at any moment.

        Args:
            budget: tokens that may be remembered; None for 2048, or what the model has room for.
            queue: frames that may wait for the encoder.
            policy: where more come: "block" makes whoever brings them wait, "drop_oldest" and
                "drop_newest" leave some out, and count them.
            tolerance: frames of which no part differs by more (0..1) from the last that was
                encoded are not encoded; 0 for only those that are equal.
            restore: a file that `Stream.save` wrote, to go on from.
            changes: settings (`fps=2.0`, `tokens_per_frame=9`, `max_new_tokens=32`, ...).
        """
        from vzvideo.live import stream  # which stands a floor above

        return stream.Stream(
            self, budget=budget, queue=queue, policy=policy, tolerance=tolerance, restore=restore,
            **changes,
        )  # fmt: skip

    def prefill(
        self, tokens: VisualTokens, progress: Progress | None = None
    ) -> tuple[Prefix, float]:
        """What the language model knows after reading `tokens`, and the seconds it took.

        The last video read is remembered, so that asking the same tokens again costs nothing.
        """
        if self._prefilled is not None and self._prefilled[0] is tokens:
            return self._prefilled[1], 0.0
        self._prefilled = None  # the last video's cache goes before the next one's comes
        if progress is not None:
            progress("prefill", 0, 0)  # in one go: how far it is nobody knows
        prefix, seconds = self.prefill_fresh(tokens)
        self._prefilled = (tokens, prefix)
        return prefix, seconds

    def forget(self) -> None:
        """Lets go of the last video, its tokens and what was read of them; frees their memory."""
        self._encoding.forget()
        self._prefilled = None

    def prefill_fresh(self, tokens: VisualTokens) -> tuple[Prefix, float]:
        """As `prefill`, for a caller who will write into what is known."""
        begun = time.perf_counter()
        prefix = self.language.prefill(tokens)
        synchronize(self.language.device)
        return prefix, time.perf_counter() - begun

    def answer(
        self,
        encoded: Encoded,
        prefix: Prefix | None,
        question: str,
        text: str,
        seconds: dict[str, float],
    ) -> Answer:
        """An `Answer` with the facts of what it was drawn from.

        prefix: what was asked; None in a conversation, where the answer is a part of it by now.
        """
        tokens = encoded.tokens
        yes = self.language.yes_probability(prefix, question, text) if prefix else None
        return Answer(
            text=text,
            question=question,
            source=tokens.source,
            model=self.name,
            frame_times_s=[round(float(t), 6) for t in tokens.pts_s],
            tokens_before=tokens.tokens_before,
            tokens=len(tokens),
            seconds={stage: round(s, 4) for stage, s in seconds.items()},
            cached=encoded.cached,
            yes_probability=None if yes is None else round(yes, 4),
        )
