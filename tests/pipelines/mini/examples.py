"""A folder of data as `mini` learns from it, small."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.pipelines.made import CAPTIONS, photograph

STANFORD = "dicky1207/dashboard_stanford40"
CALTECH = "MachineLearning2020/Homework2-Caltech101"
WRITTEN = [
    {
        "image": "kitchen.jpg",
        "caption": "A red kettle stands in a white kitchen.",
        "qa": [["What colour is the kettle?", "Red."], ["Is there a man?", "No."]],
        "split": "train",
    },
    {
        "image": "rider.jpg",
        "caption": "A man in a blue coat rides a brown horse.",
        "qa": [["What is he riding?", "A horse."], ["Is he indoors?", "No."]],
        "split": "dev",
    },
    {
        "clip": "robot/1.mp4",
        "caption": "A robot arm puts a cup on a table.",
        "qa": [["What moves?", "A robot arm."], ["Is there a cup?", "Yes."]],
        "split": "train",
    },
]


def write_data(folder: Path) -> Path:
    """Flickr8k, everyday pictures, clips, and what was written of them."""
    folder.mkdir()
    flickr = {
        "image": [f"flickr{n}.jpg" for n in range(7)],
        "webp": [photograph(n) for n in range(7)],
        "captions": CAPTIONS,
        "split": ["train"] * 5 + ["dev"] * 2,
    }
    pq.write_table(pa.table(flickr), folder / "flickr8k.parquet")
    everyday = {
        "image": ["kitchen.jpg", "rider.jpg", "cello.jpg", "crab.jpg", "bare.jpg"],
        "webp": [photograph(10 + n) for n in range(5)],
        "captions": [[], [], [], [], []],
        "derived": [["The kettle is wrong."], [], [], [], []],
        "labels": [["kettle"], ["riding a horse", "person"], ["cello"], ["crab"], []],
        "qa": [["what is wrong?\tthis"], [], [], [], []],
        "source": ["made/coco", STANFORD, CALTECH, CALTECH, "made/bare"],
        "split": ["train", "dev", "train", "train", "train"],
    }
    pq.write_table(pa.table(everyday), folder / "everyday_0.parquet")
    clips = {
        "clip": ["robot/1.mp4", "torchcodec/nasa_13013.mp4"],
        "frames": [[photograph(20 + 8 * c + n) for n in range(8)] for c in range(2)],
        "captions": [["A robot arm tries to put a cup on a table."], ["A man in a museum."]],
        "labels": [["robot arm"], []],
        "source": ["made/robots", "pytorch/torchcodec"],
        "kind": ["real", "real"],
        "split": ["train", "train"],
    }
    pq.write_table(pa.table(clips), folder / "clips.parquet")
    (folder / "written.jsonl").write_text("".join(json.dumps(row) + "\n" for row in WRITTEN))
    return folder
