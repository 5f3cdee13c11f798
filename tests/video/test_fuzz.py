"""Damaged files of every kind, opened in a process that may crash, hang or swell without harm.

VZVIDEO_FUZZ says how many; the seed in a report makes the same file again.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import traceback
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

import numpy as np
import pytest

from tests.video.clips import KINDS
from vzvideo.errors import VzVideoError
from vzvideo.video import open_video
from vzvideo.video.sampling import uniform

FILES = int(os.environ.get("VZVIDEO_FUZZ", "25"))
HANGS_S = 20.0
MEMORY_BYTES = 4 * 2**30


def damaged(data: bytes, random: Random) -> bytes:
    """`data` with one to three wounds of random kinds."""
    for _ in range(random.randint(1, 3)):
        length = len(data)
        at, many = random.randrange(length), random.randrange(1, max(2, length // 8))
        if random.random() < 0.3:  # headers stand at the beginning and the end
            at = random.choice([min(at, random.randrange(200)), length - 1 - at % 600]) % length
        match random.randrange(6):
            case 0:
                wounded = bytearray(data)
                for _ in range(random.randint(1, 60)):
                    wounded[random.randrange(length)] ^= 1 << random.randrange(8)
                data = bytes(wounded)
            case 1:
                data = data[:at] + random.randbytes(min(8, length - at)) + data[at + 8 :]
            case 2:
                data = data[: max(1, at)]
            case 3:
                data = data[:at] + random.randbytes(many) + data[at:]
            case 4:
                data = data[:at] + bytes(min(many, length - at)) + data[at + many :]
            case 5:
                other = random.randrange(length)
                first, second = sorted((at, other))
                size = min(many, second - first, length - second)
                data = (
                    data[:first]
                    + data[second : second + size]
                    + data[first + size : second]
                    + data[first : first + size]
                    + data[second + size :]
                )
    return data


def watch(path: Path) -> None:
    """What the pipeline does with a video. Whatever else than VzVideoError it raises is a bug."""
    with suppress(VzVideoError), open_video(path, deadline_s=10) as video:
        duration_s = video.info.duration_s
        assert np.isfinite(duration_s)
        assert duration_s > 0
        assert np.isfinite(video.info.average_fps)
        assert video.info.average_fps > 0
        batch = video.frames_at(uniform(0, duration_s, 6))
        assert batch.asked == 6
        assert 1 <= len(batch) <= 6
        assert np.isfinite(batch.pts_s).all()
        assert (np.diff(batch.pts_s) > 0).all()
        assert batch.lost >= 0
        times, changes = video.differences(0, duration_s)
        assert len(times) == len(changes)
        assert (np.diff(times) > 0).all()
        keys = video.keyframes_s()
        assert len(keys) >= 1
        assert np.isfinite(keys).all()
        assert (np.diff(keys) > 0).all()


def work(orders: Connection) -> None:
    """The child: a path comes in, nothing or a traceback goes out."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    while True:
        path = orders.recv()
        try:
            watch(path)
        except BaseException:
            orders.send(traceback.format_exc())
        else:
            orders.send("")


class Worker:
    """A child process, and another one where that has died of a file."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._orders, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def watch(self, path: Path) -> str:
        self._orders.send(path)
        try:
            if self._orders.poll(HANGS_S):
                return str(self._orders.recv())
            reason = f"hangs for more than {HANGS_S:g} s"
        except EOFError:
            self._process.join()
            reason = f"crashes with exit code {self._process.exitcode}"
        self.close()
        self.__init__()  # type: ignore[misc]
        return reason

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._orders.close()


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


def test_damaged_files_give_frames_or_one_clear_error(worker: Worker, tmp_path: Path) -> None:
    sources = {}
    for kind in KINDS:
        kind.make(kind, tmp_path / str(kind))
        sources[kind] = (tmp_path / str(kind)).read_bytes()
    failures = []
    for seed in range(FILES):
        random = Random(seed)
        kind = KINDS[seed % len(KINDS)]
        path = tmp_path / f"{seed}{kind.suffix}"
        path.write_bytes(damaged(sources[kind], random))
        if trouble := worker.watch(path):
            failures.append(f"seed {seed}, {kind}: {trouble}")
        path.unlink()
    assert not failures, "\n".join(failures)
