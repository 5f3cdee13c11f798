"""The clips that `mini` learns from, drawn from captioned photographs, and what is asked of them.

A clip is a photograph standing still, a camera move over one, or several with hard cuts.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.mini import details, questions
from pipelines.mini.clips import Move, View, draw_move, still
from pipelines.mini.concepts import ACTIONS, CONCEPTS
from pipelines.mini.questions import Captioned, Presence


@dataclass(frozen=True)
class Photographs:
    """A split: which rows of the file, what is said of each, and the camera move over it."""

    rows: list[int]
    said: list[Captioned]
    moves: list[Move]
    presence: Presence


def read_photographs(path: Path, split: str, limit: int | None) -> Photographs:
    """One split of the Parquet file, without its images."""
    table = pq.read_table(path, columns=["captions", "split"]).to_pydict()
    rows = [row for row, name in enumerate(table["split"]) if name == split][:limit]
    said = [
        Captioned([questions.tidy(text) for text in table["captions"][row] if text.strip()])
        for row in rows
    ]
    moves = [draw_move(row, random.Random(f"0:{row}")) for row in rows]
    return Photographs(rows, said, moves, Presence(said, (*CONCEPTS, *ACTIONS)))


def draw_clip(
    photographs: Photographs, number: int, frames: int, rng: random.Random
) -> tuple[list[View], list[tuple[str, str]]]:
    """A clip that begins with photograph `number`, and what is asked and answered about it.

    Of a camera move only the two ends are seen, the first in its first half: features of every
    place between would cost days.
    """
    scenes = [number]
    if frames > 1 and rng.random() < 0.5:
        more = 1
        if frames > 3 and rng.random() < 0.35:
            more = rng.randint(2, max(2, min(frames // 2, 6) - 1))
        others = [n for n in range(len(photographs.rows)) if n != number]
        scenes += rng.sample(others, min(more, len(others)))
    cuts = [frames * place // len(scenes) for place in range(1, len(scenes))]
    if rng.random() < 0.3:  # scenes need not be equally long
        cuts = sorted(rng.sample(range(1, frames), len(cuts)))
    clip: list[View] = []
    for scene, begin, end in zip(scenes, [0, *cuts], [*cuts, frames], strict=True):
        move = photographs.moves[scene]
        if rng.random() < (0.5 if frames > 1 else 0.4):
            move = still(photographs.rows[scene])
        elif frames == 1:
            move = Move(*[rng.choice([move.start, move.end])] * 2)
        share = end - begin
        clip += [move.start if 2 * i < share else move.end for i in range(share)]
    pairs = 3 if len(scenes) == 1 else 1
    asked = [
        questions.is_there(concept, shown, rng)
        for concept, shown in photographs.presence.draw(scenes, pairs, rng)
    ]
    said = [photographs.said[scene] for scene in scenes]
    if len(scenes) == 1:
        asked += [questions.describe(said[0], rng) for _ in range(2)]
        if rng.random() < 0.05:
            asked.append(questions.at_length(said[0], rng))
        found = details.draw(said[0], rng)
        asked += rng.sample(found, min(2, len(found)))
    else:
        # Told of cuts too often, it would tell every single shot as two.
        orders = [each for each in questions.order(said, rng)
                  if each.kind != "story" or rng.random() < 0.25]  # fmt: skip
        asked += rng.sample(orders, min(2, len(orders))) + questions.when(said, 8, rng)
        short = [each for _ in range(3) for each in questions.order(said, rng)]
        asked += [each for each in short if each.kind in ("which first", "before")]
    return clip, [(each.question, each.answer) for each in asked]
