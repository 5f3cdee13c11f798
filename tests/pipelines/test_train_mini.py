"""Mini's training: clips and what is asked of them agree; features are computed once."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines import questions, train_mini
from pipelines.clips import View, picture, still
from pipelines.concepts import ACTIONS, CONCEPTS
from pipelines.train_mini import BUDGETS, Features, Photographs, draw_clip, read_photographs
from pipelines.training import Trainee, packer_for
from tests.conftest import small_model, small_tokenizer
from tests.models.test_encoder import encoder_of
from tests.pipelines.made import CAPTIONS, photograph, visual_tokens, write_parquet
from tests.tolerances import FEATURES_F32, LOGITS_F32
from vzvideo import visionzip
from vzvideo.models.encoder import Encoder
from vzvideo.models.video_llava import VideoLlava

IMAGES = [photograph(number, 90, 70) for number in range(8)]
VIEWS = [View(row) for row in range(7)] + [View(2, (0.1, 0.2, 0.8, 0.9), True)]
SPLITS = ["dev", "train", "train", "dev", "train", "train", "train"]


@pytest.fixture
def photographs(tmp_path: Path) -> Photographs:
    return read_photographs(write_parquet(tmp_path / "captions.parquet", SPLITS), "train", None)


# -- clips and questions


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


# -- features


def kept(folder: Path, encoder: Encoder, images: list[bytes] | None = None) -> Features:
    return Features(folder, encoder, images or IMAGES, VIEWS)


def test_features_go_on_shard_by_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Features, "SHARD", 3)
    encoder = encoder_of("dinov2")
    whole = kept(tmp_path / "whole", encoder)
    with pytest.raises(OSError, match="cannot identify image"):
        kept(tmp_path / "killed", encoder, [*IMAGES[:4], b"damaged", *IMAGES[5:]])
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["000000.safetensors"]
    sizes = []
    score = Encoder.score

    def counted(self: Encoder, inputs: Any) -> Any:
        sizes.append(len(inputs))
        return score(self, inputs)

    monkeypatch.setattr(Encoder, "score", counted)
    resumed = kept(tmp_path / "killed", encoder)
    assert sizes == [3, 2]
    kept(tmp_path / "killed", encoder)
    assert sizes == [3, 2]
    for budget in ((4, 2), train_mini.WHOLE_FRAME):
        assert torch.equal(whole.compressed(VIEWS, *budget), resumed.compressed(VIEWS, *budget))


def test_features_are_the_towers_of_each_view(tmp_path: Path) -> None:
    encoder = encoder_of("clip")
    features = kept(tmp_path, encoder)
    pixels = np.stack([np.asarray(picture(IMAGES[view.row], view)) for view in VIEWS])
    hidden, scores, keys = encoder.score(encoder.preprocess(torch.from_numpy(pixels)))
    hidden, keys = hidden.half().float(), keys.half().float()  # as the files hold them
    whole = features.compressed(VIEWS[5:], *train_mini.WHOLE_FRAME)
    assert torch.equal(whole, hidden[5:])
    expected = visionzip.compress(hidden, scores, keys, 4, 2).features
    assert torch.equal(features.compressed(VIEWS, 4, 2), expected)


def test_clips_are_their_views_compressed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Features, "SHARD", 3)
    features = kept(tmp_path, encoder_of("dinov2"))
    clips = [[VIEWS[3], VIEWS[3], VIEWS[7]], [VIEWS[0], VIEWS[7], VIEWS[2]]]
    found = features.clips(clips, 4, 2)
    assert found.shape == (2, 3 * 6, 32)
    for clip, tokens in zip(clips, found, strict=True):
        for view, part in zip(clip, tokens.split(6), strict=True):
            expected = features.compressed([view], 4, 2)[0]
            torch.testing.assert_close(part, expected, atol=FEATURES_F32, rtol=FEATURES_F32)


# -- judging


def test_evaluation_agrees_with_the_likelihoods_of_the_model(tmp_path: Path) -> None:
    dev = read_photographs(write_parquet(tmp_path / "captions.parquet", ["dev"] * 7), "dev", None)
    features = kept(tmp_path / "features", encoder_of("dinov2"))
    language = VideoLlava(small_model(), small_tokenizer())

    def likely(views: list[View], question: str, answers: list[str]) -> list[float]:
        prefix = language.read(visual_tokens(features.clips([views], 4, 1)[0]))
        return language.likelihoods(prefix, question, answers)

    nothing = language.read_nothing()
    right, wrong, first, last, tokens = 0.0, 0.0, 0, 0, 0
    for number, said in enumerate(dev.said):
        captions, after = list(said.captions), (number + 1) % 7
        sizes = [len(small_tokenizer()(text).input_ids) + 1 for text in captions]
        shown = (likely([View(n)], "Describe the video.", captions) for n in (number, after))
        mine, others = (-np.dot(sizes, each) for each in shown)
        right, wrong, tokens = right + mine, wrong + others, tokens + sum(sizes)
        clip = [View(number)] * 2 + [View(after)] * 2
        ends = [captions[0], dev.said[after].captions[0]]
        begins, stops = (
            np.subtract(likely(clip, asked, ends), language.likelihoods(nothing, asked, ends))
            for asked in ("What happens first?", "What happens last?")
        )
        first += begins[0] > begins[1]
        last += stops[1] > stops[0]
    trainee = Trainee(language.model, None, lora=False).eval()
    with torch.no_grad():
        found = train_mini.evaluate(
            trainee, features, dev, packer_for(language), torch.device("cpu"), (4, 1)
        )
    assert found["dev_right"] == pytest.approx(right / tokens, abs=LOGITS_F32)
    assert found["dev_wrong"] == pytest.approx(wrong / tokens, abs=LOGITS_F32)
    assert found["dev_gap"] == pytest.approx((wrong - right) / tokens, abs=LOGITS_F32)
    assert (found["first"], found["last"]) == (first / 7, last / 7)
    assert 0 <= found["presence"] <= 1
    assert 0 <= found["when"] <= 1
    assert len(dev.said) == len(CAPTIONS) == 7
