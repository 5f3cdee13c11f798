"""Makes a test of captioned photographs: video files, and a question file for `vzvideo eval`.

    python -m pipelines.mini.make_clips --captions captions.parquet --split dev --out clips/
    vzvideo eval clips/questions.jsonl

Every photograph becomes a clip standing still and a clip with a camera move; every two in a row
become one clip with a hard cut, and every sixth begins a long clip of six scenes. `--captions` is a
Parquet file with the columns `webp` (encoded image) and `captions`, and `split` where `--split` is
given.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipelines.mini import details, questions
from pipelines.mini.clips import Move, draw_move, render, still
from pipelines.mini.concepts import ACTIONS, CONCEPTS
from pipelines.mini.questions import Asked, Captioned, Presence

FRAMES = 16  # of a scene, at 8 a second
PAIRS = 2  # yes-and-no questions of each photograph, so many of either
SCENES = 6  # of a long clip
Row = dict[str, Any]


def still_rows(
    number: int, said: Captioned, presence: Presence, rng: random.Random
) -> Iterator[Row]:
    """What is asked of a photograph that stands still."""
    for concept, shown in presence.draw([number], PAIRS, rng):
        yield _exact(questions.is_there(concept, shown, rng))
    for asked in details.draw(said, rng):
        yield _exact(asked)
    yield _caption("caption", said)


def pan_rows(number: int, said: Captioned, presence: Presence, rng: random.Random) -> Iterator[Row]:
    """What is asked of a photograph under a moving camera."""
    for concept, shown in presence.draw([number], 1, rng):
        yield _exact(questions.is_there(concept, shown, rng)) | {"kind": "presence, pan"}
    yield _caption("caption, pan", said)


def cut_rows(scenes: Sequence[Captioned], rng: random.Random) -> Iterator[Row]:
    """What is asked of two photographs in sequence."""
    yield from _ends(scenes, "which scene", rng)
    for asked in questions.order(scenes, rng):
        if asked.kind in ("which first", "before"):
            yield _exact(asked)


def long_rows(
    numbers: Sequence[int], said: Sequence[Captioned], presence: Presence, rng: random.Random
) -> Iterator[Row]:
    """What is asked of many photographs in sequence."""
    for concept, shown in presence.draw(numbers, SCENES // 2, rng):
        yield _exact(questions.is_there(concept, shown, rng)) | {"kind": "ever there, long"}
    yield from _ends([said[number] for number in numbers], "which scene, long", rng)


def _ends(scenes: Sequence[Captioned], kind: str, rng: random.Random) -> Iterator[Row]:
    first, last = (rng.choice(scenes[place].captions) for place in (0, -1))
    if first != last:
        for question, answer in (("What happens first?", first), ("What happens last?", last)):
            options = sorted([first, last])
            yield {"question": question, "answer": answer, "options": options, "kind": kind}


def _exact(asked: Asked) -> Row:
    answers = list(dict.fromkeys([asked.answer, *asked.others]))
    return {"question": asked.question, "answers": answers, "kind": asked.kind}


def _caption(kind: str, said: Captioned) -> Row:
    return {
        "question": "Describe the video.",
        "answers": list(said.captions),
        "kind": kind,
        "metric": "caption",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--captions", type=Path, required=True, help="Parquet file")
    parser.add_argument("--split", help="rows to take, by the column `split`")
    parser.add_argument("--limit", type=int, help="photographs taken")
    parser.add_argument("--out", type=Path, required=True, help="folder for clips and questions")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.split and "split" in pq.read_schema(args.captions).names:
        parser.error("the file has a column `split`: say which --split, or photographs that were "
                     "trained on are asked about")  # fmt: skip
    filters = [("split", "=", args.split)] if args.split else None
    table = pq.read_table(args.captions, filters=filters).slice(0, args.limit).to_pydict()
    images: list[bytes] = table["webp"]
    said = [
        Captioned([questions.tidy(text) for text in texts if text.strip()])
        for texts in table["captions"]
    ]
    presence = Presence(said, (*CONCEPTS, *ACTIONS))
    rows: list[Row] = []

    def add(name: str, moves: Sequence[Move], frames: int, asked: Iterator[Row]) -> None:
        render(args.out / name, images, moves, frames)
        rows.extend({"id": f"{name}:{n}", "video": name, **row} for n, row in enumerate(asked))

    for number, photograph in enumerate(said):
        rng = random.Random(f"{args.seed}:{number}")
        asked = still_rows(number, photograph, presence, rng)
        add(f"still-{number:04d}.mp4", [still(number)], FRAMES, asked)
        asked = pan_rows(number, photograph, presence, rng)
        add(f"pan-{number:04d}.mp4", [draw_move(number, rng, flips=False)], 2 * FRAMES, asked)
        following = (number + 1) % len(said)
        if following != number:
            asked = cut_rows([photograph, said[following]], rng)
            moves = [still(number), still(following)]
            add(f"cut-{number:04d}.mp4", moves, FRAMES, asked)
        if number % SCENES == 0 and len(said) >= SCENES:
            numbers = rng.sample(range(len(said)), SCENES)
            asked = long_rows(numbers, said, presence, rng)
            add(f"long-{number:04d}.mp4", [still(n) for n in numbers], FRAMES, asked)
    path = args.out / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{path}: {len(rows)} questions")


if __name__ == "__main__":
    main()
