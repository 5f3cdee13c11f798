"""How an answer is compared with what was expected. Pure: knows no model and no video.

Captions are scored by `pycocoevalcap`, the code of the COCO caption challenge; in front of it
stands a plain tokeniser instead of its Java one: lower case, no punctuation.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vzvideo.errors import SettingsError

_NUMBERS = dict(
    zip(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
        map(str, range(11)),
        strict=True,
    )
)
RESAMPLES = 1000


def normalize_answer(text: str) -> str:
    """'The dog.' -> 'dog': lower case, no punctuation, no articles, numbers as digits."""
    words = re.findall(r"[\w'-]+", text.lower())
    # Where an article is all there is, it is a letter.
    words = [word for word in words if word not in ("a", "an", "the")] or words
    return " ".join(_NUMBERS.get(word, word) for word in words)


def exact_match(answer: str, expected: Sequence[str]) -> float:
    """1 where the answer is one of those expected, else 0; an empty one never is."""
    said = normalize_answer(answer)
    return float(bool(said) and said in {normalize_answer(text) for text in expected})


def check_captions() -> None:
    """Raises SettingsError where captions cannot be scored."""
    try:
        import pycocoevalcap  # noqa: F401
    except ImportError:
        raise SettingsError(
            "captions are scored by pycocoevalcap, which is not installed: "
            "pip install 'vzvideo[eval]'"
        ) from None


def cider(answers: Sequence[str], references: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """CIDEr-D of each answer; how rare a phrase is, is taken from all `references` given.

    On the scale of the COCO challenge, where 1.0 is about what people reach; at least two answers
    are needed for rarity to mean anything, and one alone scores 0.
    """
    from pycocoevalcap.cider.cider import Cider

    expected, given = _tokenised(answers, references)
    _, scores = Cider().compute_score(expected, given)
    return np.asarray(scores, np.float64)


def bleu4(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """BLEU-4 of all answers together, 0..1."""
    from pycocoevalcap.bleu.bleu import Bleu

    expected, given = _tokenised(answers, references)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        scores, _ = Bleu(4).compute_score(expected, given, verbose=0)
    return float(scores[3])


def _tokenised(
    answers: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    def plain(text: str) -> str:
        return " ".join(re.findall(r"[\w'-]+", text.lower()))

    expected = {i: [plain(text) for text in texts] for i, texts in enumerate(references)}
    return expected, {i: [plain(text)] for i, text in enumerate(answers)}


def bootstrap_interval(
    scores: NDArray[np.float64], groups: Sequence[str], level: float = 0.95
) -> tuple[float, float]:
    """Bootstrap interval of the mean of `scores` (n,), by resampling whole groups.

    groups: the video of each score; questions about one video are not independent of each other.
        With few of them (under ten or so) the interval is too narrow to be believed.
    """
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(index, scores, len(names))
    counts = np.bincount(index, minlength=len(names))
    drawn = np.random.default_rng(0).integers(len(names), size=(RESAMPLES, len(names)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
