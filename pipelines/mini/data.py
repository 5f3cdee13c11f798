"""What `mini` learns from: pictures and clips, and what is said of each, from a folder of files.

The folder holds any of these; columns that a file lacks count as empty:

- `flickr8k.parquet`, `everyday_*.parquet`: `image` (a name), `webp` (encoded, any format Pillow
  reads), `captions` (sentences by people), `labels`, `source`, `split` ("train" or "dev"). What
  else they hold (`derived`, `qa`: made by rules) is left alone: too often it is wrong.
- `clips.parquet`: `clip` (a name), `frames` (encoded), `captions`, `labels`, `source`, `split`.
- `written.jsonl`: of some of them a caption and questions with answers, by someone who looked:
  {"image" or "clip": name, "caption": text, "qa": [[question, answer], ...]}.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from pipelines.mini.clips import Move, View, draw_move

FLICKR = "flickr8k"
MOVED = 4  # of so many pictures with captions, one is shown under a camera move too
# The same films as two of the clips that the finished model is tried on: never learned from.
HELD_OUT = frozenset({"torchcodec/nasa_13013.mp4", "sample-videos/bottle-detection.mp4"})


def digest(image: bytes) -> str:
    """A name for an encoded picture, whichever file it came from."""
    return hashlib.sha256(image).hexdigest()[:16]


Kind = Literal["written", "clip", "captions", "labels"]
# How many examples of each kind the tower sees in a round; a clip is eight pictures.
PACE: dict[Kind, float] = {"written": 5, "captions": 2, "labels": 1.5, "clip": 0.4}


@dataclass(frozen=True)
class Example:
    """A picture, or a clip as a few even frames, and what is said of it.

    rows: its pictures, as `Data.images` counts them. captions: sentences by people. labels: as the
    source has them. written: a caption by someone who looked, or none; qa: their questions with
    answers.
    """

    name: str
    rows: tuple[int, ...]
    source: str
    split: str
    captions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    written: str = ""
    qa: tuple[tuple[str, str], ...] = ()

    @property
    def moves(self) -> bool:
        """Whether it is a clip."""
        return len(self.rows) > 1

    @property
    def kind(self) -> Kind:
        """The best that is said of it; of a clip that it is one."""
        if self.moves:
            return "clip"
        if self.written:
            return "written"
        return "captions" if self.captions else "labels"

    @property
    def views(self) -> list[View]:
        return [View(row) for row in self.rows]


@dataclass(frozen=True)
class Data:
    """All examples, and the encoded pictures that they are made of."""

    images: list[bytes]
    examples: list[Example]

    @cached_property
    def digests(self) -> list[str]:
        """The pictures' names."""
        return [digest(image) for image in self.images]

    def split(self, name: str) -> list[Example]:
        return [example for example in self.examples if example.split == name]


def read_data(folder: Path) -> Data:
    """Everything in the folder, or in a single Parquet file."""
    written: dict[str, dict[str, Any]] = {}
    path = folder / "written.jsonl"
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            written[row.get("image") or row["clip"]] = row
    images: list[bytes] = []
    examples: list[Example] = []
    for name, frames, row in _rows(folder):
        if name in HELD_OUT:
            continue
        said = written.get(name, {})
        examples.append(
            Example(
                name,
                tuple(range(len(images), len(images) + len(frames))),
                row.get("source", FLICKR),
                row["split"],
                tuple(text for text in row.get("captions") or () if text.strip()),
                tuple(row.get("labels") or ()),
                said.get("caption", ""),
                tuple((question, answer) for question, answer in said.get("qa", ())),
            )
        )
        images += frames
    return Data(images, examples)


def _rows(folder: Path) -> Iterator[tuple[str, list[bytes], dict[str, Any]]]:
    """Each picture's or clip's name, its encoded pictures, and its row."""
    wanted = {"image", "webp", "clip", "frames", "captions", "labels", "source", "split"}
    for path in sorted(folder.glob("*.parquet")) if folder.is_dir() else [folder]:
        columns = [name for name in pq.read_schema(path).names if name in wanted]
        for row in pq.read_table(path, columns=columns).to_pylist():
            if "clip" in row:
                yield row["clip"], row["frames"], row
            else:
                yield row.get("image") or digest(row["webp"]), [row["webp"]], row


def move_of(example: Example) -> Move:
    """The camera move over a picture: always the same, for the tower has to see its ends."""
    return draw_move(example.rows[0], random.Random(example.name))


def by_use(examples: Sequence[Example]) -> list[View]:
    """All that may be shown of them, the most useful first.

    First what is measured on. Then of each kind of example some, so that training can begin on any
    part of it; and last the ends of camera moves, over some of the pictures with captions.
    """
    place: Counter[str] = Counter()
    order: list[tuple[float, Example]] = []
    for example in examples:
        place[example.kind] += 1
        order.append(
            (place[example.kind] / PACE[example.kind] if example.split == "train" else 0, example)
        )
    order.sort(key=lambda each: each[0])
    views = [view for _, example in order for view in example.views]
    moved = [e for e in examples if e.captions and not e.moves and e.split == "train"][::MOVED]
    return views + [view for e in moved for view in (move_of(e).start, move_of(e).end)]
