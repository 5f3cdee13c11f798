"""`vzvideo batch` and `index` as they are typed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.video import clips
from tests.waiting import RAY_S
from vzvideo.config import Settings
from vzvideo.corpus import estimate
from vzvideo.corpus.manifest import Task
from vzvideo.errors import SettingsError
from vzvideo.video.guarded import Guard

pytestmark = pytest.mark.timeout(2 * RAY_S)  # its own limits come first


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vzvideo", *arguments],
        capture_output=True,
        text=True,
        timeout=RAY_S,
        env=os.environ | {"RAY_ADDRESS": "local"},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    clips.write(clips.KINDS[0], tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_text("no video")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("batch --out x", "give a manifest, or --ask with --videos or --tokens"),
        ("batch m.csv --videos . --ask Who? --out x", "m.csv is a manifest, and names its own"),
        ("batch --videos . --out x", "--videos: what to ask of them? Give --ask"),
        ("batch m.csv --ask Who? --out x", "--ask: m.csv was taken for a manifest, which brings"),
        ("batch m.csv n.csv --out x", "one manifest at a time: 2 were given"),
        ("batch --ask Who? --out x", "--ask: of which videos?"),
        ("batch --tokens {folder} --ask Who? --out x", "no tokens there; `vzvideo index --out`"),
        ("batch --tokens {folder} --out x", "give a manifest, or --ask with --videos or --tokens"),
        ("batch --videos {folder} --ask Who? --tokens t --dry-run", "--tokens needs none"),
        ("batch nowhere.csv --out x", "nowhere.csv: No such file"),
        ("batch m.txt --out x", "no manifest, which is .jsonl, .csv or .parquet"),
        (
            "batch --videos {folder}/a.mp4 {folder}/c.mp4 --ask Who? --out x",
            "c.mp4: no video there",
        ),
        ("index {folder} --out x", "videos follow --videos"),
        ("index --videos {folder}/a.mp4 {folder}/c.mp4 --out x", "c.mp4: no video there"),
        ("batch --videos {folder} --ask Who?", "--out: say where the answers go"),
        ("batch --videos {folder} --ask Who? --format xml --out x", "parquet or jsonl"),
        ("batch --videos {folder}/*.avi --ask Who? --out x", "no video there"),
        ("index --out x", "which videos"),
        ("index --videos {folder}", "--out: say where the tokens go"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: str, line: str, folder: Path) -> None:
    (folder / "m.txt").touch()
    done = run(*arguments.format(folder=folder).split())
    assert done.returncode == 1
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not Path("x").exists()


def test_a_job_with_a_failure_says_so_in_json_too(folder: Path, checkpoint: Path) -> None:
    done = run(
        "batch", "--videos", str(folder), "--ask", "Who?", "--out", str(folder / "out"), "--model",
        str(checkpoint), "--tokens-per-frame", "5", "--frames", "2", "--max-new-tokens", "2",
        "--format", "jsonl", "--json",
    )  # fmt: skip
    assert done.returncode == 1
    summary = json.loads(done.stdout)
    assert (summary["rows"], summary["done"], summary["kept"]) == (2, 2, 0)
    assert summary["failed"] == {"decode:invalid": 1}
    lines = [line for file in (folder / "out").glob("*.jsonl") for line in file.open()]
    rows = {row["id"]: row for row in map(json.loads, lines)}
    errors = {row["video"]: row["error"] for row in rows.values()}
    assert errors == {str(folder / "a.mp4"): None, str(folder / "b.mp4"): "decode:invalid"}
    answers = {row["video"]: row["answer"] for row in rows.values()}
    assert answers[str(folder / "a.mp4")] is not None
    assert summary["messages"] == [f"{folder / 'b.mp4'}: not a video, or damaged beyond reading"]
    *progress, why, last = done.stderr.splitlines()
    assert why == f"vzvideo: {summary['messages'][0]}"
    assert last.startswith("2 rows: 1 good, 1 failed (decode:invalid 1); 0 were")
    # On a slow machine there is time to say how far it is.
    assert all(re.match(r"starting Ray|\d/2 rows", line) for line in progress)


def test_an_estimate_adds_up_what_a_job_would_take(folder: Path, checkpoint: Path) -> None:
    settings = Settings(model=str(checkpoint), tokens_per_frame=5, frames=4, max_new_tokens=7)
    tasks = [
        Task(str(folder / "a.mp4"), None, None, (("1", "Who?"), ("2", "Where?"))),
        Task(str(folder / "a.mp4"), 1.0, 3.0, (("3", "Who?"),)),
        Task(str(folder / "b.mp4"), None, None, (("4", "Who?"),)),
        Task(str(folder / "a.mp4"), 100.0, None, (("5", "Who?"),)),
    ]
    found = estimate.estimate(tasks, settings, Guard(), say=lambda _: None)
    assert (found.videos, found.questions) == (2, 5)
    assert found.hours == pytest.approx((6.0 + 2.0) / 3600)
    assert (found.frames, found.tokens_before, found.tokens) == (8, 8 * 17, 8 * 5)
    assert found.answers == 3 * 7
    assert found.unreadable.total() == 2
    assert found.unreadable["invalid"] == 1
    assert found.operations > 0
    wide = estimate.estimate(tasks, settings.replace(num_beams=3), Guard(), say=lambda _: None)
    assert (wide.tokens, wide.answers) == (found.tokens, found.answers)
    assert wide.operations > found.operations
    assert "2 videos cannot be read" in str(found)
    assert found.seconds is not None
    assert found.seconds > 0
    assert re.search(r"^about .* on this machine", str(found), re.M)
    indexed = [replace(task, asked=()) for task in tasks]
    assert estimate.estimate(indexed, settings, Guard(), say=lambda _: None).seconds


def test_without_weights_no_time_can_be_told(folder: Path, checkpoint: Path) -> None:
    bare = folder / "bare"
    shutil.copytree(checkpoint, bare, ignore=shutil.ignore_patterns("*.safetensors*"))
    tasks = [Task(str(folder / "a.mp4"), None, None, (("1", "Who?"),))]
    settings = Settings(model=str(bare), tokens_per_frame=5, frames=4)
    found = estimate.estimate(tasks, settings, Guard(), say=lambda _: None)
    assert (found.seconds, found.frames) == (None, 4)
    assert found.untold == f"the weights of {bare} are not here"
    assert f"cannot be told: {found.untold}" in str(found)
    with pytest.raises(SettingsError, match="one try"):
        Guard(tries=0)
