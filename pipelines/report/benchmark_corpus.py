"""What a corpus job does on this machine: how fast, how large, and what it survives.

    python -m pipelines.report.benchmark_corpus clips/ --out corpus.json

`clips/` is a folder of videos. Parts (`--parts`): `flow`, the job against each of its stages
alone; `nodes`, decoding on two nodes of one core against one; `many`, ten questions a video against
one; `bound`, 2,000 videos in flight; `chaos`, 300 rows over 60 files, ten of them broken, while
actors, a node and twice the driver are killed. Writes one JSON file with the machine and every
figure.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from vzvideo.config import Settings
from vzvideo.corpus import cluster as flow
from vzvideo.corpus import job as corpus
from vzvideo.corpus import manifest
from vzvideo.corpus.manifest import Task
from vzvideo.corpus.stages import Answer, Decode, Encode, Stage, Work
from vzvideo.qa import loading
from vzvideo.qa.video_qa import VideoQA
from vzvideo.video.guarded import Guard

PARTS = ("flow", "nodes", "many", "bound", "chaos")
QUESTIONS = (
    *("What is happening in the video?", "Is there a dog?", "Who is there?", "Where is this?"),
    *("What colour is it?", "How many people are there?", "Is it outside?", "Is it night?"),
    *("What happens first?", "What happens last?"),
)
STORE = 1 << 30  # bytes of object store of the nodes started here


def tasks_of(videos: Sequence[Path], count: int, questions: Sequence[str]) -> list[Task]:
    """`count` tasks over the videos; where they come again, they begin a little later."""
    made = []
    for number in range(count):
        again, place = divmod(number, len(videos))
        asked = tuple((f"{number}-{n}", question) for n, question in enumerate(questions))
        made.append(Task(str(videos[place]), 0.01 * again if again else None, None, asked))
    return made


def steady_rate(done_s: Sequence[float]) -> float:
    """Videos a second in the middle half of those that were done.

    Before that models are loaded, and what was done meanwhile comes out all at once; afterwards
    stages run dry.
    """
    begin, end = len(done_s) // 4, 3 * len(done_s) // 4
    return (end - begin) / (done_s[end] - done_s[begin])


def timed_job(tasks: list[Task], settings: Settings, **more: Any) -> dict[str, float]:
    """A job's seconds, its videos a second, and what they spent in each stage."""
    done: list[float] = []
    with tempfile.TemporaryDirectory() as out:
        begun = time.perf_counter()
        summary = corpus.ask(
            tasks, out, settings, progress=lambda _: done.append(time.perf_counter()), **more
        )
        seconds = time.perf_counter() - begun
        rows = pq.read_table(out).to_pylist()
    by_video = {(row["video"], row["start_s"]): row for row in rows if not row["error"]}
    stage_s = {
        name: sum(row[f"{name}_s"] for row in by_video.values())
        for name in ("decode", "encode", "prefill", "generate")
    }
    return {"seconds": seconds, "videos_per_s": steady_rate(done), "rows": summary.rows,
            "failed": summary.failed.total(), **stage_s}  # fmt: skip


@contextmanager
def cluster(nodes: Sequence[float], *, pinned: bool = False) -> Iterator[Any]:
    """Nodes of so many cores on this machine, and this process connected to them.

    pinned: each node gets a core of this machine to itself; Ray's own count of cores binds nobody.
    """
    import ray
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    args: list[Any] = [{"num_cpus": cpus, "object_store_memory": STORE} for cpus in nodes]
    everywhere = os.sched_getaffinity(0)
    made = Cluster()
    for number, each in enumerate(args):
        if pinned:  # what is started now inherits it
            os.sched_setaffinity(0, {sorted(everywhere)[number]})
        made.add_node(**each)
    os.sched_setaffinity(0, everywhere)
    paths = {"PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    ray.init(address=made.address, runtime_env={"env_vars": paths}, log_to_driver=False)
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def works_of(tasks: Sequence[Task], planner: VideoQA) -> list[Work]:
    """What a job hands to its first stage."""
    made = []
    for task in tasks:
        recipe = planner.recipe(start_s=task.start_s)
        made.append(
            Work(task, task.video, "", recipe.settings, recipe.frames, recipe.size, recipe.about)
        )
    return made


def stages_and_job(videos: list[Path], settings: Settings) -> dict[str, Any]:
    """The job's rate against that of each stage in a bare loop of one worker."""
    tasks = tasks_of(videos, 4 * len(videos), QUESTIONS[:1])
    planner = loading.load(settings=settings.replace(cache=False), part="outline")
    works = works_of(tasks, planner)
    compression = planner.recipe().compression
    rates: dict[str, float] = {}
    items: list[Any] = works
    alone: tuple[Stage, ...] = (
        Decode(Guard()), Encode(settings, compression), Answer(settings)
    )  # fmt: skip
    for stage in alone:
        items[:1] = [stage.work(items[0])]  # what is done the first time is not counted
        begun = time.perf_counter()
        items[1:] = [stage.work(item) for item in items[1:]]
        rates[stage.name] = (len(items) - 1) / (time.perf_counter() - begun)
    job = timed_job(tasks, settings)
    slowest = min(rates.values())
    return {"alone_videos_per_s": rates, "job": job, "of_slowest": job["videos_per_s"] / slowest}


def nodes(videos: list[Path], settings: Settings) -> dict[str, Any]:
    """Decoding, and nothing else, on two nodes of one core against one."""
    # To find the scenes every frame is decoded, and one of them goes on its way.
    settings = settings.replace(frames=1, sampling="scenes", cache=False)
    planner = loading.load(settings=settings, part="outline")
    works = works_of(tasks_of(videos, 12 * len(videos), QUESTIONS[:1]), planner)
    found: dict[str, Any] = {}
    for cores in ((1.0,), (1.0, 1.0)):
        with cluster(cores, pinned=True):
            pool = flow.Pool(Decode, (Guard(),), cpus=1.0)
            done_s = [time.perf_counter() for _ in flow.run_stages(works, [pool], None)]
        found[f"{len(cores)} nodes"] = {"videos": len(done_s), "videos_per_s": steady_rate(done_s)}
    found["gain"] = found["2 nodes"]["videos_per_s"] / found["1 nodes"]["videos_per_s"]
    return found


def many(videos: list[Path], settings: Settings) -> dict[str, Any]:
    """Ten questions a video against one, generation aside."""
    found = {}
    for name, count in (("one", 1), ("ten", 10)):
        job = timed_job(tasks_of(videos, len(videos), QUESTIONS[:count]), settings)
        found[name] = job | {"before_answers_s": job["decode"] + job["encode"] + job["prefill"]}
    ratio = found["ten"]["before_answers_s"] / found["one"]["before_answers_s"]
    return {**found, "ratio": ratio}


def bound(videos: list[Path], settings: Settings) -> dict[str, Any]:
    """Memory and object store over a job of 2,000 videos."""
    import ray

    over, store, resident = threading.Event(), [0.0], [0.0]
    settings = settings.replace(frames=2, tokens_per_frame=9, max_new_tokens=1)

    def watch() -> None:
        while not over.wait(0.5):
            free = ray.available_resources().get("object_store_memory", STORE)
            store.append(STORE - free)
            resident.append(sum(_resident(process) for process in _family()))

    with tempfile.TemporaryDirectory() as folder, cluster([os.cpu_count() or 1]):
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            shortest = min(videos, key=lambda path: path.stat().st_size)
            links = [Path(folder, f"{number}{shortest.suffix}") for number in range(2000)]
            for link in links:
                link.symlink_to(shortest.resolve())
            job = timed_job(tasks_of(links, len(links), QUESTIONS[:1]), settings)
        finally:
            over.set()
            watcher.join()
    half = len(resident) // 2
    return {
        "job": job,
        "store_bound_mib": STORE / (1 << 20),
        "store_peak_mib": max(store) / (1 << 20),
        "resident_first_half_mib": max(resident[:half]) / (1 << 20),
        "resident_second_half_mib": max(resident[half:]) / (1 << 20),
    }


def _family() -> list[psutil.Process]:
    return [psutil.Process(), *psutil.Process().children(recursive=True)]


def _resident(process: psutil.Process) -> float:
    try:
        info = process.memory_info()
        return float(info.rss - info.shared)
    except psutil.Error:
        return 0.0


def chaos(videos: list[Path], settings: Settings) -> dict[str, Any]:
    """Kills an actor every few seconds, a node, and twice the driver; compares with a quiet run."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        path = folder / "manifest.jsonl"
        files = _files(videos, folder)
        path.write_text(
            "".join(
                json.dumps({"id": f"{file.name}-{n}", "video": str(file), "question": question})
                + "\n"
                for file in files
                for n, question in enumerate(QUESTIONS[:5])
            )
        )
        corpus.ask(manifest.read(str(path)), str(folder / "quiet"), settings)
        killed = _disturbed(path, folder / "out", settings)
        quiet, rows = (_rows(folder / name) for name in ("quiet", "out"))
    texts = {row["id"]: (row["answer"], row["error"]) for row in rows}
    return {
        "rows": len(rows),
        "ids": len(texts),
        "failed": sum(row["error"] is not None for row in rows),
        "same_as_quiet": texts == {row["id"]: (row["answer"], row["error"]) for row in quiet},
        **killed,
    }


def _files(videos: list[Path], folder: Path) -> list[Path]:
    """Fifty copies, and ten files that are broken, each in a way of its own."""
    made = []
    for number in range(50):
        source = videos[number % len(videos)]
        made.append(Path(shutil.copy(source, folder / f"good{number}{source.suffix}")))
    content = made[0].read_bytes()
    rng = random.Random(0)
    broken = {
        "missing": None, "empty": b"", "text": b"no video", "short": content[:100],
        "header": content[:2000], "zeros": bytes(5000), "noise": rng.randbytes(50_000),
        "headless": content[5000:], "json": b'{"a": 1}',
        "half": content[:16] + rng.randbytes(len(content) // 4),
    }  # fmt: skip
    for name, bad in broken.items():
        made.append(folder / f"{name}.mp4")
        if bad is not None:
            made[-1].write_bytes(bad)
    return made


def _disturbed(path: Path, out: Path, settings: Settings) -> dict[str, int]:
    over, dead = threading.Event(), {"actors": 0, "drivers": 0, "nodes": 0}
    rng = random.Random(1)

    def kill_actors() -> None:
        while not over.wait(rng.uniform(4, 8)):
            running = [p for p in psutil.process_iter(["cmdline"])
                       if "ray::MapWorker" in " ".join(p.info["cmdline"] or [])]  # fmt: skip
            if running:
                rng.choice(running).kill()
                dead["actors"] += 1

    with cluster([1, 1]) as made:
        node = made.add_node(num_cpus=1, object_store_memory=STORE)
        killer = threading.Thread(target=kill_actors)
        killer.start()
        try:
            for rows in (60, 150):
                driver = _driver(path, out, settings, made.address)
                while len(_rows(out)) < rows and driver.poll() is None:
                    time.sleep(0.2)
                dead["drivers"] += driver.poll() is None
                driver.kill()
                driver.wait()
                if rows == 60:
                    made.remove_node(node, allow_graceful=False)
                    dead["nodes"] += 1
            _driver(path, out, settings, made.address).wait()
        finally:
            over.set()
            killer.join()
    return {f"killed_{name}": count for name, count in dead.items()}


def _driver(path: Path, out: Path, settings: Settings, address: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vzvideo", "batch", str(path), "-o", str(out)]
    command += ["--model", settings.model, "--max-new-tokens", str(settings.max_new_tokens)]
    return subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": address})


def _rows(out: Path) -> list[dict[str, Any]]:
    """All rows that stand; a file may be written or go while this looks."""
    rows: list[dict[str, Any]] = []
    for file in sorted(out.glob("part-*.parquet")):
        rows += pq.read_table(file, columns=["id", "answer", "error"]).to_pylist()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("clips", type=Path, help="folder of videos")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repetitions", type=int, default=1)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    found = manifest.tasks_from_videos([str(args.clips)], [])
    videos = [Path(task.video) for task in found]
    if len(videos) < 4:
        parser.error(f"{args.clips}: {len(videos)} videos, four at least give a rate")
    settings = Settings(model=args.model, max_new_tokens=24)
    measured: dict[str, Any] = {
        "cpus": os.cpu_count(),
        "videos": [path.name for path in videos],
        "settings": dataclasses.asdict(settings),
    }
    parts: dict[str, Callable[[list[Path], Settings], dict[str, Any]]] = {
        "flow": stages_and_job, "nodes": nodes, "many": many, "bound": bound, "chaos": chaos,
    }  # fmt: skip
    for name in args.parts:
        measured[name] = [parts[name](videos, settings) for _ in range(args.repetitions)]
        args.out.write_text(json.dumps(measured, indent=1) + "\n")
        print(name, json.dumps(measured[name][-1]), flush=True)
    if "flow" in measured:
        print("of the slowest stage:", statistics.median(r["of_slowest"] for r in measured["flow"]))


if __name__ == "__main__":
    main()
