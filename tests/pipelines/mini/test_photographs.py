"""Clips of photographs: what is asked of them agrees with what they show."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pipelines.mini import questions
from pipelines.mini.clips import still
from pipelines.mini.concepts import ACTIONS, CONCEPTS
from pipelines.mini.photographs import Photographs, draw_clip, read_photographs
from pipelines.mini.train import BUDGETS
from tests.pipelines.made import write_parquet

SPLITS = ["dev", "train", "train", "dev", "train", "train", "train"]


@pytest.fixture
def photographs(tmp_path: Path) -> Photographs:
    return read_photographs(write_parquet(tmp_path / "captions.parquet", SPLITS), "train", None)


def test_a_split_is_read_with_its_rows_of_the_file(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "captions.parquet", SPLITS)
    train = read_photographs(path, "train", None)
    assert train.rows == [1, 2, 4, 5, 6] == [move.start.row for move in train.moves]
    assert train.said[0].captions[0] == "A man rides a bike."
    assert read_photographs(path, "train", 2).rows == [1, 2]
    assert read_photographs(path, "dev", None).rows == [0, 3]
    assert read_photographs(path, "train", None).moves == train.moves


@pytest.mark.parametrize("frames", sorted({frames for (frames, _, _), _ in BUDGETS}))
def test_a_clip_has_its_frames_and_true_answers(photographs: Photographs, frames: int) -> None:
    said = dict(zip(photographs.rows, photographs.said, strict=True))
    forms = {
        form.format(concept.said): concept
        for concepts, texts in ((CONCEPTS, questions._IS_THERE), (ACTIONS, questions._IS_SOMEONE))
        for concept in concepts
        for form in texts
    }
    scenes_seen, views_seen, answers_seen = set(), set(), set()
    for seed in range(150):
        number = seed % len(photographs.rows)
        clip, asked = draw_clip(photographs, number, frames, random.Random(seed))
        assert len(clip) == frames
        assert clip[0].row == photographs.rows[number]
        scenes = [said[row] for row in dict.fromkeys(view.row for view in clip)]
        for view in clip:
            move = photographs.moves[photographs.rows.index(view.row)]
            assert view in (still(view.row).start, move.start, move.end)
            views_seen.add(view)
        for question, answer in asked:
            if question in forms:
                shown = [scene.shows(forms[question]) for scene in scenes]
                right = any(shown) if answer == "Yes." else not any(s is not False for s in shown)
                assert right, (question, answer)
                answers_seen.add(answer)
            elif question in questions._FIRST:
                assert answer in said[clip[0].row].captions
            elif question in questions._LAST:
                assert answer in said[clip[-1].row].captions
            elif question in questions.DESCRIBE and len(scenes) == 1:
                assert answer in scenes[0].captions or answer.startswith("First, ")
        assert asked
        scenes_seen.add(len(scenes))
    assert answers_seen == {"Yes.", "No."}
    expected = {still(row).start for row in photographs.rows}
    assert views_seen == expected.union(*({m.start, m.end} for m in photographs.moves))
    assert max(scenes_seen) == {1: 1, 2: 2, 4: 3, 8: 4}.get(frames, 5)
