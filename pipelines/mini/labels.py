"""Questions from a picture's labels: what is it, is there one, where is it, what is being done.

What a label means, a thing, a place or a deed, is known by the data set it comes from; data sets
whose labels are brand names, or words that a program found in captions, are left out.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

from pipelines.mini.concepts import word_set
from pipelines.mini.data import Example
from pipelines.mini.questions import Asked, words

Kind = Literal["thing", "place", "deed", "sport"]
KINDS: dict[str, Kind] = {
    "MachineLearning2020/Homework2-Caltech101": "thing",
    "MachineLearning2020/Homework3-PACS": "thing",
    "EliSchwartz/imagenet-sample-images": "thing",
    "ajschumacher/imagen": "thing",
    "thunderInfy/imagenette": "thing",
    "pavan555/DeepLearning4OpenCV": "thing",
    "Obmutescence/COCO-MINI": "thing",
    "dicky1207/dashboard_stanford40": "deed",
    "jurjsorinliviu/Sports-Type-Classifier": "sport",
    "akshay993/Spatial-Pyramid-Matching-for-Scene-Classification": "place",
    "bruvduroiu/comp3204-scene-classification": "place",
    "jw995/Computer-Vision__Scene-classification-system-using-bag-of-words": "place",
    "nhantd/CMU16720-Scene-Classification": "place",
}
STYLES = ("photo", "cartoon", "painting", "sketch")
# Of the label what says how the picture was made or sorted, and not what it shows.
_ASIDE = frozenset((*STYLES, "scene", "sport", "black and white photo", "person", "face"))
_SPELLING = {
    "water lilly": "water lily", "binocular": "binoculars", "headphone": "headphones",
    "rhino": "rhinoceros", "ski": "skis", "bass": "bass fish", "tv or monitor": "television",
    "head cabbage": "cabbage", "domestic cat": "cat", "cougar face": "cougar",
    "flamingo head": "flamingo", "crocodile head": "crocodile", "tv": "television",
    "english springer dog": "dog", "tench fish": "fish", "sports ball": "ball",
}  # fmt: skip
# What is the same, or may well be taken for it: never a no for one another.
_ALIKE = tuple(
    frozenset(group.split())
    for group in (
        "motorbike motorcycle moped scooter", "bike bicycle tandem", "cellphone phone telephone",
        "laptop computer notebook keyboard monitor screen desktop", "crocodile alligator",
        "car jeep minivan cab taxi limousine convertible", "airplane airliner warplane plane",
        "ship boat ketch schooner ferry yacht canoe gondola speedboat", "cup mug pot pitcher",
        "cat leopard tiger lion cougar wildcat lynx cheetah jaguar panther",
        "dog hound terrier retriever spaniel poodle collie wolf fox dhole husky corgi",
        "lobster crayfish crab", "butterfly monarch admiral", "elephant mammoth",
        "lamp lampshade candle", "chair sofa couch bench throne", "guitar mandolin banjo violin",
        "violin cello", "piano organ accordion", "pizza bagel sandwich hamburger",
        "helmet hat cap sombrero bonnet", "antelope gazelle hartebeest impala deer okapi",
        "monkey ape gorilla chimpanzee baboon siamang", "turtle tortoise hawksbill terrapin",
        "whale dolphin shark", "duck goose swan", "rooster cock hen", "church minaret palace",
        "pagoda temple", "starfish anemone coral", "sunflower daisy lotus lily",
        "mountain landscape coast country", "ocean coast beach", "forest rainforest bamboo garden",
        "street highway city building suburb campus", "office computer", "kitchen living room",
        "stadium field", "library bookshelf store", "football rugby soccer", "tennis badminton",
        "wrestling kabaddi boxing", "hockey", "cooking cutting washing", "texting talking phone",
        "running jumping", "fixing riding", "reading writing", "drinking smoking pouring",
        "gardening cutting", "horse zebra donkey", "truck van trailer",
    )
)  # fmt: skip
_PLURAL = word_set("people men women children cattle skis")
_ENCLOSED = word_set(
    "kitchen bedroom office forest garden library gallery room store airport auditorium desert "
    "rainforest suburb stadium"
)
_MASS = word_set(
    "broccoli bacon guacamole velvet butter milk bread rice hay corn cream chocolate meat toast "
    "soup salad food ice water sand snow grass spaghetti cauliflower spinach ginger garlic "
    "asparagus lettuce equipment clothing"
)


def phrase(name: str) -> str:
    """A noun with the article that it takes: 'accordion' -> 'an accordion', 'skis' -> 'skis'."""
    last = name.split()[-1]
    if last in _MASS or is_plural(name):
        return name
    vowel = re.match(r"(?!uni|use|eu|one)[aeiou]|hour", name) is not None
    return f"{'an' if vowel else 'a'} {name}"


def is_plural(name: str) -> bool:
    """Whether a noun is spoken of as several: 'skis' is, 'bus' is not."""
    last = name.split()[-1]
    several = last.endswith("s") and not last.endswith(("ss", "us", "is", "as", "lens", "series"))
    return several or last in _PLURAL


def names(example: Example) -> list[str]:
    """What its labels name, in words that a question can use."""
    if example.source not in KINDS:
        return []
    return [_SPELLING.get(label, label) for label in example.labels if label not in _ASIDE]


def alike(one: str, other: str) -> bool:
    """Whether two names may mean the same picture: a word in common, or in one group."""
    a, b = set(words(one)), set(words(other))
    return bool(a & b) or any(group & a and group & b for group in _ALIKE)


class Labels:
    """Draws questions; a name is asked for where it is and where it is not equally often."""

    def __init__(self, examples: Iterable[Example]) -> None:
        found: dict[str, set[str]] = defaultdict(set)
        for example in examples:
            found[example.source].update(names(example))
        self._names = {source: sorted(named) for source, named in found.items()}

    def draw(self, example: Example, rng: random.Random) -> list[Asked]:
        """What it is, and one yes and one no; nothing of a picture without labels."""
        named = names(example)
        asked = self._style(example, rng)
        if not named:
            return asked
        kind = KINDS[example.source]
        shown = rng.choice(named)
        if len(named) == 1 or kind != "thing":  # of several things, none is what it is
            asked.append(_what(kind, shown, rng))
        asked.append(_is_it(kind, shown, True, rng))
        if (absent := self._absent(example, named, rng)) is not None:
            asked.append(_is_it(kind, absent, False, rng))
        return asked

    def _absent(self, example: Example, named: Sequence[str], rng: random.Random) -> str | None:
        """A name of the same source that neither labels nor words rule in."""
        said = " ".join([example.written, *example.captions, *(" ".join(qa) for qa in example.qa)])
        known = [*named, *example.labels, said]
        candidates = self._names[example.source]
        for _ in range(8):
            name = rng.choice(candidates)
            if not any(alike(name, each) for each in known):
                return name
        return None

    def _style(self, example: Example, rng: random.Random) -> list[Asked]:
        style = next((label for label in example.labels if label in STYLES), None)
        if style is None or not example.source.endswith("PACS"):
            return []
        other = rng.choice([each for each in STYLES if each != style])
        asked = rng.choice(
            (
                Asked(f"Is this a {style}?", "Yes.", "style"),
                Asked(f"Is this a {other}?", "No.", "style"),
                Asked("Is it a photo, a cartoon, a painting or a sketch?",
                      f"{phrase(style).capitalize()}.", "style"),
            )
        )  # fmt: skip
        return [asked]


def _what(kind: Kind, name: str, rng: random.Random) -> Asked:
    if kind == "place":
        form = rng.choice(("Where is this?", "What place is this?", "What kind of place is it?"))
        answer = (
            f"in {phrase(name)}" if form == "Where is this?" and _within(name) else phrase(name)
        )
    elif kind == "deed":
        form = rng.choice(
            ("What is the person doing?", "What is happening?", "What are they doing?")
        )
        answer = name
    elif kind == "sport":
        form, answer = rng.choice(("What sport is shown?", "Which sport is it?")), name
    else:
        form = rng.choice(("What is this?", "What is shown?", "What do you see?", "What is it?"))
        answer = phrase(name)
    return Asked(form, answer[:1].upper() + answer[1:] + ".", "label")


def _within(name: str) -> bool:
    """Whether one is in such a place, not on or at it."""
    return words(name)[-1] in _ENCLOSED


def _is_it(kind: Kind, name: str, shown: bool, rng: random.Random) -> Asked:
    if kind == "deed":
        form = rng.choice(("Is someone {}?", "Is the person {}?", "Is anyone {}?"))
    elif kind == "sport":
        form = rng.choice(("Is this {}?", "Is it {}?"))
    elif is_plural(name):
        form = rng.choice(("Are there {}?", "Are there any {}?", "Can you see {}?"))
    elif kind == "place":
        form, name = rng.choice(("Is this {}?", "Does the video show {}?")), phrase(name)
    else:
        form = rng.choice(("Is there {}?", "Can you see {}?", "Does the video show {}?"))
        name = phrase(name)
    return Asked(form.format(name), "Yes." if shown else "No.", "label, yes or no")
