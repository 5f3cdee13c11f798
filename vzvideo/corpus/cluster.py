"""Works moved through pools of actors, on whatever Ray there is: the only file that imports ray.

Knows nothing of videos, nor of what becomes of that which comes out.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from vzvideo.corpus.stages import Stage, Work
from vzvideo.errors import VzVideoError

OBJECT_STORE_GIB = 2.0  # of a Ray that is started here; frames on their way lie there
_CONNECT_S = 10.0  # until a cluster's address counts as dead
_MOST_ACTORS = 1000  # of a pool
_WORTH, _WORTH_A_MODEL = 2, 8  # videos: for fewer it does not pay to start one more actor
_CPUS_BESIDE_GPU = 0.1  # of an actor that works on a GPU
_CANCELLED = "cancelled before it started running"
_RETRIES = 5  # of a task whose actor died, within one pass


class RayError(VzVideoError):
    """Ray gave up, or an actor could not be set up. Code "passing": there is no reason not to try
    again."""

    code = "ray"


@dataclass(frozen=True)
class Pool:
    """A stage and what an actor of it takes; memory in bytes."""

    stage: type[Stage]
    arguments: tuple[Any, ...]
    cpus: float
    gpus: float = 0.0
    memory: float = 0.0


@contextmanager
def connect(say: Callable[[str], None]) -> Iterator[None]:
    """A Ray to work on: the one that is there, which is left as it was, or one of our own."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is called home
    debug = bool(os.environ.get("VZVIDEO_DEBUG"))
    if not debug:  # of arguments that lie in the object store as they should
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    quiet: Any = {"log_to_driver": debug}
    quiet["logging_level"] = logging.INFO if debug else logging.ERROR
    terminated = signal.getsignal(signal.SIGTERM)
    address = os.environ.get("RAY_ADDRESS", "")
    check_listens(address, say)
    # What its libraries print as they start is of no use to anyone; errors come as exceptions.
    with nullcontext() if debug else _silenced(2):
        joined = address != "local"
        try:
            if joined:
                ray.init(address=address or "auto", **quiet)
        except (ConnectionError, ValueError) as error:
            if address:  # whoever names a cluster wants no other
                raise _no_cluster(address, error) from None
            joined = False
        if not joined:
            store = int(OBJECT_STORE_GIB * (1 << 30))
            ray.init(address="local", object_store_memory=store, include_dashboard=False, **quiet)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminated)  # Ray would print the stacks of its own threads
    if joined:
        cpus = ray.cluster_resources().get("CPU", 0)
        say(
            f"on the Ray cluster that is running: {len(ray.nodes())} nodes, {cpus:g} CPUs "
            "(RAY_ADDRESS=local starts one of its own)"
        )
    try:
        yield
    finally:
        ray.shutdown()


def check_listens(address: str, say: Callable[[str], None]) -> None:
    """Says which cluster is about to be joined. RayError where nobody listens at its address: Ray
    itself would try for minutes, and say nothing."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():  # none, or a word of Ray's, such as "auto"
        return
    say(f"connecting to the Ray cluster at {address}, which RAY_ADDRESS names")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, error) from None


def _no_cluster(address: str, error: Exception) -> RayError:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return RayError(
        f"RAY_ADDRESS={address}: no Ray cluster answers there ({line}); start one, or set "
        "RAY_ADDRESS=local for one of your own"
    )


@contextmanager
def _silenced(descriptor: int) -> Iterator[None]:
    """Whatever is written to a file descriptor meanwhile goes nowhere."""
    kept = os.dup(descriptor)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), descriptor)
    try:
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)


def plan_actors(
    stages: Sequence[Pool], videos: int, cores: float, gpus: float, memory: float
) -> list[tuple[float, float, int]]:
    """CPUs and GPUs that an actor of each pool takes, and how many actors it may have at most.

    cores, gpus, memory (bytes): of the whole cluster.
    """
    on_gpu = [pool for pool in stages if gpus and pool.gpus]
    on_cpu = [pool for pool in stages if pool not in on_gpu]
    # Every pool gets its first actor even where one core is all there is, and may get one a core:
    # whoever has work takes the time of those that wait, which is for the system to share out.
    share = (1 - _CPUS_BESIDE_GPU * len(on_gpu)) / max(1, len(on_cpu))
    # A pool that has the cores to itself may grow with its cluster. Pools that share them have room
    # for equally many each: the first to have work would take it all, and it keeps what it has.
    most = _MOST_ACTORS
    if len(on_cpu) > 1:
        taken = sum(pool.memory for pool in on_cpu)
        most = max(1, int(min(cores, memory / taken if taken else cores)))
    found = []
    for pool in stages:
        worth = max(1, videos // (_WORTH_A_MODEL if pool.memory else _WORTH))
        if pool in on_gpu:
            found.append((_CPUS_BESIDE_GPU, pool.gpus, min(worth, max(1, int(gpus)))))
        else:
            found.append((min(pool.cpus, share), 0.0, min(worth, most)))
    return found


def run_stages(
    works: Sequence[Work], stages: Sequence[Pool], in_flight: int | None
) -> Iterator[Any]:
    """Moves works through the pools and gives what comes out, in any order.

    Some may get lost where actors or nodes die; whoever asked knows which. Raises VzVideoError
    where Ray gives up. in_flight: videos an actor has at hand; None for as many as Ray finds best.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_consecutive_actor_init_deaths = 3  # one bad node is not the end
    context.max_errored_blocks = -1  # a lost block is a few rows to do again, no end of the job
    if not os.environ.get("VZVIDEO_DEBUG"):
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Ray would stop an actor that waits and start another that others wait for, over and over, and
    # starting one costs as much as several videos. A waiting actor costs its memory.
    context.autoscaling_config.actor_pool_util_downscaling_threshold = -1.0
    resources = ray.cluster_resources()
    limits = [resources.get(name, 0.0) for name in ("CPU", "GPU", "memory")]
    items = [{"item": pickle.dumps(work, protocol=5)} for work in works]
    # A block a video: what is done is out of the pipeline at once.
    data: Any = ray.data.from_items(items, override_num_blocks=len(items))
    for pool, (cpus, gpu, most) in zip(
        stages, plan_actors(stages, len(items), *limits), strict=True
    ):
        # Ray would for ever try again what kills its actor. These two are about to get names of
        # their own (2.64), hence the warning.
        retries: Any = {"max_restarts": -1, "max_task_retries": _RETRIES}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            data = data.map_batches(
                pool.stage,
                fn_constructor_args=pool.arguments,
                batch_size=1,
                compute=ActorPoolStrategy(
                    min_size=1,
                    max_size=most,
                    max_tasks_in_flight_per_actor=in_flight,
                ),
                num_cpus=cpus,
                num_gpus=gpu or None,
                memory=None if gpu else pool.memory or None,
                **retries,
            )
    try:
        for batch in data.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1):
            for item in batch["item"]:
                yield pickle.loads(item)
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1][:400]  # behind the traceback
        ours = last.startswith("vzvideo.errors.")
        line = last.partition(": ")[2] if ours else f"Ray: {type(error).__name__}: {last}"
        # Now and then Ray takes back an actor that it is about to start, and falls over it.
        raise RayError(line, code="passing" if _CANCELLED in last else None) from error
