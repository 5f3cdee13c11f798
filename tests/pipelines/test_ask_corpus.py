"""The job file: what it says, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipelines import ask_corpus
from tests.video import clips
from vzvideo import config
from vzvideo.errors import SettingsError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def test_the_shipped_job_file_is_one() -> None:
    job = ask_corpus.read(CONFIGS / "corpus.yaml")
    assert config.load(None, **job["settings"]).model == "video-llava-7b"
    assert job["ask"] == ["Is anyone hurt?", "Where is this?"]


def test_the_shipped_cluster_file_suits_ray() -> None:
    util = pytest.importorskip("ray.autoscaler._private.util", reason="Ray is not installed")
    cluster = yaml.safe_load((CONFIGS / "cluster.yaml").read_text())
    util.validate_config(util.prepare_config(cluster))  # raises what is wrong
    assert cluster["available_node_types"]["gpu"]["resources"]["GPU"] == 1


def test_a_folder_of_videos_is_asked_all_questions(tmp_path: Path) -> None:
    clips.write(clips.KINDS[0], tmp_path / "a.mp4")
    tasks = ask_corpus.tasks_of({"videos": str(tmp_path), "ask": ["Who?", "Where?"]})
    assert [question for _, question in tasks[0].asked] == ["Who?", "Where?"]
    assert len(tasks) == 1


@pytest.mark.parametrize(
    ("job", "line"),
    [
        ({"videos": "x", "ask": ["Who?"]}, "out is missing"),
        ({"out": "x", "video": "y"}, "unknown name 'video': did you mean 'videos'"),
        ({"out": "x", "videos": "y", "manifest": "z"}, "give a manifest, or videos with ask"),
        ({"out": "x"}, "give a manifest, or videos with ask"),
        ({"out": "x", "videos": "y"}, "ask is missing"),
        ({"out": "x", "videos": ".", "ask": "Who?", "tries": "two"}, "tries: 'two' given"),
    ],
)
def test_what_is_wrong_is_told(job: dict[str, object], line: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    with pytest.raises(SettingsError, match=line):
        ask_corpus.run(ask_corpus.read(path))
