"""How everything here is measured: in turns, every repetition kept, memory in fresh processes.

Knows nothing of what is measured.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

Numbers = dict[str, Any]  # names end in _s or _bytes, or say a ratio: this_to_that
Columns = dict[str, list[float]]  # of each quantity, every repetition
T = TypeVar("T")
DIED = "the process died"  # as where the system kills what asks for too much memory


@contextmanager
def timed(taken: Columns, name: str) -> Iterator[None]:
    """Notes the seconds that what is done within takes, on the GPU too."""
    import torch  # here alone: a process that only decodes would take seconds to load it

    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else (lambda: None)
    synchronize()
    begun = time.perf_counter()
    yield
    synchronize()
    taken.setdefault(name, []).append(time.perf_counter() - begun)


def time_alternating(variants: dict[str, Callable[[], Any]], repeats: int) -> Columns:
    """Seconds of every repetition of each variant, after one that does not count."""
    taken: Columns = {}
    for turn in range(repeats + 1):
        for name in rotate(variants, turn):
            with timed(taken, name):
                variants[name]()
    return without_warmup(taken)


def without_warmup(taken: Columns) -> Columns:
    """Without the first repetition, which warmed everything up."""
    return {name: each[1:] for name, each in taken.items()}


def rotate(items: Iterable[T], turn: int) -> list[T]:
    items = list(items)
    first = turn % len(items)
    return items[first:] + items[:first]


def spread(values: Sequence[float]) -> Numbers:
    middle = statistics.median(values)
    return {"median": middle, "low": min(values), "high": max(values), "each": list(values)}


def ratio(above: Sequence[float], below: Sequence[float]) -> Numbers:
    """The spread of above / below, repetition by repetition."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def peak_bytes(run: Callable[[], Any]) -> int:
    """Bytes by which `run` raises the memory in use, at its height: the GPU's where it is used.

    For a process of its own: on the CPU, what is allocated afterwards is slower for it.
    """
    import torch

    if torch.cuda.is_available() and (before := torch.cuda.memory_allocated()):
        torch.cuda.reset_peak_memory_stats()
        run()
        return int(torch.cuda.max_memory_allocated() - before)
    return_freed_memory()
    before = peak_resident_bytes(reset=True)
    run()
    return peak_resident_bytes() - before


def peak_bytes_by_size(run: Callable[[int], Any], sizes: Sequence[int]) -> dict[int, int | str]:
    """`peak_bytes` of `run(size)` by size, or in its place why it does not run here."""
    found: dict[int, int | str] = {}
    for size in sizes:
        try:
            found[size] = peak_bytes(partial(run, size))
        except Exception as error:
            found[size] = error_line(error)
    return found


def peaks_in_child(
    child: Callable[..., dict[int, int | str]], setup: Any, name: str, sizes: Sequence[int]
) -> dict[int, int | str]:
    """`child(setup, name, sizes)`, a `peak_bytes_by_size` of ascending sizes, from a fresh process.

    Where that dies, the largest size is to blame, and the others are tried without it.
    """
    try:
        return in_child(child, setup, name, sizes)
    except RuntimeError as error:
        if str(error) != DIED:
            return dict.fromkeys(sizes, error_line(error))
        smaller = peaks_in_child(child, setup, name, sizes[:-1]) if sizes[1:] else {}
        return smaller | {sizes[-1]: DIED}


def runnable(
    variants: Mapping[str, Callable[[], Any]],
) -> tuple[dict[str, Callable[[], Any]], dict[str, Numbers]]:
    """Of variants to call, those that run here; of the others {"error": why not}."""
    import torch

    errors: dict[str, Numbers] = {}
    for name, run in variants.items():
        try:
            run()
        except Exception as error:
            errors[name] = {"error": error_line(error)}
        torch.cuda.empty_cache()  # what one held, the next may need
    return {name: run for name, run in variants.items() if name not in errors}, errors


def error_line(error: BaseException) -> str:
    """One line of an error."""
    name = "" if type(error) is RuntimeError else f"{type(error).__name__}: "
    return f"{name}{' '.join(str(error).split())}"[:300]


def peak_resident_bytes(reset: bool = False) -> int:
    """Most bytes of RAM this process has held; since the last reset, where the system has one.

    Linux counts into a child's ru_maxrss what its parent held, so it is the second choice.
    """
    with suppress(OSError):
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def return_freed_memory() -> None:
    """Has glibc give freed tensors back at once: what it kept would hide what is asked for next."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 17)  # M_MMAP_THRESHOLD
        libc.malloc_trim(0)


def free_memory() -> None:
    """Frees what is no longer used, on the device as well."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_child(function: Callable[..., Any], *args: Any, deadline_s: float = 900) -> Any:
    """`function(*args)` from a fresh process; RuntimeError where it fails, dies or hangs."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    child = spawn.Process(target=_send, args=(theirs, function, args), daemon=True)
    child.start()
    theirs.close()
    try:
        result = ours.recv() if ours.poll(deadline_s) else f"no answer within {deadline_s:g} s"
    except EOFError:
        result = DIED
    finally:
        child.kill()
        child.join()
    if isinstance(result, str):
        raise RuntimeError(result)
    return result


def _send(pipe: Any, function: Callable[..., Any], args: Any) -> None:
    try:
        pipe.send(function(*args))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


def show(name: str, value: Any) -> None:
    """Prints a part's numbers, one a line, in the units that their names end in.

    Of a list of cells, each begins with a line of what it is: its plain numbers.
    """
    scale, unit = 1.0, "x" if "_to_" in name else ""
    for ending, factor, word in (("_per_s", 1, "/s"), ("_s", 1e3, "ms"), ("_bytes", 2**-20, "MiB")):
        if name.endswith(ending):
            name, scale, unit = name.removesuffix(ending), factor, word
            break
    if isinstance(value, dict) and "median" in value:
        middle, low, high = (scale * value[key] for key in ("median", "low", "high"))
        line = f"{name:<48}{middle:10.2f} {unit:<4}({low:.2f}..{high:.2f})"
    elif isinstance(value, dict):
        for key, inner in value.items():
            show(f"{name} {key}", inner)
        return
    elif isinstance(value, list):
        for cell in value:
            if isinstance(cell, dict):
                plain = {k: v for k, v in cell.items() if isinstance(v, int | float | str)}
                print(", ".join([name, *(f"{k} {v}" for k, v in plain.items())]), flush=True)
                for key in [key for key in cell if key not in plain]:
                    show(f"  {key}", cell[key])
        return
    elif isinstance(value, bool | str):
        line = f"{name:<48}{value!s:>10}"
    elif isinstance(value, int | float):
        digits = 2 if unit or isinstance(value, float) else 0
        line = f"{name:<48}{value * scale:10.{digits}f} {unit}".rstrip()
    else:
        return
    print(line, flush=True)


def environment() -> Numbers:
    """The machine and the software, as far as they say what they are, and the moment."""
    import torch

    cpu = platform.processor()
    with suppress(OSError, IndexError):
        cpu = Path("/proc/cpuinfo").read_text().split("model name")[1].split("\n")[0].lstrip("\t: ")
    versions = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for package in ("vzvideo", "torch", "transformers", "av", "decord", "torchcodec", "numpy"):
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    hardware = {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    commit = None
    with suppress(OSError, subprocess.CalledProcessError):
        git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
        git += ["--abbrev=40", "--exclude=*"]
        commit = subprocess.run(git, capture_output=True, check=True, text=True).stdout.strip()
    date = datetime.now(UTC).isoformat(timespec="seconds")
    moment = {"commit": commit, "load_average": os.getloadavg()[0], "date": date}
    return {"hardware": hardware, "versions": versions} | moment
