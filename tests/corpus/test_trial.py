"""From what one worker takes to what a job takes. tests/cli/test_corpus.py runs a trial."""

from __future__ import annotations

import pytest

from vzvideo.corpus import trial
from vzvideo.corpus.cluster import Pool
from vzvideo.corpus.stages import Answer, Decode, Encode

POOLS = [
    Pool(Decode, (), cpus=1.0),
    Pool(Encode, (), cpus=1.0, memory=1e9),
    Pool(Answer, (), cpus=1.0, memory=1e9),
]


@pytest.mark.parametrize(
    ("cores", "videos", "seconds"),
    [
        (1, 1, 10 + 20 + 16),
        (4, 1, 20),  # one video is encoded by one worker
        (4, 16, (10 + 20 + 16) / 4),
        (64, 16, 20 / 2),  # two encoders are all that pay
    ],
)
def test_workers_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, videos: int, seconds: float
) -> None:
    monkeypatch.setattr(trial, "_cores", lambda: cores)
    tried = trial.Trial(POOLS, decode_s=1.0, encode_s=2.0, read_s=0.5, answer_s=3.0)
    assert tried.seconds(videos, frames=10, tokens=20, questions=2) == pytest.approx(seconds)
    only_encoded = trial.Trial(POOLS[:2], decode_s=1.0, encode_s=2.0)
    assert only_encoded.seconds(1, frames=10, tokens=20, questions=0) == (30 if cores == 1 else 20)
