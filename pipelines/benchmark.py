"""Measures what vzvideo claims: speed and memory of its stages against what others do instead.

    python -m pipelines.benchmark --out results.json
    python -m pipelines.benchmark encoder many --quick --out quick.json
    python -m pipelines.benchmark --geometry video-llava-7b --out gpu.json

encoder: VisionZip's scoring and merging against the whole tower, plain and in eager attention.
prefill: the language model reading 8 frames, every token of them against the kept ones.
decode: 32 frames of a long clip with few keyframes: vzvideo, decord, PyAV in two plain ways.
ask: a first question against its stages one by one; a second one, from the cache.
many: ten questions in one call against one.

What is compared takes turns, so that a busy moment of the machine falls on all of it alike, and the
results hold every repetition. Memory is measured in fresh processes. `--geometry` stands for a
model of that shape with random weights, of which `--layers` a few will do for a trial.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import json
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    AutoModelForImageTextToText,
    LlamaConfig,
    PreTrainedTokenizerFast,
    VideoLlavaConfig,
)

from vzvideo import qa as api
from vzvideo import visionzip
from vzvideo.models import catalog, loader, weights
from vzvideo.models.encoder import NO_COMPRESSION, Encoder, ZipSettings, join
from vzvideo.models.preprocess import Preprocess
from vzvideo.models.video_llava import VideoLlava
from vzvideo.types import FrameBatch
from vzvideo.video import open_video, sampling
from vzvideo.video.frames import sample
from vzvideo.video.reader import scaled

SEED = 0
DOMINANT, CONTEXTUAL = 14, 3
ZIP = ZipSettings(DOMINANT, CONTEXTUAL)
FEATURE_LAYER = -2  # of Video-LLaVA, and of mini
FPS, KEYFRAME_EVERY, FRAMES = 25, 250, 32
CELLS = (9, 16)  # rows and columns by which pictures are compared
STAGES = ("decode", "encode", "prefill", "generate")
QUESTIONS = [
    *("What is happening?", "What is the man doing?", "What do the people wear?", "Who is there?"),
    *("What happens first?", "What comes last?", "Where is this?", "Is there an animal?"),
    *("What is in the background?", "What would be a good title?"),
]
Numbers = dict[str, Any]  # names end in _s or _bytes, or say a ratio: this_to_that
Columns = dict[str, list[float]]  # of each quantity, every repetition
T = TypeVar("T")

# -- measuring


@contextmanager
def clocked(taken: Columns, name: str) -> Iterator[None]:
    """Notes the seconds that what is done within takes, on the GPU too."""
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else (lambda: None)
    synchronize()
    begun = time.perf_counter()
    yield
    synchronize()
    taken.setdefault(name, []).append(time.perf_counter() - begun)


def alternate(variants: dict[str, Callable[[], Any]], repeats: int) -> Columns:
    """Seconds of every repetition of each variant, after one that does not count."""
    taken: Columns = {}
    for turn in range(repeats + 1):
        for name in rotated(variants, turn):
            with clocked(taken, name):
                variants[name]()
    return settled(taken)


def settled(taken: Columns) -> Columns:
    """Without the first repetition, which warmed everything up."""
    return {name: each[1:] for name, each in taken.items()}


def rotated(items: Iterable[T], turn: int) -> list[T]:
    items = list(items)
    first = turn % len(items)
    return items[first:] + items[:first]


def spread(values: Sequence[float]) -> Numbers:
    middle = statistics.median(values)
    return {"median": middle, "low": min(values), "high": max(values), "each": list(values)}


def ratio(above: Sequence[float], below: Sequence[float]) -> Numbers:
    """The spread of above / below, repetition by repetition."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def peak(run: Callable[[], Any]) -> int:
    """Bytes by which `run` raises the memory in use, at its height: the GPU's where it is used.

    For a process of its own: on the CPU, what is allocated afterwards is slower for it.
    """
    if torch.cuda.is_available() and (before := torch.cuda.memory_allocated()):
        torch.cuda.reset_peak_memory_stats()
        run()
        return int(torch.cuda.max_memory_allocated() - before)
    return_freed_memory()
    before = highest_resident(reset=True)
    run()
    return highest_resident() - before


def highest_resident(reset: bool = False) -> int:
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
        result = "the process died"
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


def load(args: Namespace) -> tuple[Encoder, VideoLlava]:
    """The model asked for; with a geometry, one of random weights, made on its device."""
    if not args.geometry:
        return loader.load(Path(args.model), device=args.device)
    # As published; the tower is the configuration's own default, ViT-L/14 at 224 pixels.
    text = LlamaConfig(vocab_size=32064, max_position_embeddings=4096, rms_norm_eps=1e-5)
    config: Any = VideoLlavaConfig(text_config=text.to_dict())
    for part in (config.vision_config, config.text_config):
        part.num_hidden_layers = args.layers or part.num_hidden_layers
    dtype = torch.float16 if args.device.startswith("cuda") else torch.bfloat16
    torch.manual_seed(SEED)
    with torch.device(args.device):
        model: Any = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    del model.model.image_tower
    ids = {"<unk>": 0, "<s>": 1, "</s>": 2, "<image>": 32000, "<video>": 32001}
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, additional_special_tokens=["<image>", "<video>"], **special
    )
    encoder = Encoder(model.model.video_tower, Preprocess(), FEATURE_LAYER)
    return encoder, VideoLlava(model, tokenizer)


def noise(encoder: Encoder, count: int) -> FrameBatch:
    edge = encoder.preprocess.size
    pixels = np.random.default_rng(SEED).integers(0, 256, (count, edge, edge, 3), np.uint8)
    return FrameBatch(pixels, np.arange(count, dtype=np.float64))


def prepared_noise(encoder: Encoder, count: int) -> Tensor:
    return encoder.preprocess(torch.from_numpy(noise(encoder, count).pixels), encoder.device)


# -- encoder


def measure_encoder(args: Namespace) -> Numbers:
    batches = [8] if args.quick else [1, 8, 32]
    memory: dict[str, list[dict[int, int]]] = {name: [] for name in ("vzvideo", "plain", "eager")}
    for turn in range(1 if args.quick else 3):
        for name in rotated(memory, turn):
            memory[name].append(in_child(_encoder_memory, args, name, batches))
    encoder = load(args)[0]
    ways = ways_to_features(encoder)
    found: Numbers = {"tokens": encoder.tokens, "dtype": str(encoder.dtype)}
    for batch in batches:
        inputs = prepared_noise(encoder, batch)
        taken = alternate({name: partial(ways[name], inputs) for name in ways}, args.repeats)
        found[f"{batch} frames"] = {
            name: {"time_s": spread(taken[name])}
            | {"peak_bytes": spread([grown[batch] for grown in memory[name]])}
            for name in ways
        } | {
            f"{name}_to_plain": ratio(taken[name], taken["plain"]) for name in ("vzvideo", "eager")
        }
    found["N x N tensors"] = {}
    for name in ways:
        with Squares(encoder.tokens) as squares:
            ways[name](inputs)
        found["N x N tensors"][name] = squares.found
    return found


def ways_to_features(encoder: Encoder) -> dict[str, Callable[[Tensor], Any]]:
    """Three ways to go with preprocessed frames (B, 3, H, W)."""
    tower: Any = encoder.tower
    eager = copy.deepcopy(tower)
    eager.set_attn_implementation("eager")

    def zipped(inputs: Tensor) -> Any:
        scored = encoder.score(inputs)
        return visionzip.compress(*scored, DOMINANT, CONTEXTUAL, has_cls=encoder.has_cls)

    @torch.inference_mode()
    def plain(inputs: Tensor) -> Any:  # as transformers' Video-LLaVA: of all layers, keep one state
        states = tower(inputs.to(encoder.dtype), output_hidden_states=FEATURE_LAYER).hidden_states
        return states[FEATURE_LAYER]

    @torch.inference_mode()
    def reference(inputs: Tensor) -> Any:  # as VisionZip's authors, who go on to pick of all this
        return eager(inputs.to(encoder.dtype), output_hidden_states=True, output_attentions=True)

    return {"vzvideo": zipped, "plain": plain, "eager": reference}


def _encoder_memory(args: Namespace, name: str, batches: list[int]) -> dict[int, int]:
    """Peak growth in bytes by batch size, once everything has been used for one frame."""
    encoder = load(args)[0]
    run, inputs = ways_to_features(encoder)[name], prepared_noise(encoder, max(batches))
    run(inputs[:1])
    return {batch: peak(partial(run, inputs[:batch])) for batch in batches}


class Squares(TorchDispatchMode):
    """Watches for attention matrices: tensors whose last two dimensions are both `tokens`."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self._shape = (tokens, tokens)
        self.found: Numbers = {"count": 0, "largest_bytes": 0, "operators": []}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # In inference mode composite operators come whole, and might hide a matrix within.
        with self:
            result = func.decompose(*args, **kwargs or {})
        if result is not NotImplemented:
            return result
        if "attention" in str(func) and str(func) not in self.found["operators"]:
            self.found["operators"].append(str(func))
        result = func(*args, **kwargs or {})
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.shape[-2:] == self._shape:
                self.found["count"] += 1
                size = value.numel() * value.element_size()
                self.found["largest_bytes"] = max(self.found["largest_bytes"], size)
        return result


# -- prefill


def measure_prefill(args: Namespace) -> Numbers:
    cases = {"whole": NO_COMPRESSION, "zipped": ZIP}
    memory = {name: in_child(_prefill_memory, args, case) for name, case in cases.items()}
    encoder, language = load(args)
    frames = noise(encoder, 8)
    found: Numbers = {"weight_bytes": memory["whole"]["weights"], "layers": args.layers}
    ways: dict[str, dict[str, Callable[[], Any]]] = {"prefill": {}, "first token": {}}
    for name, case in cases.items():
        tokens = encoder.encode(frames, case)
        found[f"{name} tokens"] = len(tokens)
        ways["prefill"][name] = partial(language.read, tokens)
        ways["first token"][name] = partial(first_token, encoder, language, frames, case)
    for what, variants in ways.items():
        taken = alternate(variants, args.repeats)
        found[what] = {
            name: {"time_s": spread(taken[name]), "peak_bytes": memory[name][what]}
            for name in cases
        } | {"whole_to_zipped": ratio(taken["whole"], taken["zipped"])}
    return found


def first_token(encoder: Encoder, language: VideoLlava, frames: FrameBatch, case: Any) -> int:
    prefix = language.read(encoder.encode(frames, case))
    return int(language.logits(prefix, QUESTIONS[0]).argmax())


def _prefill_memory(args: Namespace, case: ZipSettings) -> dict[str, int]:
    """Peak growth in bytes once all has been used, "first token" from the frames on."""
    encoder, language = load(args)
    frames = noise(encoder, 8)
    first_token(encoder, language, frames, case)
    tokens = encoder.encode(frames, case)
    return {
        "weights": sum(w.numel() * w.element_size() for w in language.model.parameters()),
        "prefill": peak(partial(language.read, tokens)),
        "first token": peak(partial(first_token, encoder, language, frames, case)),
    }


# -- decode

Pictures = tuple[NDArray[np.uint8], NDArray[np.float64]]  # (T, H, W, 3), and seconds (T,)


def measure_decode(args: Namespace) -> Numbers:
    clip, seconds, size = make_clip(args)
    wanted = np.floor(sampling.uniform(0, seconds, FRAMES) * FPS).astype(int)
    runs: dict[str, list[Numbers]] = {name: [] for name in DECODERS}
    found: Numbers = {"clip": clip.name, "clip_bytes": clip.stat().st_size}
    found |= {"wanted": wanted.tolist(), "picture": size}
    for turn in range(min(args.repeats, 3)):
        for name in rotated(runs, turn):
            if name not in found:
                try:
                    run = in_child(_decode_once, name, clip, wanted, size, deadline_s=2 * seconds)
                    runs[name].append(run)
                except RuntimeError as error:
                    if name == "sequential":  # nothing could be compared
                        raise
                    found[name] = {"error": str(error)}
    for name in [name for name in runs if name not in found]:
        taken = {key: [run[key] for run in runs[name]] for key in ("time_s", "cpu_s", "peak_bytes")}
        found[name] = {key: spread(taken[key]) for key in taken}
        bad = np.zeros(FRAMES, bool)
        for run in runs[name]:
            bad |= np.abs(run["at_s"] - wanted / FPS) > 1e-3
            bad |= np.abs(run["cells"] - runs["sequential"][0]["cells"]).max((1, 2, 3)) > 8
        found[name] |= {"wrong": int(bad.sum()), "wrong_frames": wanted[bad].tolist()}
    return found


def make_clip(args: Namespace) -> tuple[Path, int, tuple[int, int]]:
    """H.264 with B-frames, no keyframe but every 250 frames; (path, seconds, size to decode to).

    A texture panned to and fro, a patch flying over it; on top each frame's number, as 16 squares
    in black and white. Made once.
    """
    import av

    width, height, seconds = (640, 360, 60) if args.quick else (1920, 1080, 600)
    clip = args.scratch / f"texture-{height}p-{seconds}s.mp4"
    if clip.exists():
        return clip, seconds, scaled(width, height, 448)
    args.scratch.mkdir(parents=True, exist_ok=True)
    options = {"preset": "ultrafast", "bf": "2", "sc_threshold": "0", "crf": "28"}
    options["g"] = options["keyint_min"] = str(KEYFRAME_EVERY)
    with av.open(str(clip.with_suffix(".part")), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 0
        for picture in _pictures(width, height, seconds * FPS):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "yuv420p")))
        container.mux(stream.encode(None))
    clip.with_suffix(".part").rename(clip)
    return clip, seconds, scaled(width, height, 448)


def _pictures(width: int, height: int, count: int) -> Iterator[NDArray[np.uint8]]:
    random = np.random.default_rng(SEED)
    reach, patch, (rows, columns) = 256, height // 4, CELLS
    coarse = random.integers(70, 180, ((height + reach) // 8 + 1, (width + reach) // 8 + 1))
    texture = coarse.repeat(8, 0).repeat(8, 1)
    texture = (texture + random.integers(-8, 9, texture.shape)).astype(np.uint8)
    tint = 96 + texture[::-1, ::-1] // 4
    planes = np.empty((height * 3 // 2, width), np.uint8)  # Y, then U and V at half the size
    chroma = planes[height:].reshape(2, height // 2, width // 2)
    for index in range(count):
        top, left = (reach - abs(index * step % (2 * reach) - reach) for step in (1, 3))
        planes[:height] = texture[top : top + height, left : left + width]
        chroma[:] = tint[top // 2 :, left // 2 :][: height // 2, : width // 2]
        y, x = index * 5 % (height - patch), index * 7 % (width - patch)
        planes[y : y + patch, x : x + patch] = texture[-patch:, -patch:]
        bits = np.where(index >> np.arange(columns) & 1, 215, 40)
        planes[: height // rows] = bits.repeat(width // columns)
        chroma[:, : height // rows // 2] = 128
        yield planes


def _decode_once(name: str, clip: Path, wanted: NDArray[Any], size: tuple[int, int]) -> Numbers:
    import_module("decord" if name == "decord" else "vzvideo.video.pyav_reader")
    before = highest_resident(reset=True)
    begun, begun_cpu = time.perf_counter(), time.process_time()
    pixels, at_s = DECODERS[name](clip, wanted, size)
    found = {"time_s": time.perf_counter() - begun, "cpu_s": time.process_time() - begun_cpu}
    found["peak_bytes"] = highest_resident() - before
    rows, columns = CELLS
    high, wide = size[1] // rows, size[0] // columns
    cut = pixels[:, : rows * high, : columns * wide].reshape(-1, rows, high, columns, wide, 3)
    return found | {"at_s": at_s, "cells": cut.mean((2, 4))}


def _vzvideo(clip: Path, wanted: NDArray[Any], size: tuple[int, int]) -> Pictures:
    with open_video(clip, size=min(size)) as video:
        frames = video.frames_at((wanted + 0.5) / FPS)
    return frames.pixels, frames.pts_s


def _decord(clip: Path, wanted: NDArray[Any], size: tuple[int, int]) -> Pictures:
    import decord

    reader = decord.VideoReader(str(clip), width=size[0], height=size[1])
    pixels = reader.get_batch(wanted.tolist()).asnumpy()
    return pixels, reader.get_frame_timestamp(wanted.tolist())[:, 0]


def _plain(clip: Path, wanted: NDArray[Any], size: tuple[int, int], seek: bool) -> Pictures:
    """PyAV: all frames one after another, or for each one wanted back to the keyframe before it."""
    import av

    pixels, at_s = [], []
    with av.open(str(clip)) as container:
        stream: Any = container.streams.video[0]
        stream.thread_type = "AUTO"
        decoded = container.decode(stream)
        for time_s in wanted / FPS:
            if seek:
                container.seek(round(time_s / stream.time_base), stream=stream)
                decoded = container.decode(stream)
            frame: Any = next(frame for frame in decoded if frame.time > time_s - 0.5 / FPS)
            pixels.append(frame.reformat(*size, "rgb24", interpolation="BICUBIC").to_ndarray())
            at_s.append(frame.time)
    return np.stack(pixels), np.array(at_s)


DECODERS: dict[str, Callable[[Path, NDArray[Any], tuple[int, int]], Pictures]] = {
    "vzvideo": _vzvideo,
    "decord": _decord,
    "sequential": partial(_plain, seek=False),
    "seeking": partial(_plain, seek=True),
}

# -- ask and many


def measure_ask(args: Namespace) -> Numbers:
    clip = args.video or make_clip(args)[0]
    qa = api.load(args.model, device=args.device)
    found: Numbers = {"clip": clip.name}
    for frames in (8, 32):
        ask = partial(qa.ask, clip, QUESTIONS[0], frames=frames, max_new_tokens=32)
        taken: Columns = {}
        for _ in range(args.repeats + 1):
            empty_cache(qa)
            with clocked(taken, "first_s"):
                first = ask()
            with clocked(taken, "second_s"):
                second = ask()
            text = stages_alone(qa, clip, frames, taken)
            if first.cached or not second.cached or {first.text, second.text} != {text}:
                raise RuntimeError(f"not the same question: {first}, {second}, {text!r}")
            for stage in STAGES:
                taken.setdefault(f"second {stage}_s", []).append(second.seconds[stage])
        taken = settled(taken)
        alone = zip(*(taken[f"{stage} alone_s"] for stage in STAGES), strict=True)
        floor = [max(decode, encode) + sum(rest) for decode, encode, *rest in alone]
        found[f"{frames} frames"] = {name: spread(taken[name]) for name in taken}
        # What it could not beat: decoding and encoding wholly at the same time.
        found[f"{frames} frames"]["first_to_floor"] = ratio(taken["first_s"], floor)
    return found


def stages_alone(qa: api.VideoQA, clip: Path, frames: int, taken: Columns) -> str:
    """Runs a question's stages one after another, nothing beside them; the answer."""
    settings, size = qa.settings.replace(frames=frames), 2 * qa.encoder.preprocess.size
    with clocked(taken, "decode alone_s"), open_video(clip, size=size) as video:
        times_s = sample(video, settings, frames)
        batches = list(video.stream(times_s, settings.batch))
    with clocked(taken, "encode alone_s"):
        parts = [qa.encoder.encode(batch, ZIP) for batch in batches]
    tokens = join(parts)
    with clocked(taken, "prefill alone_s"):
        prefix = qa.language.read(tokens)
    with clocked(taken, "generate alone_s"):
        return qa.language.answer(prefix, QUESTIONS[0], max_new_tokens=32)


def measure_many(args: Namespace) -> Numbers:
    clip = args.video or make_clip(args)[0]
    qa = api.load(args.model, device=args.device)
    new_tokens = 16 if args.quick else 32
    # No answer may end early, or its length would be measured.
    qa.language.model.generation_config.min_new_tokens = new_tokens
    taken: Columns = {}
    for turn in range(args.repeats + 1):
        for name, count in rotated({"one": 1, "ten": len(QUESTIONS)}.items(), turn):
            empty_cache(qa)
            with clocked(taken, f"{name}_s"):
                answers = qa.ask_many(clip, QUESTIONS[:count], frames=8, max_new_tokens=new_tokens)
            generated_s = answers[0].seconds["generate"]
            before_s = taken[f"{name}_s"][-1] - generated_s
            taken.setdefault(f"{name}, generation_s", []).append(generated_s)
            taken.setdefault(f"{name}, before generation_s", []).append(before_s)
    taken = settled(taken)
    found: Numbers = {"clip": clip.name, "new_tokens": new_tokens}
    found |= {name: spread(taken[name]) for name in taken}
    for what in ("", ", generation", ", before generation"):
        found[f"ten_to_one{what}"] = ratio(taken[f"ten{what}_s"], taken[f"one{what}_s"])
    return found


def empty_cache(qa: api.VideoQA) -> None:
    qa.forget()
    shutil.rmtree(weights.cache_root() / "tokens", ignore_errors=True)


# -- reporting


def show(name: str, value: Any) -> None:
    """Prints a part's numbers, one a line, in the units that their names end in."""
    scale, unit = 1.0, "x" if "_to_" in name else ""
    for ending, factor, word in (("_s", 1e3, "ms"), ("_bytes", 2**-20, "MiB")):
        if name.endswith(ending):
            name, scale, unit = name.removesuffix(ending), factor, word
    if isinstance(value, dict) and "median" in value:
        middle, low, high = (scale * value[key] for key in ("median", "low", "high"))
        print(f"{name:<48}{middle:10.2f} {unit:<4}({low:.2f}..{high:.2f})", flush=True)
    elif isinstance(value, dict):
        for key, inner in value.items():
            show(f"{name} {key}", inner)
    elif isinstance(value, int):
        print(f"{name:<48}{value * scale:10.{2 if unit else 0}f} {unit}".rstrip(), flush=True)
    elif isinstance(value, str):
        print(f"{name:<48}{value:>10}", flush=True)


def surroundings() -> Numbers:
    """The machine and the software, as far as they say what they are."""
    cpu = platform.processor()
    with suppress(OSError, IndexError):
        cpu = Path("/proc/cpuinfo").read_text().split("model name")[1].split("\n")[0].lstrip("\t: ")
    versions = {"python": platform.python_version()}
    for package in ("vzvideo", "torch", "transformers", "av", "decord", "numpy"):
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    hardware = {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_average": os.getloadavg()[0],
    }
    commit = None
    with suppress(OSError, subprocess.CalledProcessError):
        git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
        git += ["--abbrev=40", "--exclude=*"]
        commit = subprocess.run(git, capture_output=True, check=True, text=True).stdout.strip()
    return {"hardware": hardware, "versions": versions, "commit": commit}


PARTS: dict[str, Callable[[Namespace], Numbers]] = {
    "encoder": measure_encoder,
    "prefill": measure_prefill,
    "decode": measure_decode,
    "ask": measure_ask,
    "many": measure_many,
}


def parse(argv: list[str]) -> Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=["all", *PARTS], default="all")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for every number")
    parser.add_argument("--quick", action="store_true", help="a smaller clip, few repetitions")
    parser.add_argument("--repeats", type=int, help="7 unless told otherwise, with --quick 3")
    parser.add_argument("--model", default="mini", help="name or checkpoint folder")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--video", type=Path, help="for ask and many, in place of the made clip")
    parser.add_argument("--scratch", type=Path, default=Path(".cache/benchmark"))
    parser.add_argument("--geometry", choices=["video-llava-7b"], help="random weights instead")
    parser.add_argument("--layers", type=int, help="with --geometry, of tower and language model")
    args = parser.parse_args(argv)
    possible = ["encoder", "prefill"] if args.geometry else list(PARTS)
    args.parts = possible if "all" in args.parts else args.parts
    if set(args.parts) - set(possible):
        parser.error(f"with --geometry: {', '.join(possible)}")
    args.repeats = args.repeats or (3 if args.quick else 7)
    return args


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    results: Numbers = {"command": ["python", "-m", "pipelines.benchmark", *argv], "seed": SEED}
    results |= {"model": args.geometry or args.model, "repeats": args.repeats} | surroundings()
    if not args.geometry:
        card = catalog.find(args.model)
        args.model = str(weights.locate(card) or weights.pull(card))
    with (
        tempfile.TemporaryDirectory() as cache,
        mock.patch.dict(os.environ, VZVIDEO_CACHE=cache),
    ):
        for part in args.parts:
            results[part] = PARTS[part](args)
            show(part, results[part])
            # After each part: a long run that breaks off leaves what it has.
            args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
