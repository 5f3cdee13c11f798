"""Measures what vzvideo claims: speed and memory of its stages against what others do instead.

    python -m pipelines.benchmark --out results.json
    python -m pipelines.benchmark encoder many --quick --out quick.json
    python -m pipelines.benchmark --geometry video-llava-7b --out gpu.json

    encoder   VisionZip's scoring and merging against the whole tower, plain and in eager attention
    prefill   the language model reading 8 frames, every token of them against the kept ones
    decode    32 frames of a long clip with few keyframes: vzvideo, decord, PyAV in two plain ways
    ask       a first question against its stages one by one, and a second one from the cache
    many      ten questions in one call against one

What is compared takes turns, so that a busy moment of the machine falls on all of it alike, and the
results hold every repetition. Memory is measured in fresh processes. `--geometry` builds a model of
that shape with random weights, of which `--layers` a few will do for a trial.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import importlib
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    LlamaConfig,
    PreTrainedTokenizerFast,
    VideoLlavaConfig,
)

from vzvideo import qa as api
from vzvideo import visionzip
from vzvideo.models import catalog, loader, weights
from vzvideo.models.encoder import NO_COMPRESSION, Encoder, ZipSettings
from vzvideo.models.preprocess import Preprocess
from vzvideo.models.video_llava import VideoLlava
from vzvideo.types import FrameBatch
from vzvideo.video import open_video, sampling
from vzvideo.video.reader import scaled

SEED = 0
ZIP = ZipSettings()
FEATURE_LAYER = -2  # of Video-LLaVA, and of mini
FPS, GOP = 25, 250
CELLS = (9, 16)  # rows and columns by which pictures are compared
QUESTIONS = [
    f"What {what}?"
    for what in (
        "is happening in the video", "is the man doing", "colour is the car", "do the people wear",
        "happens first", "happens at the end", "animals are there", "is in the background",
        "is the weather like", "would be a good title",
    )
]  # fmt: skip
Numbers = dict[str, Any]


# -- measuring


def wall(run: Callable[[], Any]) -> float:
    """Seconds until `run` is done, on the GPU too."""
    _synchronize()
    begun = time.perf_counter()
    run()
    _synchronize()
    return time.perf_counter() - begun


def alternate(variants: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every repetition of each variant, after one that does not count."""
    for run in variants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(repeats):
        for name in rotated(list(variants), turn):
            seconds[name].append(wall(variants[name]))
    return seconds


def rotated(names: list[str], turn: int) -> list[str]:
    first = turn % len(names)
    return names[first:] + names[:first]


def spread(values: Sequence[float]) -> Numbers:
    middle = statistics.median(values)
    return {"median": middle, "low": min(values), "high": max(values), "each": list(values)}


def ratio(above: Sequence[float], below: Sequence[float]) -> Numbers:
    """The spread of above / below, repetition by repetition."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def peak(run: Callable[[], Any]) -> int:
    """Bytes by which `run` raises the memory in use, at its height."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return int(torch.cuda.max_memory_allocated() - before)
    before = highest_resident(reset=True)
    run()
    return highest_resident() - before


def highest_resident(reset: bool = False) -> int:
    """Most bytes this process has held in RAM, since the last reset where the system has one."""
    with suppress(OSError):
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").open())
        return int(fields["VmHWM"].split()[0]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def return_freed_memory() -> None:
    """Has glibc give freed tensors back at once: what it keeps would hide what is asked for next."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 17)  # M_MMAP_THRESHOLD
        libc.malloc_trim(0)


def in_child(function: Callable[..., Any], *args: Any, deadline_s: float = 900) -> Any:
    """`function(*args)` from a fresh process; RuntimeError where it fails, dies or hangs."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    child = spawn.Process(target=_answer, args=(theirs, function, args), daemon=True)
    child.start()
    theirs.close()
    try:
        if not ours.poll(deadline_s):
            raise RuntimeError(f"no answer within {deadline_s:g} s")
        result, error = ours.recv()
    except EOFError:
        raise RuntimeError("the process died") from None
    finally:
        child.kill()
        child.join()
    if error:
        raise RuntimeError(error)
    return result


def _answer(pipe: Any, function: Callable[..., Any], args: Any) -> None:
    try:
        pipe.send((function(*args), None))
    except Exception as error:
        pipe.send((None, f"{type(error).__name__}: {error}"))


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# -- models


def load(args: argparse.Namespace) -> tuple[Encoder, VideoLlava]:
    """The model asked for, or one of the geometry asked for with random weights."""
    if not args.geometry:
        return loader.load(model_folder(args), device=args.device)
    torch.manual_seed(SEED)
    with torch.device(device_of(args)):
        model: Any = AutoModelForImageTextToText.from_config(geometry(args), dtype=dtype_of(args))
    del model.model.image_tower
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "<image>": 32000, "<video>": 32001, "<pad>": 32002}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    language = VideoLlava(
        model,
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            pad_token="<pad>",
            additional_special_tokens=["<image>", "<video>"],
        ),
    )
    return Encoder(model.model.video_tower, Preprocess(), FEATURE_LAYER), language


def load_encoder(args: argparse.Namespace) -> Encoder:
    if not args.geometry:
        return load(args)[0]
    torch.manual_seed(SEED)
    with torch.device(device_of(args)):
        tower = AutoModel.from_config(geometry(args).vision_config, dtype=dtype_of(args))
    return Encoder(tower, Preprocess(), FEATURE_LAYER)


def geometry(args: argparse.Namespace) -> VideoLlavaConfig:
    """As published for Video-LLaVA-7B; the tower is the configuration's own default, ViT-L/14."""
    config = VideoLlavaConfig(
        text_config=LlamaConfig(
            vocab_size=32064, max_position_embeddings=4096, rms_norm_eps=1e-5
        ).to_dict()
    )
    for part in (config.vision_config, config.text_config):
        part.num_hidden_layers = args.layers or part.num_hidden_layers
    return config


def device_of(args: argparse.Namespace) -> torch.device:
    if args.device != "auto":
        return torch.device(args.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def dtype_of(args: argparse.Namespace) -> torch.dtype:
    return torch.float16 if device_of(args).type == "cuda" else torch.bfloat16


def model_folder(args: argparse.Namespace) -> Path:
    card = catalog.find(args.model)
    return weights.locate(card) or weights.pull(card)


def noise(encoder: Encoder, count: int) -> FrameBatch:
    edge = encoder.preprocess.size
    pixels = np.random.default_rng(SEED).integers(0, 256, (count, edge, edge, 3), np.uint8)
    return FrameBatch(pixels, np.arange(count, dtype=np.float64))


# -- encoder


def encoder(args: argparse.Namespace) -> Numbers:
    batches = [8] if args.quick else [1, 8, 32]
    names = ["vzvideo", "plain", "eager"]
    memory: dict[str, list[dict[int, int]]] = {name: [] for name in names}
    for turn in range(1 if args.quick else 3):
        for name in rotated(names, turn):
            memory[name].append(in_child(_encoder_memory, args, name, batches))
    subject = load_encoder(args)
    variants = _variants(subject)
    found: Numbers = {"tokens": subject.tokens, "dtype": str(subject.dtype), "batches": {}}
    for batch in batches:
        inputs = subject.preprocess(torch.from_numpy(noise(subject, batch).pixels), subject.device)
        seconds = alternate({name: _bound(variants[name], inputs) for name in names}, args.repeats)
        grown = {name: [each[batch] for each in memory[name]] for name in names}
        found["batches"][batch] = numbers = {
            "seconds": {name: spread(seconds[name]) for name in names},
            "vzvideo_to_plain": ratio(seconds["vzvideo"], seconds["plain"]),
            "eager_to_plain": ratio(seconds["eager"], seconds["plain"]),
            "peak_bytes": {name: spread(grown[name]) for name in names},
        }
        for name in names:
            mib = f"{statistics.median(grown[name]) / 2**20:.0f} MiB more at its peak"
            show(f"encoder, {batch} frames, {name}", in_ms(seconds[name]), mib)
        show("  time to plain's: vzvideo", as_ratio(numbers["vzvideo_to_plain"]))
        show("  time to plain's: eager", as_ratio(numbers["eager_to_plain"]))
    found["attention"] = {}
    for name in names:
        with Squares(subject.tokens) as squares:
            variants[name](inputs)
        found["attention"][name] = squares.found()
        show(
            f"N x N tensors, {batch} frames, {name}",
            f"{squares.count}, largest {squares.largest / 2**20:.1f} MiB",
            ", ".join(sorted(squares.operators)),
        )
    return found


def _variants(encoder: Encoder) -> dict[str, Callable[[Tensor], Any]]:
    """Three ways from preprocessed frames to features, or to what features are chosen by."""
    tower: Any = encoder.tower
    eager = copy.deepcopy(tower)
    eager.set_attn_implementation("eager")

    def zipped(inputs: Tensor) -> Any:
        scored = encoder.score(inputs)
        return visionzip.compress(
            *scored, ZIP.dominant or 0, ZIP.contextual, has_cls=encoder.has_cls
        )

    # What transformers' Video-LLaVA does: every layer, then the state of one of them.
    @torch.inference_mode()
    def plain(inputs: Tensor) -> Any:
        states = tower(inputs.to(encoder.dtype), output_hidden_states=FEATURE_LAYER)
        return states.hidden_states[FEATURE_LAYER]

    # What VisionZip's reference does, before it has chosen a token.
    @torch.inference_mode()
    def reference(inputs: Tensor) -> Any:
        return eager(inputs.to(encoder.dtype), output_hidden_states=True, output_attentions=True)

    return {"vzvideo": zipped, "plain": plain, "eager": reference}


def _bound(run: Callable[[Tensor], Any], inputs: Tensor) -> Callable[[], Any]:
    return lambda: run(inputs)


def _encoder_memory(args: argparse.Namespace, name: str, batches: list[int]) -> dict[int, int]:
    """Peak growth in bytes by batch size, once everything has been used for one frame."""
    subject = load_encoder(args)
    run = _variants(subject)[name]
    frames = torch.from_numpy(noise(subject, max(batches)).pixels)
    inputs = subject.preprocess(frames, subject.device)
    run(inputs[:1])
    return_freed_memory()
    return {batch: peak(_bound(run, inputs[:batch])) for batch in batches}


class Squares(TorchDispatchMode):
    """Watches for attention matrices: tensors whose last two dimensions are both `tokens`."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self._shape = (tokens, tokens)
        self.count = self.largest = 0
        self.operators: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # In inference mode composite operators come whole; a matrix may be hidden within.
        with self:
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        result = func(*args, **kwargs)
        if "attention" in str(func):
            self.operators.add(str(func))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.shape[-2:] == self._shape:
                self.count += 1
                self.largest = max(self.largest, value.numel() * value.element_size())
        return result

    def found(self) -> Numbers:
        operators = sorted(self.operators)
        return {"count": self.count, "largest_bytes": self.largest, "operators": operators}


# -- prefill


def prefill(args: argparse.Namespace) -> Numbers:
    cases = {"every token": NO_COMPRESSION, "zipped": ZIP}
    memory = {name: in_child(_prefill_memory, args, case) for name, case in cases.items()}
    encoder, language = load(args)
    frames = noise(encoder, 8)
    tokens = {name: encoder.encode(frames, case) for name, case in cases.items()}
    reading = alternate(
        {name: lambda name=name: language.read(tokens[name]) for name in cases}, args.repeats
    )
    first = alternate(
        {
            name: lambda case=case: _first_token(encoder, language, frames, case)
            for name, case in cases.items()
        },
        args.repeats,
    )
    found: Numbers = {"frames": len(frames), "layers": args.layers, "cases": {}}
    for name in cases:
        read_bytes, first_bytes, weight_bytes = memory[name]
        count = len(tokens[name])
        found["cases"][name] = {
            "tokens": count,
            "prefill_seconds": spread(reading[name]),
            "first_token_seconds": spread(first[name]),
            "prefill_peak_bytes": read_bytes,
            "first_token_peak_bytes": first_bytes,
            "weight_bytes": weight_bytes,
        }
        mib = f"{read_bytes / 2**20:.0f} MiB over the weights' {weight_bytes / 2**20:.0f}"
        show(f"prefill, {count} tokens", in_ms(reading[name]), mib)
        mib = f"{first_bytes / 2**20:.0f} MiB over the weights"
        show("  first token, encoder included", in_ms(first[name]), mib)
    found["prefill_ratio"] = ratio(reading["every token"], reading["zipped"])
    found["first_token_ratio"] = ratio(first["every token"], first["zipped"])
    show("  prefill, every token to zipped", as_ratio(found["prefill_ratio"]))
    show("  first token, every token to zipped", as_ratio(found["first_token_ratio"]))
    return found


def _first_token(
    encoder: Encoder, language: VideoLlava, frames: FrameBatch, settings: ZipSettings
) -> int:
    prefix = language.read(encoder.encode(frames, settings))
    return int(language.logits(prefix, QUESTIONS[0]).argmax())


def _prefill_memory(args: argparse.Namespace, settings: ZipSettings) -> tuple[int, int, int]:
    """Peak growth in bytes of the prefill, and of all up to the first token; the weights' bytes."""
    encoder, language = load(args)
    frames = noise(encoder, 8)
    _first_token(encoder, language, noise(encoder, 1), settings)
    tokens = encoder.encode(frames, settings)
    return_freed_memory()
    weight_bytes = sum(w.numel() * w.element_size() for w in language.model.parameters())
    return (
        peak(lambda: language.read(tokens)),
        peak(lambda: _first_token(encoder, language, frames, settings)),
        weight_bytes,
    )


# -- decode


def decode(args: argparse.Namespace) -> Numbers:
    clip, (width, height), seconds = make_clip(args)
    wanted = np.floor(sampling.uniform(0, seconds, 32) * FPS).astype(int)
    size = scaled(width, height, 448)
    methods = [name for name in DECODERS if name != "decord" or importlib.util.find_spec("decord")]
    runs: dict[str, list[Numbers]] = {name: [] for name in methods}
    failed: dict[str, str] = {}
    for turn in range(min(args.repeats, 3)):
        for name in rotated(methods, turn):
            if name not in failed:
                try:
                    runs[name].append(in_child(_decode_once, name, clip, wanted, size))
                except RuntimeError as error:
                    failed[name] = str(error)
    found: Numbers = {
        "clip": {"size": [width, height], "seconds": seconds, "fps": FPS, "gop": GOP},
        "clip_bytes": clip.stat().st_size,
        "frames": wanted.tolist(),
        "picture": list(size),
        "failed": failed,
        "methods": {},
    }
    for name in methods:
        if name in failed or "sequential" in failed:
            show(f"decode, {name}", f"failed: {failed.get(name, 'nothing to compare with')}")
            continue
        wrong = [_wrong(run, runs["sequential"][0], wanted) for run in runs[name]]
        each = {key: [run[key] for run in runs[name]] for key in ("wall_s", "cpu_s", "grown_bytes")}
        found["methods"][name] = {key: spread(each[key]) for key in each} | {"wrong": wrong}
        mib = statistics.median(each["grown_bytes"]) / 2**20
        cpu_s = statistics.median(each["cpu_s"])
        rest = f"CPU {cpu_s:.2f} s, {mib:.0f} MiB more, {max(map(len, wrong))} of 32 frames wrong"
        show(f"decode, {name}", in_ms(each["wall_s"]), rest)
    return found


def make_clip(args: argparse.Namespace) -> tuple[Path, tuple[int, int], int]:
    """A clip of moving texture, each picture carrying its number; made once. (path, size, seconds).

    H.264 with B-frames and a keyframe every GOP pictures, a jump in the picture notwithstanding.
    """
    import av

    (width, height), seconds = ((640, 360), 60) if args.quick else ((1920, 1080), 600)
    args.scratch.mkdir(parents=True, exist_ok=True)
    clip = args.scratch / f"texture-{height}p-{seconds}s.mp4"
    if clip.exists():
        return clip, (width, height), seconds
    part = clip.with_suffix(".part")
    options = {"preset": "ultrafast", "bf": "2", "g": str(GOP), "keyint_min": str(GOP)}
    with av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options | {"sc_threshold": "0"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 0
        for picture in _pictures(width, height, seconds * FPS):
            frame = av.VideoFrame.from_ndarray(picture, "yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    part.rename(clip)
    return clip, (width, height), seconds


def _pictures(width: int, height: int, count: int) -> Iterator[NDArray[np.uint8]]:
    """Planes of YUV 4:2:0: a texture panned to and fro, a patch flying over it, the number on top.

    The number is 16 squares, black or white, in the first row of CELLS.
    """
    random = np.random.default_rng(SEED)
    reach = 256
    rows, columns = (height + reach) // 8 + 1, (width + reach) // 8 + 1
    texture = random.integers(70, 180, (rows, columns)).repeat(8, 0).repeat(8, 1)
    texture = (texture + random.integers(-8, 9, texture.shape)).astype(np.uint8)
    tint = (96 + texture[::-1, ::-1] // 4).astype(np.uint8)
    planes = np.empty((height * 3 // 2, width), np.uint8)
    chroma = planes[height:].reshape(2, height // 2, width // 2)
    patch = height // 4
    for index in range(count):
        top, left = (reach - abs(index * step % (2 * reach) - reach) for step in (1, 3))
        planes[:height] = texture[top : top + height, left : left + width]
        chroma[:] = tint[top // 2 :, left // 2 :][: height // 2, : width // 2]
        y, x = index * 5 % (height - patch), index * 7 % (width - patch)
        planes[y : y + patch, x : x + patch] = texture[-patch:, -patch:]
        bits = np.where(index >> np.arange(CELLS[1]) & 1, 215, 40)
        planes[: height // CELLS[0]] = bits.repeat(width // CELLS[1])
        chroma[:, : height // CELLS[0] // 2] = 128
        yield planes


def _decode_once(method: str, clip: Path, wanted: NDArray[Any], size: tuple[int, int]) -> Numbers:
    importlib.import_module("decord" if method == "decord" else "vzvideo.video.pyav_reader")
    before = highest_resident(reset=True)
    begun, begun_cpu = time.perf_counter(), time.process_time()
    pixels, pts_s = DECODERS[method](clip, wanted, size)
    wall_s, cpu_s = time.perf_counter() - begun, time.process_time() - begun_cpu
    grown = highest_resident() - before
    if pixels.shape != (len(wanted), size[1], size[0], 3):
        raise ValueError(f"pictures of shape {pixels.shape}")
    rows, columns = CELLS
    high, wide = size[1] // rows, size[0] // columns
    cut = pixels[:, : high * rows, : wide * columns]
    cells = cut.reshape(len(wanted), rows, high, columns, wide, 3).mean(axis=(2, 4))
    return {
        "wall_s": wall_s, "cpu_s": cpu_s, "grown_bytes": grown, "pts_s": pts_s, "cells": cells,
    }  # fmt: skip


def _wrong(run: Numbers, truth: Numbers, wanted: NDArray[Any]) -> list[int]:
    """Which of the frames wanted came with another's time, number or picture."""
    bits = run["cells"][:, 0].mean(axis=-1) > 128
    other = (bits << np.arange(CELLS[1])).sum(axis=1) != wanted
    elsewhen = np.abs(run["pts_s"] - wanted / FPS) > 1e-3
    unlike = np.abs(run["cells"] - truth["cells"]).max(axis=(1, 2, 3)) > 8
    wrong: list[int] = wanted[other | elsewhen | unlike].tolist()
    return wrong


Pictures = tuple[NDArray[np.uint8], NDArray[np.float64]]  # (T, H, W, 3), and seconds (T,)


def _vzvideo(clip: Path, wanted: NDArray[Any], size: tuple[int, int]) -> Pictures:
    with open_video(clip, size=min(size)) as video:
        frames = video.frames_at((wanted + 0.5) / FPS)
    return frames.pixels, frames.pts_s


def _decord(clip: Path, wanted: NDArray[Any], size: tuple[int, int]) -> Pictures:
    import decord

    reader = decord.VideoReader(str(clip), width=size[0], height=size[1])
    pixels = reader.get_batch(wanted.tolist()).asnumpy()
    return pixels, reader.get_frame_timestamp(wanted)[:, 0].astype(np.float64)


def _sequential(clip: Path, wanted: NDArray[Any], size: tuple[int, int]) -> Pictures:
    kept, asked = [], set(wanted.tolist())
    with _opened(clip) as (_, frames):
        for index, frame in enumerate(frames()):
            if index in asked:
                kept.append(_picture(frame, size))
    return _stacked(kept)


def _seeking(clip: Path, wanted: NDArray[Any], size: tuple[int, int]) -> Pictures:
    kept = []
    with _opened(clip) as (seek, frames):
        for index in wanted:
            seek(index / FPS)
            frame = next(f for f in frames() if f.time > (index - 0.5) / FPS)
            kept.append(_picture(frame, size))
    return _stacked(kept)


@contextmanager
def _opened(clip: Path) -> Iterator[tuple[Callable[[float], None], Callable[[], Iterator[Any]]]]:
    import av

    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        tick_s = float(stream.time_base or 1)
        yield (
            lambda at_s: container.seek(round(at_s / tick_s), stream=stream),
            lambda: container.decode(stream),
        )


def _picture(frame: Any, size: tuple[int, int]) -> tuple[NDArray[np.uint8], float]:
    return frame.reformat(*size, "rgb24", interpolation="BICUBIC").to_ndarray(), frame.time


def _stacked(kept: list[tuple[NDArray[np.uint8], float]]) -> Pictures:
    return np.stack([pixels for pixels, _ in kept]), np.array([at_s for _, at_s in kept])


DECODERS: dict[str, Callable[[Path, NDArray[Any], tuple[int, int]], Pictures]] = {
    "vzvideo": _vzvideo,
    "decord": _decord,
    "sequential": _sequential,
    "seeking": _seeking,
}


# -- ask and many


@contextmanager
def loaded_qa(args: argparse.Namespace) -> Iterator[tuple[api.VideoQA, Callable[[], None]]]:
    """The whole, with an empty cache of its own and what empties it again."""
    folder = model_folder(args)
    with (
        tempfile.TemporaryDirectory() as cache,
        mock.patch.dict(os.environ, VZVIDEO_CACHE=cache),
    ):
        tokens = Path(cache) / "tokens"
        yield (
            api.load(str(folder), device=args.device),
            lambda: shutil.rmtree(tokens, ignore_errors=True),
        )


def ask(args: argparse.Namespace) -> Numbers:
    clip = args.video or make_clip(args)[0]
    found: Numbers = {"clip": clip.name, "frames": {}}
    with loaded_qa(args) as (qa, empty_cache):
        for frames in (8, 32):
            rounds: list[Numbers] = []
            for turn in range(-1, args.repeats):
                empty_cache()
                alone = _stages(qa, clip, frames) if turn % 2 else {}
                options = {"frames": frames, "max_new_tokens": 32}
                begun = time.perf_counter()
                first = qa.ask(clip, QUESTIONS[0], **options)
                total_s = time.perf_counter() - begun
                begun = time.perf_counter()
                second = qa.ask(clip, QUESTIONS[0], **options)
                second_s = time.perf_counter() - begun
                alone = alone or _stages(qa, clip, frames)
                if first.cached or not second.cached or alone.pop("text") != first.text:
                    raise RuntimeError("the questions compared are not the same question")
                overlapped = max(alone["decode"], alone["encode"])
                floor_s = overlapped + alone["prefill"] + alone["generate"]
                rounds.append(
                    {"total": total_s, "floor": floor_s, "second": second_s}
                    | {f"alone_{stage}": seconds for stage, seconds in alone.items()}
                    | {f"second_{stage}": seconds for stage, seconds in second.seconds.items()}
                )
            each = {key: [entry[key] for entry in rounds[1:]] for key in rounds[0]}
            found["frames"][frames] = numbers = {key: spread(each[key]) for key in each}
            numbers["total_to_floor"] = ratio(each["total"], each["floor"])
            stages = ("decode", "encode", "prefill", "generate")
            parts = ", ".join(f"{s} {numbers[f'alone_{s}']['median'] * 1e3:.0f}" for s in stages)
            show(f"ask, {frames} frames", in_ms(each["total"]), f"alone: {parts}")
            show("  to max(decode, encode) + the rest", as_ratio(numbers["total_to_floor"]))
            again = max(each["second_decode"] + each["second_encode"])
            show(
                "  again, from the cache", in_ms(each["second"]), f"decode, encode {again * 1e3:g}"
            )
    return found


def _stages(qa: api.VideoQA, clip: Path, frames: int) -> Numbers:
    """Seconds of each stage with nothing beside it, and the answer they lead to."""
    seconds: Numbers = {}
    made: Numbers = {}
    settings = qa.settings.replace(frames=frames)

    def decode() -> None:
        with open_video(clip, size=2 * qa.encoder.preprocess.size) as video:
            times_s = api.sample(video, settings, frames)
            made["batches"] = list(video.stream(times_s, settings.batch))

    def encode() -> None:
        made["parts"] = [qa.encoder.encode(batch, ZIP) for batch in made["batches"]]

    def read() -> None:
        made["prefix"] = qa.language.read(made["tokens"])

    def generate() -> None:
        seconds["text"] = qa.language.answer(made["prefix"], QUESTIONS[0], max_new_tokens=32)

    seconds["decode"], seconds["encode"] = wall(decode), wall(encode)
    made["tokens"] = api._joined(made["parts"])
    seconds["prefill"], seconds["generate"] = wall(read), wall(generate)
    return seconds


def many(args: argparse.Namespace) -> Numbers:
    clip = args.video or make_clip(args)[0]
    new_tokens = 16 if args.quick else 32
    rounds: dict[str, list[Numbers]] = {"one": [], "ten": []}
    asked = {"one": QUESTIONS[:1], "ten": QUESTIONS}
    with loaded_qa(args) as (qa, empty_cache):
        # No answer may end early, or its length would be measured.
        qa.language.model.generation_config.min_new_tokens = new_tokens
        for turn in range(-1, args.repeats):
            for name in rotated(list(asked), turn):
                empty_cache()
                begun = time.perf_counter()
                answers = qa.ask_many(clip, asked[name], frames=8, max_new_tokens=new_tokens)
                total_s = time.perf_counter() - begun
                before_s = total_s - answers[0].seconds["generate"]
                rounds[name].append(answers[0].seconds | {"total": total_s, "before": before_s})
    found: Numbers = {"clip": clip.name, "questions": len(QUESTIONS), "new_tokens": new_tokens}
    totals = {name: [entry["total"] for entry in rounds[name][1:]] for name in asked}
    befores = {name: [entry["before"] for entry in rounds[name][1:]] for name in asked}
    for name in asked:
        keys = rounds[name][0]
        found[name] = {key: spread([entry[key] for entry in rounds[name][1:]]) for key in keys}
        rest = f"before the first word {found[name]['before']['median'] * 1e3:.0f} ms"
        show(f"many, {name}", in_ms(totals[name]), rest)
    found["before_ratio"] = ratio(befores["ten"], befores["one"])
    found["total_ratio"] = ratio(totals["ten"], totals["one"])
    show("  ten to one, before the first word", as_ratio(found["before_ratio"]))
    show("  ten to one, in all", as_ratio(found["total_ratio"]))
    return found


# -- reporting


def show(what: str, figure: str, rest: str = "") -> None:
    print(f"{what:<38} {figure:<34} {rest}".rstrip(), flush=True)


def in_ms(seconds: Sequence[float]) -> str:
    low, middle, high = (1e3 * f(seconds) for f in (min, statistics.median, max))
    return f"{middle:9.1f} ms ({low:.1f}..{high:.1f})"


def as_ratio(numbers: Numbers) -> str:
    return f"{numbers['median']:9.2f} x  ({numbers['low']:.2f}..{numbers['high']:.2f})"


def surroundings() -> Numbers:
    """The machine and the software, as far as they say what they are."""
    cpu = platform.processor()
    with suppress(OSError, AttributeError, TypeError):
        cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())[1]  # type: ignore[index]
    versions = {"python": platform.python_version()}
    for package in ("vzvideo", "torch", "transformers", "av", "decord", "numpy"):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "hardware": {
            "cpu": cpu,
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "load_average": os.getloadavg()[0],
        },
        "versions": versions,
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def _git(*command: str) -> str | None:
    with suppress(OSError, subprocess.CalledProcessError):
        place = Path(__file__).parent
        said = subprocess.run(["git", *command], cwd=place, capture_output=True, check=True)
        return said.stdout.decode().strip()
    return None


PARTS: dict[str, Callable[[argparse.Namespace], Numbers]] = {
    "encoder": encoder,
    "prefill": prefill,
    "decode": decode,
    "ask": ask,
    "many": many,
}
OF_GEOMETRY = ("encoder", "prefill")  # what random weights can say anything about


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=["all", *PARTS], default="all")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for every number")
    parser.add_argument("--quick", action="store_true", help="a smaller clip, few repetitions")
    parser.add_argument("--repeats", type=int, help="7 unless told otherwise, quick 3")
    parser.add_argument("--model", default="mini", help="name or checkpoint folder")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--video", type=Path, help="for ask and many, instead of the made clip")
    parser.add_argument("--scratch", type=Path, default=Path(".cache/benchmark"))
    parser.add_argument("--geometry", choices=["video-llava-7b"], help="random weights instead")
    parser.add_argument("--layers", type=int, help="of tower and language model, at least 2")
    args = parser.parse_args(argv)
    everything = list(OF_GEOMETRY if args.geometry else PARTS)
    args.parts = everything if "all" in args.parts else args.parts
    args.repeats = args.repeats or (3 if args.quick else 7)
    if other := set(args.parts) - set(everything):
        parser.error(f"{', '.join(other)}: not with --geometry, which has {', '.join(everything)}")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    command = ["python", "-m", "pipelines.benchmark", *(sys.argv[1:] if argv is None else argv)]
    results: Numbers = {"command": command, "seed": SEED, "quick": args.quick} | surroundings()
    results |= {"model": args.geometry or args.model, "repeats": args.repeats}
    for part in args.parts:
        results[part] = PARTS[part](args)
        # After each part: a long run that breaks off leaves what it has.
        args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
