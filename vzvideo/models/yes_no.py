"""How probable a yes is, where a question is answered with yes or no. Knows no video."""

from __future__ import annotations

import math
import re
from typing import Any

from torch import Tensor

_ANSWER = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


def yes_or_no(text: str) -> bool | None:
    """Whether an answer begins with yes; None where with neither of the two words."""
    found = _ANSWER.match(text)
    return found and found[1].lower() == "yes"


class YesNo:
    """The two words as a tokenizer begins them, and what the odds between them are worth.

    scale, shift: of the log odds, fitted on questions with known answers (Platt 1999), so that of
    all answers at 0.8 four in five are right; 1 and 0 take the model at its word.
    """

    def __init__(self, tokenizer: Any, scale: float = 1.0, shift: float = 0.0) -> None:
        self.scale, self.shift = scale, shift
        yes, no = (self._begins(tokenizer, word) for word in ("yes", "no"))
        self._yes, self._no = sorted(yes - no), sorted(no - yes)

    @staticmethod
    def _begins(tokenizer: Any, word: str) -> set[int]:
        """First tokens of a word as it may be written, behind a blank or not."""
        forms = [blank + form for blank in ("", " ") for form in (word, word.title(), word.upper())]
        return {tokenizer(form, add_special_tokens=False).input_ids[0] for form in forms}

    def log_odds(self, logits: Tensor) -> float | None:
        """logits: (vocabulary,), of an answer's first token. None where a tokenizer does not tell
        the words apart by their first token."""
        if not self._yes or not self._no:
            return None
        return float(logits[self._yes].logsumexp(0) - logits[self._no].logsumexp(0))

    def probability(self, logits: Tensor) -> float | None:
        """Of yes, 0..1; None as in `log_odds`."""
        log = self.log_probability(logits)
        return None if log is None else math.exp(log)

    def log_probability(self, logits: Tensor) -> float | None:
        """Of yes, nats; None as in `log_odds`."""
        odds = self.log_odds(logits)
        return None if odds is None else -_softplus(-(self.scale * odds + self.shift))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
