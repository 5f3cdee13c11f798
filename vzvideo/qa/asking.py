"""An answer as it is generated, and a conversation. Knows no model: what generates is handed in."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from vzvideo.errors import SettingsError
from vzvideo.qa.evidence import Evidence
from vzvideo.types import Answer

if TYPE_CHECKING:
    from vzvideo.qa.encoding import Encoded


class AnswerStream:
    """An answer on its way: iterate for the text as it comes, then take `result`."""

    def __init__(
        self,
        encoded: Encoded,
        pieces: Generator[str],
        finish: Callable[[str, float], Answer],
        evidence: Callable[[Answer], Evidence] | None,
    ) -> None:
        """pieces: the text as the model says it. finish: the whole text and the seconds that
        generating took -> `Answer`. evidence: what an answer was drawn from; None in a
        conversation, where the model also looks at what was said before."""
        self.encoded = encoded
        self._pieces, self._finish, self._evidence = pieces, finish, evidence
        self._result: Answer | None = None
        self._begun = False

    def __iter__(self) -> Iterator[str]:
        if self._begun:
            raise RuntimeError("an answer is generated once; start another for another")
        self._begun = True
        begun = time.perf_counter()
        text = ""
        with closing(self._pieces):
            for piece in self._pieces:
                # No model means its leading blank, and nobody wants to read it.
                piece = piece if text else piece.lstrip()
                if piece:
                    text += piece
                    yield piece
        self._result = self._finish(text.strip(), time.perf_counter() - begun)

    def evidence(self) -> Evidence:
        """What the whole answer was drawn from; available once the iteration has ended. Not for a
        conversation."""
        if self._evidence is None:
            raise RuntimeError("evidence is for single questions, not for a conversation")
        return self._evidence(self.result)

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
    """A conversation about one video, over one growing key-value cache. Made by `VideoQA.chat`."""

    def __init__(
        self,
        encoded: Encoded,
        seconds: dict[str, float],
        start: Callable[[str, dict[str, float]], AnswerStream],
    ) -> None:
        """seconds: what the video has cost until now, paid by the first answer. start: a question
        and what it has to pay -> its answer."""
        self.encoded = encoded
        self._unpaid, self._start = seconds, start

    def ask(self, question: str) -> Answer:
        """The next answer; it knows what was said before."""
        return self.start(question).finish()

    def start(self, question: str) -> AnswerStream:
        """As `ask`, with the text as it is generated."""
        question = validate_question(question)
        seconds, self._unpaid = self._unpaid, dict.fromkeys(self._unpaid, 0.0)
        return self._start(question, seconds)


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
