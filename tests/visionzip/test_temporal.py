"""Across frames: the best windows, every budget, and what each cell became."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.tolerances import FEATURES_F32
from vzvideo import visionzip
from vzvideo.visionzip import static_windows, uniqueness, zip_clip
from vzvideo.visionzip.temporal import Window


def clip(frames: int, cells: int, seed: int, still: float = 0.7) -> tuple[Tensor, Tensor, Tensor]:
    """Features, scores and keys of a clip of which most cells stay a while."""
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(frames, cells, 6, generator=draw)
    stays = torch.rand(frames, cells, generator=draw) < still
    for t in range(1, frames):
        features[t] = torch.where(stays[t][:, None], features[t - 1], features[t])
    features = features + 0.01 * torch.randn(features.shape, generator=draw)
    return (
        features,
        torch.rand(frames, cells, generator=draw),
        torch.randn(frames, cells, 4, generator=draw),
    )


def gain(features: Tensor, windows: list[Window], tau: float) -> int:
    """What windows save, counted cell by cell."""
    saved = 0
    for begin, end in windows:
        for cell in range(features.shape[1]):
            alike = [
                torch.cosine_similarity(features[t, cell], features[t + 1, cell], dim=0) > tau
                for t in range(begin, end - 1)
            ]
            saved += (end - 1 - begin) * all(alike)
    return saved


def partitions(frames: int, longest: int) -> list[list[Window]]:
    found = []
    for cuts in range(frames):
        for inner in combinations(range(1, frames), cuts):
            windows = list(pairwise((0, *inner, frames)))
            if all(end - begin <= longest for begin, end in windows):
                found.append(windows)
    return found


# -- windows


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 99), st.integers(1, 6))
@settings(deadline=None, max_examples=25)
def test_windows_save_as_much_as_any_others_and_are_the_fewest(
    frames: int, cells: int, seed: int, longest: int
) -> None:
    features, *_ = clip(frames, cells, seed)
    windows = static_windows(features, 0.8, longest)
    assert [window[0] for window in windows] == [0, *(window[1] for window in windows[:-1])]
    assert windows[-1][1] == frames
    assert all(end - begin <= longest for begin, end in windows)
    best = max((gain(features, each, 0.8), -len(each)) for each in partitions(frames, longest))
    assert (gain(features, windows, 0.8), -len(windows)) == best


def test_a_cut_parts_windows() -> None:
    one, other = torch.randn(2, 1, 9, 8, generator=torch.Generator().manual_seed(0))
    features = torch.cat([one.expand(4, -1, -1), other.expand(3, -1, -1)])
    assert static_windows(features, 0.8) == [(0, 4), (4, 7)]
    assert static_windows(features, 0.8, longest=2) == [(0, 2), (2, 4), (4, 5), (5, 7)]
    assert static_windows(features[:1], 0.8) == [(0, 1)]
    with pytest.raises(ValueError, match="at least one frame"):
        static_windows(features[:0], 0.8)


# -- a clip's tokens


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_as_many_come_out_as_asked_for_and_each_cell_is_accounted_for(data: st.DataObject) -> None:
    frames, cells = data.draw(st.integers(1, 7)), data.draw(st.integers(2, 9))
    has_cls = data.draw(st.booleans())
    static: Any = data.draw(st.sampled_from(["attention", "density"]))
    features, scores, keys = clip(frames, cells, data.draw(st.integers(0, 99)))
    count = data.draw(st.integers(1, frames * cells))
    zipped = zip_clip(features, scores, keys, count, static=static, has_cls=has_cls, tau=0.8)
    tokens = len(zipped.features)
    patches = features[:, 1:] if has_cls else features
    windows = static_windows(patches, 0.8)
    left = frames * cells - gain(patches, windows, 0.8)  # where everything that moves is kept
    assert tokens == min(count, left) or count < tokens <= frames + len(windows)
    # In order, and each token stands for cells of its place and stretch.
    assert (zipped.frame[1:] >= zipped.frame[:-1]).all()
    stretch = set(zip(zipped.frame.tolist(), zipped.until.tolist(), strict=True))
    assert stretch <= {*windows, *((t, t + 1) for t in range(frames))}
    for token in range(tokens):
        at, cell = int(zipped.frame[token]), int(zipped.cell[token])
        went = (zipped.assignment == token).nonzero()
        assert [at, cell] in went.tolist()
        assert (went[:, 0] >= at).all()
        assert (went[:, 0] < zipped.until[token]).all()
    assert zipped.assignment.max() == tokens - 1
    if has_cls:
        assert (zipped.assignment[:, 0] >= 0).all()


def test_a_share_is_of_all_cells() -> None:
    features, scores, keys = clip(5, 16, 0)
    assert len(zip_clip(features, scores, keys, 0.5).features) == 40


def test_where_everything_is_kept_nothing_but_what_stays_is_merged() -> None:
    features, scores, keys = clip(6, 8, 1)
    whole = zip_clip(features, scores, keys, 48, tau=1.1)
    torch.testing.assert_close(whole.features, features.flatten(0, 1), rtol=0, atol=0)
    assert whole.static == 0
    less = zip_clip(features, scores, keys, 48, tau=0.8, has_cls=False)
    assert less.static > 0.3
    for token in range(len(less.features)):
        begin, end = int(less.frame[token]), int(less.until[token])
        mean = features[begin:end, less.cell[token]].mean(0)
        torch.testing.assert_close(less.features[token], mean, rtol=0, atol=FEATURES_F32)


@pytest.mark.parametrize("has_cls", [True, False])
def test_where_nothing_stays_it_is_visionzip(has_cls: bool) -> None:
    features, scores, keys = clip(4, 20, 2, still=0.0)
    found = zip_clip(features, scores, keys, 4 * 7, tau=1.1, has_cls=has_cls)
    expected = visionzip.compress(features, scores, keys, 6, 1, has_cls=has_cls)
    torch.testing.assert_close(found.features, expected.features.flatten(0, 1), rtol=0, atol=0)
    assert found.cell.tolist() == expected.patch.flatten().tolist()
    offset = 7 * torch.arange(4)[:, None]
    assert torch.equal(found.assignment, expected.assignment + offset)


def test_a_picture_that_stands_still_is_kept_once() -> None:
    features, scores, keys = clip(8, 12, 3, still=1.0)
    found = zip_clip(features, scores, keys, 12, has_cls=False)
    assert found.static == 1
    assert found.frame.tolist() == [0] * 12
    assert found.until.tolist() == [8] * 12
    assert found.cell.tolist() == list(range(12))


def test_windows_of_one_frame_are_visionzip() -> None:
    features, scores, keys = clip(4, 10, 3)
    found = zip_clip(features, scores, keys, 20, has_cls=False, longest=1)
    each = visionzip.compress(features, scores, keys, *visionzip.split_tokens(5), has_cls=False)
    assert found.static == 0
    torch.testing.assert_close(found.features, each.features.flatten(0, 1))
    own = visionzip.compress(features, scores, keys, 2, 3, has_cls=False)
    found = zip_clip(features, scores, keys, 20, has_cls=False, longest=1, contextual=3 / 5)
    torch.testing.assert_close(found.features, own.features.flatten(0, 1))


@pytest.mark.parametrize("scale", [1e-3, 200.0, 1e4])
def test_density_peaks_are_told_apart_at_any_scale(scale: float) -> None:
    features, scores, keys = clip(4, 30, 5, still=1.0)
    found = zip_clip(features * scale, scores, keys, 8, has_cls=False, tau=0.8)
    assert len(set(found.cell.tolist()) & set(range(8))) < 6  # as where all densities are 0


@pytest.mark.parametrize("has_cls", [True, False])
def test_no_more_come_out_than_were_asked_for_where_every_frame_keeps_one(has_cls: bool) -> None:
    for seed in range(20):
        features, scores, keys = clip(6, 10, seed)
        for keep in range(6, 30):
            found = zip_clip(features, scores, keys, keep, has_cls=has_cls)
            assert len(found.features) <= keep


def test_static_cells_are_those_looked_at_most() -> None:
    features, scores, keys = clip(4, 10, 4, still=1.0)
    found = zip_clip(features, scores, keys, 3, has_cls=False, tau=0.8, static="attention")
    assert found.cell.tolist() == scores.mean(0).argsort(descending=True)[:3].sort().values.tolist()
    assert (found.assignment >= 0).sum() == 3 * 4


def test_density_keeps_one_of_each_group() -> None:
    draw = torch.Generator().manual_seed(5)
    centres = 4 * torch.randn(3, 6, generator=draw)
    group = torch.tensor([0, 1, 2] * 6 + [0, 0, 1])
    cells = centres[group] + 0.05 * torch.randn(21, 6, generator=draw)
    features = cells.expand(3, -1, -1)
    scores, keys = torch.rand(3, 21, generator=draw), torch.randn(3, 21, 4, generator=draw)
    found = zip_clip(features, scores, keys, 3, static="density", has_cls=False)
    assert sorted(group[found.cell].tolist()) == [0, 1, 2]
    assert torch.equal(group[found.cell][found.assignment[0]], group)
    for token in range(3):
        mean = cells[group == group[found.cell[token]]].mean(0)
        torch.testing.assert_close(found.features[token], mean, rtol=0, atol=FEATURES_F32)


def test_gradients_go_through() -> None:
    features, scores, keys = clip(3, 8, 6)
    features.requires_grad_(True)
    zip_clip(features, scores, keys, 9).features.sum().backward()
    assert features.grad is not None
    assert features.grad.abs().sum() > 0


@pytest.mark.parametrize("keep", [0, 0.0, 41, 1.5, -1])
def test_what_cannot_be_kept_is_refused(keep: float) -> None:
    with pytest.raises(ValueError, match="keep="):
        zip_clip(*clip(5, 8, 0), keep)
    with pytest.raises(ValueError, match="must be"):
        zip_clip(torch.zeros(2, 3, 4), torch.zeros(2, 4), torch.zeros(2, 3, 4), 2)


# -- frames unlike the others


def test_a_frame_unlike_the_others_keeps_more() -> None:
    features, *_ = clip(6, 12, 7, still=1.0)
    features[3] = torch.randn(12, 6, generator=torch.Generator().manual_seed(8))
    shares = uniqueness(features, 0.2)
    assert shares.argmax() == 3
    assert shares.mean() == pytest.approx(0.2)
    alike = uniqueness(features[:1].expand(4, -1, -1), 0.2)
    assert alike.tolist() == pytest.approx([0.2] * 4)
