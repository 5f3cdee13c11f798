"""What is read of the files, and in which order the tower sees it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.mini.clips import View
from pipelines.mini.data import Data, by_use, move_of, read_data
from tests.pipelines.made import CAPTIONS, photograph, write_parquet
from tests.pipelines.mini.examples import write_data


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return read_data(write_data(tmp_path / "data"))


def test_everything_is_read_and_joined_by_name(data: Data) -> None:
    found = {example.name: example for example in data.examples}
    assert len(found) == 7 + 5 + 1
    kitchen, robot = found["kitchen.jpg"], found["robot/1.mp4"]
    assert kitchen.written == "A red kettle stands in a white kitchen."
    assert kitchen.qa == (("What colour is the kettle?", "Red."), ("Is there a man?", "No."))
    assert (kitchen.captions, kitchen.labels, kitchen.split) == ((), ("kettle",), "train")
    assert (robot.moves, kitchen.moves) == (True, False)
    assert robot.captions == ("A robot arm tries to put a cup on a table.",)
    assert found["flickr0.jpg"].captions == tuple(CAPTIONS[0])
    assert found["flickr0.jpg"].source == "flickr8k"
    assert {example.name for example in data.split("dev")} == {
        "flickr5.jpg", "flickr6.jpg", "rider.jpg",
    }  # fmt: skip


def test_rows_are_the_pictures(data: Data) -> None:
    rows = [row for example in data.examples for row in example.rows]
    assert sorted(rows) == list(range(len(data.images)))
    found = {example.name: example for example in data.examples}
    assert data.images[found["crab.jpg"].rows[0]] == photograph(13)
    assert [data.images[row] for row in found["robot/1.mp4"].rows] == [
        photograph(20 + n) for n in range(8)
    ]
    assert len(set(data.digests)) == len(data.images)


def test_the_films_that_the_model_is_tried_on_are_left_out(data: Data) -> None:
    assert not any("nasa" in example.name for example in data.examples)


def test_a_single_file_of_captioned_photographs_will_do(tmp_path: Path) -> None:
    data = read_data(write_parquet(tmp_path / "captions.parquet", ["dev", "train", "train"]))
    assert [example.split for example in data.examples] == ["dev", "train", "train"]
    assert len({example.name for example in data.examples}) == 3
    assert data.examples[1].captions == tuple(CAPTIONS[1])


def test_the_tower_sees_first_what_is_measured_on_and_then_some_of_each_kind(data: Data) -> None:
    examples = data.split("dev") + [
        replace(example, name=f"{example.name}{n}", rows=tuple(1000 * n + r for r in example.rows))
        for n in range(1, 21)
        for example in data.split("train")
    ]
    views = by_use(examples)
    pictures = [view for example in examples for view in example.views]
    assert {view.row for view in views[:3]} == {row for e in data.split("dev") for row in e.rows}
    assert len(views[: len(pictures)]) == len(set(pictures))
    assert set(views[: len(pictures)]) == set(pictures)
    kinds = {view: example.kind for example in examples for view in example.views}
    early = Counter(kinds[view] for view in views[3 : len(pictures) // 3])
    assert early["captions"] > early["labels"] > 0
    assert early["written"] > 0
    assert early["clip"] > 0
    moved = {view.row for view in views[len(pictures) :]}
    assert moved
    assert all(View(row) in pictures for row in moved)


def test_a_picture_has_always_the_same_move(data: Data) -> None:
    first, second = data.examples[1], data.examples[2]
    assert move_of(first) == move_of(first)
    assert move_of(first).start.row == first.rows[0]
    assert move_of(first).start != move_of(first).end
    assert move_of(first).start.box != move_of(second).start.box
