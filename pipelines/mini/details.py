"""Questions and answers made from captions: who, what, where, how many, which colour."""

from __future__ import annotations

import itertools
import random
import re

from pipelines.mini.concepts import word_set
from pipelines.mini.questions import Asked, Captioned

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


def draw(photograph: Captioned, rng: random.Random) -> list[Asked]:
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
