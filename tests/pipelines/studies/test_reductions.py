"""Every way to fewer tokens takes what it says it takes."""

from __future__ import annotations

import pytest
import torch

from pipelines.studies.compare import BUDGETS
from pipelines.studies.reductions import METHODS
from tests.pipelines.made import scored
from tests.tolerances import FEATURES_F32
from vzvideo import visionzip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tokens", BUDGETS)
def test_every_method_gives_its_tokens_the_cls_first(method: str, tokens: int) -> None:
    frames = scored()
    found = METHODS[method](frames, tokens)
    assert found.shape == (2, tokens, 8)
    assert torch.equal(found[:, 0], frames.hidden[:, 0])
    assert torch.equal(found, METHODS[method](frames, tokens))
    assert len(found[0].unique(dim=0)) == tokens


def test_even_subsampling_takes_the_middles_of_cells() -> None:
    frames = scored(patches=16)
    assert torch.equal(METHODS["even subsampling"](frames, 5), frames.hidden[:, [0, 6, 8, 14, 16]])
    # Two rows of four: every column, the second and the last row.
    rows = [0, 5, 6, 7, 8, 13, 14, 15, 16]
    assert torch.equal(METHODS["even subsampling"](frames, 9), frames.hidden[:, rows])


def test_pooling_takes_the_means_of_cells() -> None:
    frames = scored(patches=16)
    cells = [[1, 2, 5, 6], [3, 4, 7, 8], [9, 10, 13, 14], [11, 12, 15, 16]]
    expected = torch.stack([frames.hidden[:, cell].mean(1) for cell in cells], 1)
    found = METHODS["average pooling"](frames, 5)
    torch.testing.assert_close(found[:, 1:], expected, atol=FEATURES_F32, rtol=FEATURES_F32)


def test_chance_takes_other_patches_of_each_frame() -> None:
    frames = scored()
    found = METHODS["random"](frames, 33)
    same = (found[:, 1:, None] == frames.hidden[:, None, 1:]).all(-1)  # (B, tokens, patches)
    places = [each.nonzero()[:, 1].tolist() for each in same]
    assert places[0] != places[1]
    for row in places:
        assert len(row) == 32
        assert row == sorted(set(row))
    assert not torch.equal(found, METHODS["even subsampling"](frames, 33))


def test_each_half_of_visionzip_alone_and_both() -> None:
    frames = scored()
    best = frames.scores[:, 1:].topk(16).indices.sort(1).values + 1
    expected = torch.stack([h[index] for h, index in zip(frames.hidden, best, strict=True)])
    assert torch.equal(METHODS["dominant only"](frames, 17)[:, 1:], expected)
    zipped = visionzip.compress(*frames, 14, 3).features
    assert torch.equal(METHODS["VisionZip"](frames, 17), zipped)
    merged = visionzip.compress(*frames, 1, 16, merge="mean").features
    assert torch.equal(METHODS["contextual only"](frames, 17), merged)
