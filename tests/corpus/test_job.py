"""Corpus jobs on a real Ray: everything ends as a row, nothing twice, and the text is `ask`'s."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch

import vzvideo
from tests.video import clips
from tests.waiting import RAY_S
from vzvideo.config import Settings
from vzvideo.corpus import cluster as flow
from vzvideo.corpus import job as corpus
from vzvideo.corpus import manifest, planning
from vzvideo.corpus.manifest import Task
from vzvideo.corpus.stages import Answer, Encoded, Failed, Work
from vzvideo.errors import BudgetError, SettingsError, VzVideoError

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'vzvideo[corpus]'")
pytestmark = pytest.mark.timeout(3 * RAY_S)  # its own limits come first

QUESTIONS = ("What happens?", "Is there a cat?", "Describe the video.")
BROKEN = {
    "cut.mp4": "decode:invalid",
    "empty.mp4": "decode:empty",
    "folder.mp4": "decode:folder",
    "missing.mp4": "decode:not_found",
    "text.mp4": "decode:invalid",
}
GOOD = ("0.mp4", "1.mp4", "2.mkv", "3.ts", "4.mp4", "5.ts", "6.mp4")
NODE = {"num_cpus": 1, "object_store_memory": 200 << 20}


def start_cluster() -> Any:
    """Two nodes that somebody else has started, and this process connected to them."""
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    # Workers find this checkout, wherever the tests are run from.
    paths = {"PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    ray.init(address=cluster.address, runtime_env={"env_vars": paths}, log_to_driver=False)
    return cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    cluster = start_cluster()
    cluster.add_node(**NODE)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def in_this_process(works: Sequence[Work], stages: Sequence[flow.Pool], _: Any) -> Iterator[Any]:
    """The same workers without Ray, which has no part in what a job keeps and makes again."""
    workers = [pool.stage(*pool.arguments) for pool in stages]
    for work in works:
        batch: dict[str, Any] = {"item": [pickle.dumps(work)]}
        for worker in workers:
            batch = worker(batch)
        yield pickle.loads(batch["item"][0])


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setattr(corpus, "run_stages", in_this_process)
    monkeypatch.setattr(corpus, "connect", lambda _: nullcontext())


@pytest.fixture
def settings(checkpoint: Path) -> Settings:
    return Settings(model=str(checkpoint), tokens_per_frame=5, frames=4, max_new_tokens=6)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of clips, some of them broken in different ways."""
    folder = tmp_path_factory.mktemp("videos")
    for name, kind in zip(GOOD, clips.KINDS, strict=False):
        kind.make(kind, folder / name)
    (folder / "text.mp4").write_text("no video at all")
    (folder / "empty.mp4").touch()
    (folder / "cut.mp4").write_bytes((folder / "0.mp4").read_bytes()[:300])
    (folder / "folder.mp4").mkdir()
    return folder


def tasks_of(videos: Path, names: Any = (*GOOD, *BROKEN)) -> list[Task]:
    """Each video with all questions."""
    return [
        Task(str(videos / name), None, None, tuple((f"{name} {q}", q) for q in QUESTIONS))
        for name in names
    ]


def rows_of(out: Path) -> list[dict[str, Any]]:
    """Sorted by id; a second row of an id would show."""
    rows = pq.ParquetDataset(sorted(out.glob("*.parquet"))).read().to_pylist()
    return sorted(rows, key=lambda row: row["id"])


def expected(videos: Path, settings: Settings) -> dict[str, str | None]:
    """What `ask` says of the good ones, question by question."""
    qa = vzvideo.load(settings=settings, cache=False)
    found: dict[str, str | None] = {f"{name} {q}": None for name in BROKEN for q in QUESTIONS}
    return found | {
        f"{name} {q}": qa.ask(videos / name, q).text for name in GOOD for q in QUESTIONS
    }


def test_every_question_gets_the_answer_of_ask_or_an_error(
    cluster: Any, videos: Path, settings: Settings, tmp_path: Path
) -> None:
    settings = settings.replace(num_beams=2)
    summary = corpus.ask(tasks_of(videos), str(tmp_path / "out"), settings)
    rows = rows_of(tmp_path / "out")
    assert {row["id"]: row["answer"] for row in rows} == expected(videos, settings)
    assert len(rows) == summary.rows == summary.done == 36
    errors = {Path(row["video"]).name: row["error"] for row in rows if row["error"]}
    assert errors == BROKEN
    assert summary.failed == {
        code: 3 * list(BROKEN.values()).count(code) for code in errors.values()
    }
    good = next(row for row in rows if not row["error"])
    assert (good["frames"], good["tokens_before"], good["tokens"]) == (4, 4 * 17, 4 * 5)
    assert len(good["frame_times_s"]) == 4
    assert good["message"] is None
    assert all(good[f"{stage}_s"] > 0 for stage in ("decode", "encode", "prefill", "generate"))
    assert json.loads(good["settings"]).items() >= {"dominant": 4, "num_beams": 2}.items()
    assert ray.is_initialized()  # who started it may go on using it


def test_only_what_is_missing_is_made_again(
    without_ray: None, videos: Path, settings: Settings, tmp_path: Path
) -> None:
    tasks, out = tasks_of(videos, ("0.mp4", "1.mp4", "text.mp4")), tmp_path / "out"
    corpus.ask(tasks[:1], str(out), settings)
    first = list(out.glob("*.parquet"))
    corpus.ask(tasks, str(out), settings)
    told: list[str] = []
    summary = corpus.ask(tasks, str(out), settings, say=told.append)
    assert summary.kept == summary.rows == summary.done == 9
    assert summary.failed == {"decode:invalid": 3}
    assert len(summary.messages) == 1  # of three questions about one video
    assert told == ["there already: 9 rows, 3 of them failed (--retry-failed tries again)"]
    whole = rows_of(out)

    first[0].write_bytes(first[0].read_bytes()[:-20])
    summary = corpus.ask(tasks, str(out), settings, say=told.append)
    assert summary.kept == 6
    assert (out / "damaged" / first[0].name).exists()
    again = rows_of(out)
    assert [(r["id"], r["answer"]) for r in again] == [(r["id"], r["answer"]) for r in whole]


def test_what_an_answer_depends_on_makes_it_anew(
    without_ray: None, videos: Path, settings: Settings, tmp_path: Path
) -> None:
    clip, out, told = tmp_path / "clip.mp4", str(tmp_path / "out"), []
    clip.write_bytes((videos / "0.mp4").read_bytes())

    def kept(question: str, other: str, settings: Settings, **more: Any) -> int:
        still = Task(str(videos / "1.mp4"), None, None, (("b", other), ("c", "Who?")))
        tasks = [Task(str(clip), None, None, (("a", question),)), still]
        told.clear()
        summary = corpus.ask(tasks, out, settings, say=told.append, **more)
        assert len(rows_of(tmp_path / "out")) == summary.rows == 3
        return summary.kept

    assert kept("Is it?", "Is it?", settings) == 0
    clip.write_bytes((videos / "2.mkv").read_bytes())
    assert kept("Is it?", "Was it?", settings) == 1
    assert "1 row of another question: made again" in told
    assert "1 row of a video changed since: made again" in told
    few = settings.replace(frames=2)
    assert kept("Is it?", "Was it?", few) == 0
    assert "3 rows made with other settings: made again" in told
    assert {row["frames"] for row in rows_of(tmp_path / "out")} == {2}
    clip.unlink()  # an answer does not go because its video cannot be found
    assert kept("Is it?", "Was it?", few) == 3
    assert kept("Is it gone?", "Was it?", few) == 2
    assert kept("Is it gone?", "Was it?", few, retry_failed=True) == 2
    assert "1 row that failed: made again" in told


def test_of_two_rows_with_one_id_the_later_stands(
    without_ray: None, videos: Path, settings: Settings, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    tasks = tasks_of(videos, ("0.mp4", "text.mp4"))
    corpus.ask(tasks[:1], str(out), settings.replace(frames=2))
    (before,) = out.glob("part-*")
    old = before.read_bytes()
    corpus.ask(tasks, str(out), settings)
    assert not before.exists()
    before.write_bytes(old)  # as a driver leaves it that was killed before it had tidied up
    summary = corpus.ask(tasks, str(out), settings)
    assert (summary.kept, summary.rows) == (6, 6)
    assert {row["frames"] for row in rows_of(out)} == {4, None}
    assert len(rows_of(out)) == 6


def test_a_video_of_an_object_store_is_answered_as_one_of_the_disk(
    without_ray: None, videos: Path, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "a film.mp4").write_bytes((videos / "1.mp4").read_bytes())
    uri = f"{tmp_path.as_uri()}"
    tasks = manifest.tasks_from_videos([uri], ["What happens?"])
    tasks += [Task(f"{uri}/missing.mp4", None, None, (("missing", "Who?"),))]
    corpus.ask(tasks, f"{uri}/out", settings)
    missing, row = sorted(rows_of(tmp_path / "out"), key=lambda row: row["error"] is None)
    assert missing["error"] == "decode:not_found"
    assert row["video"] == f"{uri}/a%20film.mp4"
    asked = vzvideo.load(settings=settings, cache=False).ask(videos / "1.mp4", "What happens?")
    assert row["answer"] == asked.text


def test_an_index_zipped_across_frames_holds_what_is_asked_otherwise(
    without_ray: None, videos: Path, settings: Settings, tmp_path: Path
) -> None:
    settings = settings.replace(temporal="on")
    summary = corpus.index(tasks_of(videos, ("0.mp4",)), str(tmp_path / "tokens"), settings)
    assert summary.rows == 1
    kept = vzvideo.VisualTokens.load(next((tmp_path / "tokens").glob("*.vz.safetensors")))
    expected = vzvideo.load(settings=settings, cache=False).encode(videos / "0.mp4")
    np.testing.assert_array_equal(kept.until, expected.until)
    torch.testing.assert_close(kept.features, expected.features)
    assert (kept.until - kept.frame > 1).any()


def test_an_index_is_asked_instead_of_the_videos(
    without_ray: None, videos: Path, settings: Settings, tmp_path: Path
) -> None:
    tokens, out = str(tmp_path / "tokens"), str(tmp_path / "out")
    tasks = tasks_of(videos, ("0.mp4", "2.mkv", "text.mp4"))
    summary = corpus.index(tasks[::2], tokens, settings)
    assert (summary.rows, summary.failed) == (2, {"decode:invalid": 1})
    assert corpus.index(tasks, tokens, settings).kept == 2
    more = [*tasks, *tasks_of(videos, ("1.mp4",))]
    summary = corpus.ask(more, out, settings, tokens=tokens)
    assert summary.failed == {"decode:invalid": 3, "index:not_indexed": 3}
    texts = expected(videos, settings)
    for row in rows_of(tmp_path / "out"):
        missing = row["error"] == "index:not_indexed"
        assert missing == row["id"].startswith("1.mp4")
        assert row["answer"] == (None if missing else texts[row["id"]])
    kept = vzvideo.VisualTokens.load(next(Path(tokens).glob("*.vz.safetensors")))
    assert kept.frames == 4
    with pytest.raises(SettingsError, match="no tokens there"):
        corpus.ask(tasks, out, settings, tokens=str(tmp_path / "nowhere"))
    said: list[str] = []
    asked = planning.tasks_from_index(tokens, QUESTIONS[:2], said.append)
    corpus.ask(asked, str(tmp_path / "all"), settings, tokens=tokens)
    found = {(row["video"], row["question"]): row["answer"] for row in rows_of(tmp_path / "all")}
    assert found == {
        (str(videos / name), question): texts[f"{name} {question}"]
        for name in ("0.mp4", "2.mkv")
        for question in QUESTIONS[:2]
    }
    # What is asked another day joins what was asked.
    asked = planning.tasks_from_index(tokens, QUESTIONS[2:], said.append)
    corpus.ask(asked, str(tmp_path / "all"), settings, tokens=tokens)
    assert len(rows_of(tmp_path / "all")) == 6
    assert said == [f"{tokens}: without tokens, and not asked: 1 of 3 rows"] * 2


def test_a_question_that_cannot_be_asked_fails_alone(
    without_ray: None, videos: Path, settings: Settings, tmp_path: Path
) -> None:
    long = "Is there a cat? " * 100
    asked = (("a", "Who?"), ("b", "What is <video>?"), ("c", "Where?"), ("d", long))
    tasks = [Task(str(videos / "0.mp4"), None, None, asked)]
    corpus.ask(tasks, str(tmp_path / "out"), settings)
    rows = rows_of(tmp_path / "out")
    assert [row["error"] for row in rows] == [None, "plan:question", None, "plan:budget"]
    assert "control words" in rows[1]["message"]


def test_what_suits_no_row_stops_the_job_before_it_starts(
    cluster: Any, videos: Path, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(BudgetError, match="what would fit"):
        corpus.ask(tasks_of(videos), str(tmp_path / "out"), settings.replace(frames=500))


class Deadly(Answer):
    """Dies of one video, as one that a kernel kills for its memory does."""

    def work(self, item: Encoded | Work) -> Any:
        work = item if isinstance(item, Work) else item.work
        if work.task.video.endswith("1.mp4"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().work(item)


def test_a_video_that_kills_its_actor_becomes_a_failure(
    cluster: Any, videos: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "Answer", Deadly)
    monkeypatch.setattr(flow, "_RETRIES", 0)
    monkeypatch.setattr(corpus, "_PASSES", 2)
    tasks = tasks_of(videos, ("0.mp4", "1.mp4", "2.mkv"))
    summary = corpus.ask(tasks, str(tmp_path / "out"), settings)
    assert summary.failed == {"job:lost": 3}
    assert len(rows_of(tmp_path / "out")) == 9


class Unable(Answer):
    """Cannot be set up at all, as where a model is missing."""

    def __init__(self, settings: Settings) -> None:
        raise OSError("no weights here")


def test_what_no_actor_can_do_stops_the_job(
    cluster: Any, videos: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "Answer", Unable)
    with pytest.raises(VzVideoError, match="no weights here"):
        corpus.ask(tasks_of(videos, ("0.mp4",)), str(tmp_path / "out"), settings)
    assert not list((tmp_path / "out").glob("part-*"))


def test_what_ray_stumbles_over_once_is_tried_again(
    cluster: Any, videos: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    troubles = [flow.RayError("Ray: an actor never ran", code="passing")]

    def stumbling(works: list[Work], *_: Any) -> Iterator[Any]:
        if troubles:
            raise troubles.pop()
        yield from (Failed(work, "encode", "second", "pass") for work in works)

    monkeypatch.setattr(corpus, "run_stages", stumbling)
    said: list[str] = []
    out = tmp_path / "out"
    summary = corpus.ask(tasks_of(videos, ("0.mp4",)), str(out), settings, say=said.append)
    assert (summary.done, summary.failed) == (3, {"encode:second": 3})
    assert said[-2:] == [
        "Ray: an actor never ran", "lost on the way: 1 video; trying again"
    ]  # fmt: skip


def actors() -> list[psutil.Process]:
    """The processes of all pools, in the cluster that was started here and in no other."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "ray::MapWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_actors_and_a_node_die_and_no_row_is_lost(
    videos: Path, settings: Settings, tmp_path: Path, cluster: Any
) -> None:
    node = cluster.add_node(**NODE)
    over, killed, rng = threading.Event(), [], random.Random(0)

    def kill() -> None:
        # An actor takes seconds to start: who never stopped killing would test patience only.
        while len(killed) < 6 and not over.wait(4):
            if len(killed) == 1:
                cluster.remove_node(node, allow_graceful=False)
            if running := actors():
                victim = rng.choice(running)
                with suppress(psutil.NoSuchProcess):  # it went with its node
                    victim.kill()
                    killed.append(victim.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        # So many tasks that the killing falls into the work, and not before it.
        tasks = [
            Task(task.video, start_s, None, tuple((f"{n} {start_s}", q) for n, q in task.asked))
            for start_s in (0.0, 0.1, 0.2, 0.3)
            for task in tasks_of(videos)
        ]
        summary = corpus.ask(tasks, str(tmp_path / "out"), settings)
    finally:
        over.set()
        killer.join()
    assert len(killed) >= 2
    rows = rows_of(tmp_path / "out")
    assert len(rows) == len({row["id"] for row in rows}) == summary.rows == 144
    assert summary.failed.total() == 60
    qa = vzvideo.load(settings=settings, cache=False)
    for row in rows[:: len(rows) // 12]:
        if not row["error"]:
            text = qa.ask(row["video"], row["question"], start_s=row["start_s"]).text
            assert row["answer"] == text


def test_a_killed_driver_is_gone_on_from(videos: Path, settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = tmp_path / "manifest.jsonl"
    path.write_text(
        "".join(
            json.dumps({"id": name, "video": task.video, "question": q}) + "\n"
            for task in tasks_of(videos) for name, q in task.asked
        )
    )  # fmt: skip
    command = [sys.executable, "-m", "vzvideo", "batch", str(path), "-o", str(out), "--model",
               settings.model, "--tokens-per-frame", "5", "--frames", "4",
               "--max-new-tokens", "6"]  # fmt: skip
    environment = os.environ | {"RAY_ADDRESS": "local"}  # each with a Ray of its own
    for files in (1, 2):  # killed once with nothing but some rows, once with some more
        driver = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        ends = time.monotonic() + RAY_S
        while len(list(out.glob("part-*"))) < files and driver.poll() is None:
            assert time.monotonic() < ends
            time.sleep(0.05)
        driver.kill()
        driver.wait()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=RAY_S)
    assert done.returncode == 1, done.stderr
    assert done.stdout == f"{out}\n"
    assert "36 rows: 21 good, 15 failed (decode:invalid 6" in done.stderr
    texts = {row["id"]: row["answer"] for row in rows_of(out)}
    assert texts == expected(videos, settings)
    assert len(rows_of(out)) == 36


def test_the_manifest_of_a_folder_runs_through(
    without_ray: None, videos: Path, settings: Settings, tmp_path: Path
) -> None:
    tasks = manifest.tasks_from_videos(
        [str(videos / "*.mkv"), str(videos / "0.mp4")], ["Who?", "Where?"]
    )
    summary = corpus.ask(tasks, str(tmp_path / "out"), settings, format="jsonl")
    assert (summary.rows, summary.failed) == (4, {})
    lines = [
        json.loads(line)
        for file in (tmp_path / "out").glob("*.jsonl")
        for line in file.read_text().splitlines()
    ]
    assert sorted((row["video"], row["question"]) for row in lines) == sorted(
        (str(videos / name), question)
        for name in ("2.mkv", "0.mp4")
        for question in ("Who?", "Where?")
    )
