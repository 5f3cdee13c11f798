"""A corpus job from a YAML file, for `ray job submit`.

    ray job submit --working-dir . -- python -m pipelines.ask_corpus --config configs/corpus.yaml

The same as `vzvideo batch` with flags, for jobs that are to be repeated and kept beside the code.
The exit status is 1 where any row failed. Run again, it computes only what is missing.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from vzvideo import config
from vzvideo.config import Settings
from vzvideo.corpus import job as corpus
from vzvideo.corpus import manifest
from vzvideo.corpus.manifest import Task
from vzvideo.corpus.progress import Progress, Summary
from vzvideo.corpus.rows import suggest
from vzvideo.errors import SettingsError, VzVideoError
from vzvideo.video.guarded import Guard

NAMES = (
    *("manifest", "videos", "ask", "out", "tokens", "format", "settings"),
    *("deadline_s", "memory_gib", "tries", "retry_failed"),
)
EVERY_S = 30.0  # a line of progress


def read(path: Path) -> dict[str, Any]:
    """What a job's file says; SettingsError where a name is wrong or something is missing."""
    try:
        job = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise SettingsError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(job, dict):
        raise SettingsError(f"{path}: lines of `name: value` are expected")
    for name in job:
        if name not in NAMES:
            raise SettingsError(f"{path}: unknown name {name!r}: {suggest(str(name), NAMES)}")
    if not job.get("out"):
        raise SettingsError(f"{path}: out is missing: where the answers go")
    return job


def tasks_of(job: dict[str, Any]) -> list[Task]:
    """What is asked of which videos."""
    if bool(job.get("manifest")) == bool(job.get("videos")):
        raise SettingsError("give a manifest, or videos with ask")
    if job.get("manifest"):
        return manifest.read(str(job["manifest"]))
    if not job.get("ask"):
        raise SettingsError("ask is missing: a list of questions to all the videos")
    return manifest.tasks_from_videos(_several(job["videos"]), _several(job["ask"]))


def _several(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def run(job: dict[str, Any]) -> Summary:
    """Does it, with a line on stderr now and then."""
    given: dict[str, Any] = {}
    for name, kind in (("deadline_s", float), ("memory_gib", float), ("tries", int)):
        try:
            given |= {name: kind(job[name])} if name in job else {}
        except (TypeError, ValueError):
            raise SettingsError(f"{name}: {job[name]!r} given, a number is needed") from None
    settings: Settings = config.load(None, **(job.get("settings") or {}))
    told = time.monotonic()

    def tell(progress: Progress) -> None:
        nonlocal told
        if time.monotonic() - told > EVERY_S:
            told = time.monotonic()
            _say(f"{progress.rows}/{progress.total} rows, {progress.failed} failed, "
                 f"{progress.rate:.2f} videos/s, {progress.left_s or 0:.0f} s left")  # fmt: skip

    return corpus.ask(
        tasks_of(job),
        str(job["out"]),
        settings,
        tokens=job.get("tokens"),
        format=job.get("format", "parquet"),
        guard=Guard(**given),
        retry_failed=bool(job.get("retry_failed", False)),
        progress=tell,
        say=_say,
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="YAML; see configs/corpus.yaml")
    args = parser.parse_args()
    try:
        summary = run(read(args.config))
    except VzVideoError as error:
        sys.exit(f"ask_corpus: {error}")
    failed = summary.failed.total()
    _say(f"{summary.rows} rows, {failed} failed {dict(summary.failed)}, {summary.seconds:.0f} s")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
