"""The clips that `mini` learns from, drawn from all sources, and what is asked of each.

A clip is a picture standing still, a camera move over one, several with hard cuts, or a real one.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipelines.mini import details, questions
from pipelines.mini.clips import View
from pipelines.mini.concepts import PEOPLE
from pipelines.mini.data import Example, move_of
from pipelines.mini.labels import Labels
from pipelines.mini.questions import Asked, Captioned, Presence

# Of a batch: pictures and real clips that someone wrote about, such with captions alone, such with
# labels alone, and clips with cuts.
SHARES = {"written": 0.45, "clip": 0.14, "captions": 0.20, "labels": 0.08, "cuts": 0.13}
CAP = 0.3  # of a batch, the most from one source
# Sources of clips that show one kind of thing again and again (robot arms, a hall from above, what
# generators make), and how much less often they are drawn: else every clip is told as a robot.
ALIKE = {"droid-dataset": 0.2, "bridgedata": 0.2, "mobile-aloha": 0.2, "deliangWu": 0.3,
         "lumiere": 0.5, "snapvideo": 0.5, "make-a-video": 0.5}  # fmt: skip
# (frames, tokens of each) and how often, of clips that stand still, move, or have cuts.
Budget = tuple[int, int]
STILL: dict[Budget, float] = {
    (1, 9): 0.12, (1, 17): 0.38, (1, 33): 0.05, (1, 65): 0.03, (2, 17): 0.08, (4, 9): 0.06,
    (4, 17): 0.06, (8, 9): 0.05, (8, 17): 0.14, (16, 9): 0.02, (64, 9): 0.01,
}  # fmt: skip
MOVING: dict[Budget, float] = {
    (2, 17): 0.10, (4, 9): 0.20, (4, 17): 0.25, (4, 33): 0.03, (8, 9): 0.17, (8, 17): 0.20,
    (16, 9): 0.03, (32, 9): 0.015, (64, 9): 0.005,
}  # fmt: skip
# An answer that is given more often than this is asked for less, by the square root.
COMMON = 200


@dataclass(frozen=True)
class Clip:
    """Views, one a frame; tokens of each; what is asked of it, and answered."""

    views: list[View]
    budget: int
    asked: list[tuple[str, str]]


def captioned(example: Example) -> Captioned:
    """All sentences about it. What was answered with no is not there, and not counted as said."""
    captions = [questions.tidy(text) for text in (example.written, *example.captions) if text]
    answered = [f"{question} {answer}" for question, answer in example.qa if answer != "No."]
    return Captioned(captions, answered, brief=len(captions) < 4)


class Mixture:
    """Draws batches of clips; depends on what is given to it and the random numbers alone."""

    def __init__(
        self, examples: Sequence[Example], *, budgets: dict[Budget, float] | None = None,
        ready: Callable[[View], bool] = lambda _: False,
    ) -> None:  # fmt: skip
        """examples: those that can be shown. budgets: instead of the mixture's own.

        ready: whether an end of a camera move can be shown.
        """
        self.examples, self._ready = examples, ready
        self._still, self._moving = budgets or STILL, budgets or MOVING
        self._said = [captioned(example) for example in examples]
        self._presence = Presence(self._said, questions.ASKED)
        self._people = Presence(self._said, PEOPLE)
        self._labels = Labels(examples)
        self._spread: dict[str, int] = defaultdict(int)
        groups: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for number, example in enumerate(examples):
            groups[example.kind][example.source].append(number)
            if not example.moves and self._said[number].captions:
                groups["cuts"][example.source].append(number)
            for _, answer in example.qa:
                self._spread[answer] += 1
        self._groups = {name: group for name, group in groups.items() if name in SHARES}

    def batch(self, size: int, rng: random.Random) -> list[Clip]:
        """As many clips, none of the sources having more than its cap of them."""
        taken: dict[str, int] = defaultdict(int)
        most = max(1, round(size * CAP))
        clips: list[Clip] = []
        names = list(self._groups)
        while len(clips) < size:
            name = rng.choices(names, [SHARES[each] for each in names])[0]
            group = self._groups[name]
            open_ = [source for source in group if taken[source] < most] or list(group)
            source = rng.choices(open_, [_heard(each, len(group[each])) for each in open_])[0]
            taken[source] += 1
            number = rng.choice(group[source])
            clip = self._cuts(number, rng) if name == "cuts" else self._single(number, rng)
            if clip.asked:
                clips.append(clip)
        return clips

    def _single(self, number: int, rng: random.Random) -> Clip:
        example, said = self.examples[number], self._said[number]
        frames, budget = _drawn(self._moving if example.moves else self._still, rng)
        if example.moves:
            count = len(example.rows)
            views = [View(example.rows[i * count // frames]) for i in range(frames)]
        else:
            views = self._picture(example, frames, rng)
        return Clip(views, budget, self._about(number, example, said, rng))

    def _picture(self, example: Example, frames: int, rng: random.Random) -> list[View]:
        """Of a camera move only the two ends are seen, the first in its first half: features of
        every place between would cost days."""
        move = move_of(example)
        if rng.random() < 0.5 or not (self._ready(move.start) and self._ready(move.end)):
            return example.views * frames
        if frames == 1:
            return [rng.choice([move.start, move.end])]
        return [move.start if 2 * i < frames else move.end for i in range(frames)]

    def _about(
        self, number: int, example: Example, said: Captioned, rng: random.Random
    ) -> list[tuple[str, str]]:
        """What is asked of one example."""
        asked = [Asked(*qa, "written") for qa in example.qa if self._asks(qa[1], rng)]
        if example.written:
            asked.append(Asked(rng.choice(questions.DESCRIBE), example.written, "caption"))
        elif said.captions:
            asked += [questions.describe(said, rng) for _ in range(2)]
            if len(said.captions) > 1 and rng.random() < 0.1:
                asked.append(questions.at_length(said, rng))
            asked += details.draw(said, rng)
        pairs = int(rng.random() < 0.5) if example.written else 2
        drawn = self._presence.draw([number], pairs, rng)
        if (person := self._people.one(number, rng)) and rng.random() < 0.5:
            drawn = [person, *drawn]
        asked += [questions.is_there(concept, shown, rng) for concept, shown in drawn]
        if not example.written or rng.random() < 0.3:
            asked += self._labels.draw(example, rng)
        return [(each.question, each.answer) for each in asked]

    def _asks(self, answer: str, rng: random.Random) -> bool:
        if answer in ("Yes.", "No."):
            return True
        return rng.random() < (COMMON / max(COMMON, self._spread[answer])) ** 0.5

    def _cuts(self, number: int, rng: random.Random) -> Clip:
        """Two to five pictures, hard cuts between them."""
        frames, budget = _drawn(self._moving, rng)
        scenes = [number]
        more = 1 if frames < 4 or rng.random() < 0.65 else rng.randint(2, min(frames // 2, 5))
        group = self._groups["cuts"]
        while len(scenes) < min(1 + more, frames):
            source = rng.choices(list(group), [len(each) ** 0.5 for each in group.values()])[0]
            if (other := rng.choice(group[source])) not in scenes:
                scenes.append(other)
        cuts = [frames * place // len(scenes) for place in range(1, len(scenes))]
        if rng.random() < 0.3:  # scenes need not be equally long
            cuts = sorted(rng.sample(range(1, frames), len(cuts)))
        views: list[View] = []
        for scene, begin, end in zip(scenes, [0, *cuts], [*cuts, frames], strict=True):
            views += self._picture(self.examples[scene], end - begin, rng)
        said = [self._said[scene] for scene in scenes]
        asked = [
            questions.is_there(concept, shown, rng)
            for concept, shown in self._presence.draw(scenes, 1, rng)
        ]
        if len(scenes) == 1:
            asked.append(questions.describe(said[0], rng))
        else:
            # Told of cuts too often, it would tell every single shot as two.
            orders = [each for each in questions.order(said, rng)
                      if each.kind != "story" or rng.random() < 0.08]  # fmt: skip
            asked += rng.sample(orders, min(3, len(orders))) + questions.when(said, 4, rng)
        return Clip(views, budget, [(each.question, each.answer) for each in asked])


def _heard(source: str, size: int) -> float:
    """By the root of their number: a small source is heard, a large one not left out."""
    alike = next((part for name, part in ALIKE.items() if name in source), 1.0)
    return float(alike * size**0.5)


def _drawn(budgets: dict[Budget, float], rng: random.Random) -> Budget:
    return rng.choices(list(budgets), list(budgets.values()))[0]
