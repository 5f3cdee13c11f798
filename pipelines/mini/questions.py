"""Questions and answers made from captions: what is there, what happens, in which order.

Five captions of a photograph say more than one: what two of them name is there, and what none of
them comes near is taken for absent. A concept is asked for where it is and where it is not equally
often, so that the words of a question give nothing away.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pipelines.mini.concepts import ACTIONS, CONCEPTS, NOTICED, Concept

ASKED = (*CONCEPTS, *ACTIONS)  # what is asked for by "Is there ...?" and "Is someone ...?"
DESCRIBE = (
    "Describe the video.",
    "What is happening in the video?",
    "What happens?",
    "What is shown?",
    "What do you see?",
    "What is this video about?",
    "Describe this in one sentence.",
    "What is going on here?",
    "What is in the video?",
)
_IS_THERE = (
    "Is there {}?",
    "Is there {} in the video?",
    "Does the video show {}?",
    "Can you see {}?",
    "Do you see {}?",
    "Is {} visible?",
    "Is there ever {}?",
)
_FIRST = ("What happens first?", "What is shown first?", "What is at the beginning?")
_LAST = ("What happens last?", "What is shown last?", "What is at the end?")
_IS_SOMEONE = ("Is someone {}?", "Is anyone {}?", "Do you see someone {}?", "Is somebody {}?")


@dataclass(frozen=True)
class Asked:
    """A question, one answer to it, what kind of question it is, and answers as good as that."""

    question: str
    answer: str
    kind: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Captioned:
    """What is said of one picture.

    captions: whole sentences. more: other texts that are true of it. brief: whether so little is
    said that silence means no only of what nobody would leave out.
    """

    captions: Sequence[str]
    more: Sequence[str] = ()
    brief: bool = False
    said: list[list[str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "said", [words(caption) for caption in self.captions])

    @cached_property
    def mentions(self) -> Counter[str]:
        """How many captions use each word."""
        texts = [*self.said, *(words(text) for text in self.more)]
        return Counter(word for said in texts for word in set(said))

    def shows(self, concept: Concept) -> bool | None:
        """True where two captions name it, False where none comes near it, None where unsure."""
        if not self.said:
            return None
        named = sum(bool(concept.words & set(said)) for said in self.said)
        if named >= min(2, len(self.said)):
            return True
        if named or any(word in self.mentions for word in concept.near | concept.words):
            return None
        return None if self.brief and concept.said not in NOTICED else False


def words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return re.findall(r"[a-z']+", text.lower())


def tidy(caption: str) -> str:
    """'A dog runs .' -> 'A dog runs.'"""
    caption = (
        caption.strip().strip('"').strip().rstrip(".").strip().replace(" ,", ",").replace(" '", "'")
    )
    return caption[:1].upper() + caption[1:] + "."


class Presence:
    """Yes-or-no questions, each concept with as many noes as yeses.

    Made from all photographs at once: of a concept that many show, a no is asked of many others.
    That holds for one photograph a clip. One of several in sequence nearly always shows what is
    common, and a model that knows what is common does better than chance without looking.
    """

    def __init__(self, photographs: Sequence[Captioned], concepts: Sequence[Concept]) -> None:
        self.yes: list[list[Concept]] = [[] for _ in photographs]
        absent: list[list[Concept]] = [[] for _ in photographs]
        counts: Counter[str] = Counter()
        spread: Counter[str] = Counter()
        for row, photograph in enumerate(photographs):
            for concept in concepts:
                shown = photograph.shows(concept)
                if shown:
                    self.yes[row].append(concept)
                    counts[concept.said] += 1
                elif shown is False:
                    absent[row].append(concept)
                    spread[concept.said] += 1
        self.no = absent
        # How often either may be asked so that over all photographs there are as many of both.
        self.yes_weight = {said: min(1.0, spread[said] / n) for said, n in counts.items()}
        self.no_weight = {said: min(1.0, counts[said] / n) for said, n in spread.items()}

    def draw(
        self, rows: Sequence[int], pairs: int, rng: random.Random
    ) -> list[tuple[Concept, bool]]:
        """As many concepts that are there as such that are not, `pairs` of each at most.

        rows: the photographs of a clip; there is what any of them shows.
        """
        there = {c.said: c for row in rows for c in self.yes[row]}
        shared = set.intersection(*({c.said for c in self.no[row]} for row in rows))
        absent = [c for c in self.no[rows[0]] if c.said in shared]
        yes = _thinned(list(there.values()), self.yes_weight, rng)
        no = _thinned(absent, self.no_weight, rng)
        count = min(pairs, len(yes), len(no))
        return [(c, True) for c in rng.sample(yes, count)] + [
            (c, False) for c in rng.sample(no, count)
        ]

    def one(self, row: int, rng: random.Random) -> tuple[Concept, bool] | None:
        """One concept of one picture, as often there as not over all of them; or none."""
        yes = [(c, True) for c in _thinned(self.yes[row], self.yes_weight, rng)]
        no = [(c, False) for c in _thinned(self.no[row], self.no_weight, rng)]
        return rng.choice(yes + no) if yes or no else None


def _thinned(
    concepts: Sequence[Concept], weight: dict[str, float], rng: random.Random
) -> list[Concept]:
    """Each kept as often as its weight says."""
    return [concept for concept in concepts if rng.random() < weight.get(concept.said, 0.0)]


def is_there(concept: Concept, shown: bool, rng: random.Random) -> Asked:
    """'Is there a dog?' 'Yes.'"""
    forms = _IS_SOMEONE if concept in ACTIONS else _IS_THERE
    return Asked(rng.choice(forms).format(concept.said), "Yes." if shown else "No.", "presence")


def describe(photograph: Captioned, rng: random.Random) -> Asked:
    """A caption."""
    return Asked(rng.choice(DESCRIBE), rng.choice(photograph.captions), "caption")


def only(scenes: Sequence[Captioned], place: int) -> list[Concept]:
    """What scene number `place` shows and none of the others does."""
    others = [scene for number, scene in enumerate(scenes) if number != place]
    return [
        concept
        for concept in CONCEPTS
        if scenes[place].shows(concept) and all(s.shows(concept) is False for s in others)
    ]


def order(scenes: Sequence[Captioned], rng: random.Random) -> list[Asked]:
    """Questions about what comes when, of two or more scenes in sequence."""
    first, last = scenes[0], scenes[-1]
    asked = [
        Asked(
            rng.choice(_FIRST),
            rng.choice(first.captions), "first",
        ),
        Asked(
            rng.choice(_LAST),
            rng.choice(last.captions), "last",
        ),
    ]  # fmt: skip
    place = rng.randrange(len(scenes) - 1)
    after = scenes[place + 1]
    here, there = only(scenes, place), only(scenes, place + 1)
    if here:
        name = _the(rng.choice(here))
        asked.append(Asked(f"What is shown after {name}?", rng.choice(after.captions), "after"))
    if here and there:
        a, b = rng.choice(here), rng.choice(there)
        early, late = _the(a), _the(b)
        shown = [early, late]
        rng.shuffle(shown)
        form = rng.choice(
            ("Which is shown first, {} or {}?", "Which comes first: {} or {}?",
             "What appears first, {} or {}?")
        )  # fmt: skip
        asked.append(Asked(form.format(*shown), early.capitalize() + ".", "which first"))
        straight = rng.random() < 0.5
        pair = (early, late) if straight else (late, early)
        form = rng.choice(("Is {} shown before {}?", "Does {} come before {}?"))
        asked.append(Asked(form.format(*pair), "Yes." if straight else "No.", "before"))
    texts = [rng.choice(first.captions), rng.choice(last.captions)]
    options = rng.sample(texts, 2)
    asked.append(
        Asked(
            f"Which comes first: {_inside(options[0])}, or {_inside(options[1])}?",
            texts[0], "which scene first",
        )
    )  # fmt: skip
    if len(scenes) == 2:
        asked.append(
            Asked(
                rng.choice(DESCRIBE[:5]),
                f"First, {_inside(texts[0])}. Then, {_inside(texts[1])}.", "story",
            )
        )  # fmt: skip
    return asked


_AT = (
    ("Is there {} at the beginning?", "Is there {} first?", "Does it begin with {}?"),
    ("Is there {} at the end?", "Is there {} last?", "Does it end with {}?"),
)


def when(scenes: Sequence[Captioned], most: int, rng: random.Random) -> list[Asked]:
    """Yes-or-no questions of what is there at the beginning, or at the end, and not at both."""
    found = [(concept, place) for place in (0, len(scenes) - 1) for concept in only(scenes, place)]
    asked = []
    for concept, place in rng.sample(found, min(most, len(found))):
        at_end = rng.random() < 0.5
        question = rng.choice(_AT[at_end]).format(concept.said)
        asked.append(Asked(question, "Yes." if at_end == (place > 0) else "No.", "when"))
    return asked


def _the(concept: Concept) -> str:
    return f"the {concept.name}" if not concept.said.startswith("the ") else concept.said


def _inside(sentence: str) -> str:
    """'A dog runs.' -> 'a dog runs'"""
    return sentence[:1].lower() + sentence[1:].rstrip(".")


def at_length(photograph: Captioned, rng: random.Random) -> Asked:
    """Two captions that have little in common, one after the other."""
    first = rng.choice(photograph.captions)
    rest = [c for c in photograph.captions if c != first] or [first]
    known = set(words(first))
    second = min(rest, key=lambda c: len(known & set(words(c))) / (len(words(c)) + 1))
    form = rng.choice(("Describe the video in detail.", "Tell me everything about this video."))
    return Asked(form, f"{first} {second}", "at length")
