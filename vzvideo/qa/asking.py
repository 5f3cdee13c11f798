"""A question on its way, and a conversation: answers as they are generated."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from vzvideo import config
from vzvideo.errors import SettingsError
from vzvideo.qa.evidence import Evidence
from vzvideo.types import Answer

if TYPE_CHECKING:
    from vzvideo.models.prefix import Prefix
    from vzvideo.qa.encoding import Encoded
    from vzvideo.qa.video_qa import VideoQA


class AnswerStream:
    """A question on its way: iterate for the text as it comes, then take `result`."""

    def __init__(
        self,
        qa: VideoQA,
        encoded: Encoded,
        prefix: Prefix,
        question: str,
        settings: config.Settings,
        seconds: dict[str, float],
        *,
        remember: bool = False,
    ) -> None:
        self.encoded = encoded
        self._qa, self._prefix, self._question = qa, prefix, question
        self._settings, self._seconds, self._remember = settings, seconds, remember
        self._result: Answer | None = None
        self._begun = False

    def __iter__(self) -> Iterator[str]:
        if self._begun:
            raise RuntimeError("an answer is generated once; start another for another")
        self._begun = True
        begun = time.perf_counter()
        said: list[str] = []
        stream: Any = self._qa.language.stream(
            self._prefix,
            self._question,
            remember=self._remember,
            **self._settings.answering,
        )
        with closing(stream):
            for piece in stream:
                # No model means its leading blank, and nobody wants to read it.
                piece = piece if said else piece.lstrip()
                if piece:
                    said.append(piece)
                    yield piece
        self._seconds["generate"] = time.perf_counter() - begun
        text = "".join(said).strip()
        self._result = self._qa.answer(self.encoded, self._question, text, self._seconds)

    def evidence(self) -> Evidence:
        """What the whole answer was drawn from; available once the iteration has ended. Not for a
        conversation, where the model also looks at what was said before."""
        if self._remember:
            raise RuntimeError("evidence is for single questions, not for a conversation")
        return self._qa.evidence(self.encoded, self.result)

    def finish(self) -> Answer:
        """Generates the whole answer and returns it."""
        for _ in self:
            pass
        return self.result

    @property
    def result(self) -> Answer:
        """The whole answer; available once the iteration has ended."""
        if self._result is None:
            raise RuntimeError("iterate over the answer first; the result comes at its end")
        return self._result


class Chat:
    """A conversation about one video, over one growing key-value cache."""

    def __init__(self, qa: VideoQA, encoded: Encoded, settings: config.Settings) -> None:
        self.encoded = encoded
        self._qa, self._settings = qa, settings
        self._prefix, prefill_s = qa.prefill_fresh(encoded.tokens)
        self._unpaid = encoded.seconds | {"prefill": prefill_s}

    def ask(self, question: str) -> Answer:
        """The next answer; it knows what was said before."""
        return self.start(question).finish()

    def start(self, question: str) -> AnswerStream:
        """As `ask`, with the text as it is generated."""
        question = validate_question(question)
        seconds, self._unpaid = self._unpaid, dict.fromkeys(self._unpaid, 0.0)
        return AnswerStream(
            self._qa,
            self.encoded,
            self._prefix,
            question,
            self._settings,
            dict(seconds),
            remember=True,
        )


def validate_question(question: str) -> str:
    """A question without the blanks around it; SettingsError where it is none."""
    if not isinstance(question, str):
        raise SettingsError(f"question: {type(question).__name__} given, text is needed")
    question = question.strip()
    try:
        question.encode()
    except UnicodeEncodeError:
        raise SettingsError("the question is not valid UTF-8", code="question") from None
    if not question:
        raise SettingsError("the question is empty: write what you want to know", code="question")
    return question
