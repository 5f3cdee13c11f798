"""Features are computed once, and are the tower's, compressed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.mini import features as features_module
from pipelines.mini.clips import View, picture
from pipelines.mini.data import digest
from pipelines.mini.features import Features
from tests.models.test_encoder import encoder_of
from tests.pipelines.made import photograph
from vzvideo import visionzip
from vzvideo.models.encoder import Encoder

IMAGES = [photograph(number, 90, 70) for number in range(8)]
DIGESTS = [digest(image) for image in IMAGES]
VIEWS = [View(row) for row in range(7)] + [View(2, (0.1, 0.2, 0.8, 0.9), True)]
BUDGETS = (3, 6)


def kept(folder: Path, encoder: Encoder, images: list[bytes] | None = None) -> Features:
    features = Features(folder, DIGESTS)
    features.add(encoder, images or IMAGES, VIEWS, BUDGETS)
    return features


def test_features_go_on_shard_by_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_module, "SHARD", 3)
    encoder = encoder_of("dinov2")
    whole = kept(tmp_path / "whole", encoder)
    with pytest.raises(OSError, match="cannot identify image"):
        kept(tmp_path / "killed", encoder, [*IMAGES[:4], b"damaged", *IMAGES[5:]])
    assert len(list((tmp_path / "killed").iterdir())) == 1
    half = Features(tmp_path / "killed", DIGESTS)
    assert [view in half for view in VIEWS] == [True] * 3 + [False] * 5
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
    assert VIEWS[5] not in half
    half.refresh()
    for budget in BUDGETS:
        expected = whole.compressed(VIEWS, budget)
        assert torch.equal(resumed.compressed(VIEWS, budget), expected)
        assert torch.equal(half.compressed(VIEWS, budget), expected)


@pytest.mark.parametrize("budget", [3, 6, 17])
def test_features_are_the_towers_of_each_view(tmp_path: Path, budget: int) -> None:
    encoder = encoder_of("clip")
    features = Features(tmp_path, DIGESTS)
    features.add(encoder, IMAGES, VIEWS, (budget,))
    pixels = np.stack([np.asarray(picture(IMAGES[view.row], view)) for view in VIEWS])
    scored = encoder.score(encoder.preprocess(torch.from_numpy(pixels)))
    split = {3: (3, 0), 6: (5, 1)}
    expected = scored.hidden
    if budget != encoder.tokens:
        expected = visionzip.compress(*scored, *split[budget]).features
    assert (encoder.tokens == 17) == torch.equal(expected, scored.hidden) or budget != 17
    found = features.compressed(VIEWS[5:], budget)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected[5:].half().float())


def test_what_a_picture_is_called_elsewhere_does_not_matter(tmp_path: Path) -> None:
    encoder = encoder_of("dinov2")
    whole = kept(tmp_path, encoder)
    other = Features(tmp_path, DIGESTS[::-1])
    assert torch.equal(other.compressed([View(7)], 3), whole.compressed([View(0)], 3))
    assert View(0) not in other  # picture 7, which no view showed
