"""Questions and answers made from captions: what is there, who, where, how many, in which order.

Five captions of a photograph say more than one: what two of them name is there, and what none of
them comes near is taken for absent. A concept is asked for where it is and where it is not equally
often, so that the words of a question give nothing away.
"""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pipelines.concepts import ACTIONS, CONCEPTS, Concept, word_set

_NUMBERS = {"one": "One.", "two": "Two.", "three": "Three.", "four": "Four."}
_COLOURS = word_set("black white red blue brown green yellow orange pink purple grey gray tan")
_COLOURED = word_set(
    "shirt dog dogs jacket dress hat shorts pants coat hair bike car ball cap uniform helmet horse "
    "shirts jersey sweater toy bird boat outfit"
)
_SUBJECTS = {
    "man": "man guy",
    "woman": "woman lady",
    "boy": "boy",
    "girl": "girl",
    "child": "child kid toddler baby",
    "dog": "dog puppy",
    "person": "person",
    "men": "men guys",
    "women": "women ladies",
    "boys": "boys",
    "girls": "girls",
    "children": "children kids",
    "dogs": "dogs",
    "people": "people",
}
_SUBJECT_OF = {word: subject for subject, names in _SUBJECTS.items() for word in names.split()}
_NO_DEED = word_set(
    "wearing during building clothing railing ceiling string ring swing spring king thing morning "
    "evening sling wing bling something nothing anything being bathing setting painting crossing "
    "looking facing parking opening clearing wedding shopping landing sibling"
)
_PLACES = (
    "beach|snow|water|grass|street|field|park|pool|road|ocean|lake|river|sand|sidewalk|woods|forest|"
    "mountain|rocks?|playground|yard|track|ramp|wall|bench|city|stage|hill|path|air|room|table|dirt|"
    "ice"
)
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
    """What is said of one photograph.

    captions: whole sentences.
    """

    captions: Sequence[str]
    said: list[list[str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "said", [words(caption) for caption in self.captions])

    @cached_property
    def mentions(self) -> Counter[str]:
        """How many captions use each word."""
        return Counter(word for said in self.said for word in set(said))

    def shows(self, concept: Concept) -> bool | None:
        """True where two captions name it, False where none comes near it, None where unsure."""
        if not self.said:
            return None
        named = sum(bool(concept.words & set(said)) for said in self.said)
        if named >= min(2, len(self.said)):
            return True
        if named or any(word in self.mentions for word in concept.near):
            return None
        return False


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


def detail(photograph: Captioned, rng: random.Random) -> list[Asked]:
    """What the captions say of who, what, where, how many, which colour."""
    return [
        asked
        for make in (_doing, _where, _who, _how_many, _colour)
        if (asked := make(photograph, rng)) is not None
    ]


def _doing(photograph: Captioned, rng: random.Random) -> Asked | None:
    found = []
    for said in photograph.said:
        # The first subject is the one that the sentence is about.
        at = next((i for i, word in enumerate(said) if word in _SUBJECT_OF), None)
        if at is None:
            continue
        for i, word in enumerate(said[at + 1 : at + 9], at + 1):
            thing = said[i + 1 : i + 2] in (["trunks"], ["pool"], ["suit"], ["gear"])
            if word.endswith("ing") and word not in _NO_DEED and not thing:
                found.append((_SUBJECT_OF[said[at]], _phrase(said[i:])))
                break
    if not found:
        return None
    subject, deed = rng.choice(found)
    verb = (
        "are"
        if subject.endswith("s") or subject in ("men", "women", "children", "people")
        else "is"
    )
    others = tuple(other for name, other in found if name == subject)
    return Asked(f"What {verb} the {subject} doing?", deed, "doing", others)


def _phrase(said: list[str]) -> str:
    """'riding a bike while it rains' -> 'Riding a bike.'"""
    stop = {"while", "and", "with", "who", "that", "as", "whilst", "near", "next", "during"}
    kept = [said[0]]
    for word in said[1:6]:
        if word in stop:
            break
        kept.append(word)
    loose = {"a", "an", "the", "in", "on", "of", "at", "to", "her", "his", "their", "through", "by",
             "for", "from", "over", "into", "up", "down", "red", "blue", "black", "white", "brown",
             "two", "is", "are", "its", "large", "small", "green", "yellow"}  # fmt: skip
    while len(kept) > 1 and kept[-1] in loose:
        kept.pop()
    return " ".join(kept).capitalize() + "."


def _where(photograph: Captioned, rng: random.Random) -> Asked | None:
    pattern = re.compile(
        r"\b((?:in|on|at|through|along|across|by|near|down) (?:the |a |an |some )?(?:\w+ )?"
        rf"(?:{_PLACES}))\b"
    )
    found = [
        match for said in photograph.said for match in pattern.findall(" ".join(said))
        if " of " not in match
    ]  # fmt: skip
    if not found:
        return None
    forms = ("Where is this?", "Where does it happen?", "Where is it?", "Where are they?")
    return _one_of(found, rng.choice(forms), "where", rng)


def _who(photograph: Captioned, rng: random.Random) -> Asked | None:
    nouns = " ".join(_SUBJECTS.values()).replace(" ", "|")
    pattern = re.compile(
        rf"^((?:an?|one|two|three|four|several|some|a group of) (?:\w+ ){{0,2}}?(?:{nouns}))\b"
    )
    found = [m[1] for said in photograph.said if (m := pattern.match(" ".join(said)))]
    if not found:
        return None
    forms = ("Who is in the video?", "Who is it?", "Who do you see?", "Who is shown?")
    return _one_of(found, rng.choice(forms), "who", rng)


def _one_of(found: list[str], question: str, kind: str, rng: random.Random) -> Asked:
    answers = [text.capitalize() + "." for text in found]
    return Asked(question, rng.choice(answers), kind, tuple(answers))


def _how_many(photograph: Captioned, rng: random.Random) -> Asked | None:
    said = [" ".join(caption) for caption in photograph.said]
    found = []
    for one, many in (("dog", "dogs"), ("man", "men"), ("woman", "women"), ("boy", "boys"),
                      ("girl", "girls"), ("child", "children"), ("person", "people")):  # fmt: skip
        numbers = []
        for caption in said:
            if match := re.search(rf"\b(two|three|four) (?:\w+ )?{many}\b", caption):
                numbers.append(match[1])
            elif len(re.findall(rf"\b{one}\b", caption)) == 1 and re.search(
                rf"\b(?:a|an|one) (?:\w+ ){{0,2}}{one}\b", caption
            ):
                numbers.append("one")
        if len(numbers) >= 2 and len(set(numbers)) == 1:
            found.append(Asked(f"How many {many} are there?", _NUMBERS[numbers[0]], "how many"))
    # One is what most photographs show: the others come first where there is a choice.
    found.sort(key=lambda asked: asked.answer == "One.")
    if not found or (found[0].answer == "One." and rng.random() < 0.6):
        return None
    return found[0]


def _colour(photograph: Captioned, rng: random.Random) -> Asked | None:
    seen: dict[str, set[str]] = {}
    for said in photograph.said:
        for place, (colour, thing) in enumerate(itertools.pairwise(said)):
            if colour in _COLOURS and thing in _COLOURED:
                # Of a black and white dog, neither is the colour.
                several = said[max(place - 2, 0) : place + 1] if said[place - 1] == "and" else []
                found = {"grey" if c == "gray" else c for c in (colour, *several) if c in _COLOURS}
                seen.setdefault(thing, set()).update(found)
    clear = sorted(thing for thing, colours in seen.items() if len(colours) == 1)
    if not clear:
        return None
    thing = rng.choice(clear)
    verb = "are" if thing in ("dogs", "shorts", "pants", "shirts") else "is"
    colour = next(iter(seen[thing])).capitalize()
    return Asked(f"What colour {verb} the {thing}?", colour + ".", "colour")


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
