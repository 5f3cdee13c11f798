"""Answers against what was expected."""

from __future__ import annotations

import numpy as np
import pytest

from vzvideo.evaluation import scoring

REFERENCES = [
    ["A man rides a bike.", "A cyclist on a dirt track.", "A man on a bicycle."],
    ["Two dogs run across a meadow.", "Dogs are running in the grass."],
    ["A woman signs with her hands.", "A woman in an orange hoodie."],
]


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("Yes.", ["yes"], True),
        ("yes", ["Yes!"], True),
        ("A dog.", ["the Dog"], True),
        ("Two.", ["2"], True),
        ("two dogs", ["2 dogs"], True),
        ("Riding a bike.", ["Running.", "riding bike"], True),
        ("No.", ["yes"], False),
        ("Yes, a dog.", ["yes"], False),
        ("", ["yes"], False),
        ("dogs", ["dog"], False),
        ("A", ["a"], True),
        ("", ["A"], False),
        ("The", ["A"], False),
    ],
)
def test_exact(answer: str, expected: list[str], right: bool) -> None:
    assert scoring.exact_match(answer, expected) == right


def test_the_right_caption_scores_highest() -> None:
    right = ["A man rides a bike.", "Two dogs run in the grass.", "A woman signs."]
    wrong = right[1:] + right[:1]
    assert (scoring.cider(right, REFERENCES) > 0.5).all()
    assert (scoring.cider(wrong, REFERENCES) < 0.1).all()
    assert scoring.bleu4([texts[0] for texts in REFERENCES], REFERENCES) == pytest.approx(1)
    assert scoring.bleu4(wrong, REFERENCES) < 0.01


def test_captions_ignore_case_and_punctuation() -> None:
    plain = ["a man rides a bike", "two dogs run across a meadow", "a woman signs with her hands"]
    shouted = [text.upper() + "!" for text in plain]
    np.testing.assert_array_equal(
        scoring.cider(plain, REFERENCES), scoring.cider(shouted, REFERENCES)
    )


def test_interval_holds_the_mean_and_narrows_with_more_videos() -> None:
    rng = np.random.default_rng(1)
    few, many = ((rng.random(n) < 0.7).astype(float) for n in (40, 4000))
    low, high = scoring.bootstrap_interval(few, [str(i) for i in range(40)])
    assert low < few.mean() < high
    narrow = scoring.bootstrap_interval(many, [str(i) for i in range(4000)])
    # A mean of n draws spreads by sqrt(p (1 - p) / n), and 95 % of a normal lie within 1.96 of it.
    assert narrow[1] - narrow[0] == pytest.approx(2 * 1.96 * (0.21 / 4000) ** 0.5, rel=0.15)
    assert high - low > 5 * (narrow[1] - narrow[0])


def test_questions_of_one_video_are_not_independent() -> None:
    scores = np.repeat([0.0, 1.0] * 10, 50)
    apart = scoring.bootstrap_interval(scores, [str(i) for i in range(1000)])
    together = scoring.bootstrap_interval(scores, [str(i // 50) for i in range(1000)])
    assert together[1] - together[0] > 3 * (apart[1] - apart[0])
