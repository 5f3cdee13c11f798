"""Features are computed once, and are the tower's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.mini.clips import View, picture
from pipelines.mini.features import WHOLE_FRAME, Features
from tests.models.test_encoder import encoder_of
from tests.pipelines.made import photograph
from tests.tolerances import FEATURES_F32
from vzvideo import visionzip
from vzvideo.models.encoder import Encoder

IMAGES = [photograph(number, 90, 70) for number in range(8)]
VIEWS = [View(row) for row in range(7)] + [View(2, (0.1, 0.2, 0.8, 0.9), True)]


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
    for budget in ((4, 2), WHOLE_FRAME):
        assert torch.equal(whole.compressed(VIEWS, *budget), resumed.compressed(VIEWS, *budget))


def test_features_are_the_towers_of_each_view(tmp_path: Path) -> None:
    encoder = encoder_of("clip")
    features = kept(tmp_path, encoder)
    pixels = np.stack([np.asarray(picture(IMAGES[view.row], view)) for view in VIEWS])
    hidden, scores, keys = encoder.score(encoder.preprocess(torch.from_numpy(pixels)))
    hidden, keys = hidden.half().float(), keys.half().float()  # as the files hold them
    whole = features.compressed(VIEWS[5:], *WHOLE_FRAME)
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
