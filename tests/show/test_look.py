"""What is looked at, against the encoder, VisionZip and plain loops over the same frames."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vzvideo
from tests.models.test_encoder import encoder_of
from tests.tolerances import FEATURES_F32
from tests.video import clips
from vzvideo.errors import SettingsError, VideoError
from vzvideo.models.encoder import Scored
from vzvideo.models.preprocess import Preprocess
from vzvideo.qa.video_qa import VideoQA
from vzvideo.show.look import Inspection, inspect_video, squares
from vzvideo.types import Role
from vzvideo.video.frames import frames_of
from vzvideo.visionzip import compress, split_tokens

FRAMES = 4


@pytest.fixture(scope="module")
def qa(checkpoint: Path) -> VideoQA:
    return vzvideo.load(
        str(checkpoint), device="cpu", frames=FRAMES, tokens_per_frame=5, cache=False
    )


@pytest.fixture(scope="module")
def looked(qa: VideoQA, clip: Path) -> Inspection:
    return inspect_video(qa, str(clip))[0]


def test_the_tokens_to_ask_are_those_of_encoding(qa: VideoQA, clip: Path) -> None:
    _, tokens = inspect_video(qa, str(clip))
    expected = qa.encode(clip)
    torch.testing.assert_close(tokens.features, expected.features, atol=0, rtol=0)
    for name in ("frame", "role", "patch", "pts_s"):
        np.testing.assert_array_equal(getattr(tokens, name), getattr(expected, name))
    for name in ("grid", "source", "settings"):
        assert getattr(tokens, name) == getattr(expected, name)


@pytest.fixture(scope="module")
def inputs(qa: VideoQA, clip: Path) -> Tensor:
    """The same frames, ready for the tower."""
    recipe = qa.recipe()
    with frames_of(str(clip), recipe.settings, recipe.frames, recipe.size) as found:
        pixels = np.concatenate([batch.pixels for batch in found.batches])
    return qa.encoder.preprocess(torch.from_numpy(pixels))


@pytest.fixture(scope="module")
def scored(qa: VideoQA, inputs: Tensor) -> Scored:
    return qa.encoder.score(inputs)


def changed(qa: VideoQA, **changes: object) -> VideoQA:
    other = copy.copy(qa)
    other.settings = qa.settings.replace(**changes)
    return other


def test_shapes_and_facts_are_those_of_the_video(
    qa: VideoQA, looked: Inspection, clip: Path
) -> None:
    assert (looked.source, looked.model) == (str(clip), qa.name)
    assert (looked.frames, looked.grid, looked.tokens, looked.chosen) == (FRAMES, (4, 4), 17, 5)
    np.testing.assert_allclose(looked.pts_s, qa.encode(clip).pts_s)
    assert looked.pictures.shape == (FRAMES, 112, 112, 3)  # twice as finely as the tower
    # More tokens than the tower has cannot be asked for.
    assert list(looked.cuts) == [5, 9, 17]
    assert [cut.tokens for cut in looked.cuts.values()] == [5, 9, 17]


def test_cuts_are_what_visionzip_makes(looked: Inspection, scored: Scored) -> None:
    for tokens, cut in looked.cuts.items():
        zipped = compress(*scored, *split_tokens(tokens))
        assert cut.dominant == split_tokens(tokens)[0]
        np.testing.assert_array_equal(cut.patch, zipped.patch - 1)
        np.testing.assert_array_equal(cut.assignment, zipped.assignment[:, 1:])


def test_the_chosen_cut_is_what_a_question_would_see(
    qa: VideoQA, looked: Inspection, clip: Path
) -> None:
    tokens = qa.encode(clip)
    cut = looked.cuts[looked.chosen]
    np.testing.assert_array_equal(cut.patch.reshape(-1), tokens.patch)
    assert cut.patch[:, 0].tolist() == [-1] * FRAMES


def test_similarities_are_those_of_a_loop(looked: Inspection, scored: Scored) -> None:
    patches = F.normalize(scored.hidden[:, 1:], dim=-1)
    for tokens, cut in looked.cuts.items():
        features = F.normalize(compress(*scored, *split_tokens(tokens)).features, dim=-1)
        to_kept, to_merged = [], []
        for frame in range(FRAMES):
            kept = features[frame, 1 : cut.dominant]
            for patch, into in enumerate(cut.assignment[frame]):
                if into < cut.dominant:
                    continue
                to_kept.append(max(float(patches[frame, patch] @ other) for other in kept))
                to_merged.append(float(patches[frame, patch] @ features[frame, into]))
        np.testing.assert_allclose(cut.to_kept, to_kept, atol=FEATURES_F32)
        np.testing.assert_allclose(cut.to_merged, to_merged, atol=FEATURES_F32)


def test_attention_is_the_scores_as_shares(qa: VideoQA, looked: Inspection, scored: Scored) -> None:
    np.testing.assert_allclose(looked.attention.sum(1), 1, rtol=1e-5)
    expected = scored.scores[:, 1:] / scored.scores[:, 1:].sum(1, keepdim=True)
    np.testing.assert_allclose(looked.attention, expected, rtol=1e-5)
    assert looked.by_layer.shape == (len(qa.encoder.family.tower("video").layers), 16)
    np.testing.assert_allclose(looked.by_layer.sum(1), 1, rtol=1e-5)
    assert (np.diff(looked.by_layer, axis=1) <= 0).all()
    ranked = -np.sort(-looked.attention, axis=1)
    np.testing.assert_allclose(looked.by_layer[-1], ranked.mean(0), rtol=1e-5)
    # Each layer has its own.
    assert not np.allclose(looked.by_layer[0], looked.by_layer[-1], rtol=1e-3)


def test_neighbours_are_patches_at_the_same_place(looked: Inspection, scored: Scored) -> None:
    hidden = scored.hidden[:, 1:]
    expected = [
        np.mean([float(F.cosine_similarity(a, b, dim=0)) for a, b in zip(*pair, strict=True)])
        for pair in pairwise(hidden)
    ]
    np.testing.assert_allclose(looked.neighbours, expected, atol=FEATURES_F32)
    # Of all pairs there are; two thousand of them were drawn.
    flat = F.normalize(hidden.flatten(0, 1), dim=-1)
    assert looked.chance == pytest.approx(float((flat @ flat.T).mean()), abs=0.05)


def test_looking_twice_sees_the_same_and_batches_change_nothing(
    qa: VideoQA, looked: Inspection, clip: Path
) -> None:
    again, _ = inspect_video(changed(qa, batch=3), str(clip))
    np.testing.assert_array_equal(again.pictures, looked.pictures)
    np.testing.assert_allclose(again.attention, looked.attention, rtol=1e-4)
    assert again.chance == pytest.approx(looked.chance, abs=1e-5)


def test_across_frames_a_token_is_held_by_every_frame_it_stands_for(
    qa: VideoQA, clip: Path
) -> None:
    looked, tokens = inspect_video(changed(qa, temporal="on"), str(clip))
    assert looked.across is looked.asked
    assert looked.across.total == len(tokens) == FRAMES * 5
    np.testing.assert_array_equal(tokens.patch, qa.encode(clip, temporal="on").patch)
    covers = tokens.covers()
    for frame, (own, patch, into) in enumerate(
        zip(looked.across.token, looked.across.patch, looked.across.assignment, strict=True)
    ):
        assert sorted(own) == np.flatnonzero(covers[frame]).tolist()
        np.testing.assert_array_equal(tokens.patch[own], patch)
        whole = looked.across.whole(frame)
        late = tokens.role[own] == Role.CONTEXTUAL
        assert not late[:whole].any()
        assert late[whole:].all()
        for place, at in enumerate(patch[:whole].tolist()):  # what stands for itself, does
            assert at < 0 or into[at] == place
    lasting = tokens.until - tokens.frame > 1
    assert lasting.any()
    assert looked.across.static == pytest.approx(tokens.settings["static"], abs=1e-4)


def test_progress_counts_every_frame(qa: VideoQA, clip: Path) -> None:
    told = []
    inspect_video(changed(qa, batch=3), str(clip), progress=lambda *step: told.append(step))
    assert told == [("look", 3, FRAMES), ("look", 4, FRAMES)]


def test_a_split_of_ones_own_is_the_chosen_budget(qa: VideoQA, clip: Path) -> None:
    own, _ = inspect_video(changed(qa, dominant=3, contextual=6), str(clip))
    assert (own.chosen, own.cuts[9].dominant) == (9, 3)
    assert list(own.cuts) == [9, 17]
    none = inspect_video(changed(qa, dominant=4, contextual=0), str(clip))[0].cuts[4]
    assert (none.assignment < 0).sum(1).tolist() == [13] * FRAMES  # dropped
    assert (len(none.to_kept), len(none.to_merged)) == (13 * FRAMES, 0)
    every, _ = inspect_video(changed(qa, dominant=2, contextual=100), str(clip))
    assert every.chosen == 17
    assert (every.cuts[17].dominant, every.cuts[17].tokens) == (2, 17)
    whole = inspect_video(changed(qa, tokens_per_frame=17, dominant=17, contextual=0), str(clip))[
        0
    ].cuts[17]
    assert (len(whole.to_kept), len(whole.to_merged)) == (0, 0)


def test_the_merge_that_is_set_is_the_one_that_is_shown(qa: VideoQA, clip: Path) -> None:
    mean = inspect_video(changed(qa, merge="mean"), str(clip))[0].cuts[9]
    reference = inspect_video(qa, str(clip))[0].cuts[9]
    np.testing.assert_array_equal(mean.assignment, reference.assignment)
    np.testing.assert_array_equal(mean.to_kept, reference.to_kept)
    assert not np.allclose(mean.to_merged, reference.to_merged)


def test_with_no_patch_kept_none_is_near(qa: VideoQA, clip: Path) -> None:
    only_cls, _ = inspect_video(changed(qa, dominant=1, contextual=3), str(clip))
    assert len(only_cls.cuts[4].to_kept) == 0


def test_a_tower_without_a_cls(qa: VideoQA, clip: Path, inputs: Tensor) -> None:
    other = VideoQA(qa.card, encoder_of("siglip"), qa.language, qa.tower, qa.settings)
    looked, _ = inspect_video(other, str(clip))
    scored = other.encoder.score(inputs)
    assert (looked.tokens, list(looked.cuts)) == (16, [5, 9])  # of 17 there are only 16
    for tokens, cut in looked.cuts.items():
        zipped = compress(*scored, *split_tokens(tokens), has_cls=False)
        np.testing.assert_array_equal(cut.patch, zipped.patch)
        np.testing.assert_array_equal(cut.assignment, zipped.assignment)
        assert cut.patch.min() >= 0
        assert len(cut.to_kept) == len(cut.to_merged) == FRAMES * (16 - cut.dominant)
    np.testing.assert_allclose(looked.attention, scored.scores, rtol=1e-4)


def test_one_frame_has_no_neighbour(qa: VideoQA, tmp_path: Path) -> None:
    kind = clips.Kind("one", ".mp4", frames=1)
    kind.make(kind, tmp_path / "one.mp4")
    looked, _ = inspect_video(qa, str(tmp_path / "one.mp4"))
    assert (looked.frames, len(looked.neighbours)) == (1, 0)
    assert np.isfinite(looked.chance)


def test_frames_of_changing_size_become_squares_of_one(qa: VideoQA, tmp_path: Path) -> None:
    kind = next(kind for kind in clips.KINDS if kind.name == "growing")
    kind = replace(kind, size=(48, 32))
    kind.make(kind, tmp_path / "growing.ts")
    looked, _ = inspect_video(changed(qa, batch=1), str(tmp_path / "growing.ts"))
    assert looked.frames == FRAMES
    frames, height, width, _ = looked.pictures.shape
    assert (frames, height) == (FRAMES, width)
    # What was small shows what it showed: noise of coding apart, the same as one that was not.
    assert looked.pictures.std(axis=(1, 2, 3)).min() > 20


def test_the_padded_picture_is_shown_where_it_is_asked_for(
    qa: VideoQA, looked: Inspection, clip: Path
) -> None:
    padded, tokens = inspect_video(changed(qa, fit="pad"), str(clip))
    assert (looked.cropped, padded.cropped) == (0.25, 0.0)
    bars = np.array([int(255 * each) for each in qa.encoder.preprocess.mean])
    assert (padded.pictures[:, 0] == bars).all()  # of 64 x 48 pixels, the first rows
    assert not (looked.pictures[:, 0] == bars).all()
    assert torch.equal(tokens.features, qa.encode(clip, fit="pad").features)


def test_keeping_all_is_refused_in_one_line(qa: VideoQA, clip: Path) -> None:
    with pytest.raises(SettingsError, match="--no-compress") as error:
        inspect_video(changed(qa, compress=False), str(clip))
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_video_is_refused(qa: VideoQA, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("once upon a time")
    with pytest.raises(VideoError, match="not a video"):
        inspect_video(qa, str(tmp_path / "text.mp4"))


@pytest.mark.parametrize("shape", [(40, 80), (80, 40), (64, 64)])
@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(56, 56),
        Preprocess(56, 40),
        Preprocess(56, 56, fit="pad"),
        Preprocess(56, 56, fit="squash"),
    ],
)
def test_the_squares_are_those_that_the_tower_sees(
    shape: tuple[int, int], preprocess: Preprocess
) -> None:
    """A picture whose levels say where they stand, twice as finely."""
    height, width = shape
    rows = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    columns = np.linspace(0, 255, width).astype(np.uint8)[None]
    picture = np.ascontiguousarray(np.stack(np.broadcast_arrays(rows, columns, np.uint8(0)), -1))
    kept = squares(picture[None], preprocess)
    assert kept.shape == (1, 2 * preprocess.crop, 2 * preprocess.crop, 3)
    halved = F.avg_pool2d(torch.from_numpy(kept).permute(0, 3, 1, 2).float(), 2)
    seen = preprocess.square(torch.from_numpy(picture[None])).float()
    assert (halved - seen).abs().max() < 4


@pytest.mark.parametrize(("every_s", "said"), [(0.4, "0:01.2"), (1.0, "0:01"), (90.0, "0:01")])
def test_times_are_as_fine_as_the_frames_need(
    every_s: float, said: str, looked: Inspection
) -> None:
    assert replace(looked, pts_s=every_s * np.arange(FRAMES)).when(1.2) == said
