"""Getting frames out of files: vzvideo beside decord, torchcodec, and PyAV in two plain ways.

A reader's time counts only where all its frames are right: pictures carry their frames' numbers.
Each reading is a fresh process; what is installed nowhere, or cannot read a clip, says so.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.codec.hwaccel import hwdevices_available
from numpy.typing import NDArray

from vzvideo.bench.clips import LONG_GOP, SHORT_GOP, Clip, make, numbers
from vzvideo.bench.measure import (
    Numbers,
    error_line,
    in_child,
    peak_resident_bytes,
    ratio,
    rotate,
    spread,
)
from vzvideo.errors import SettingsError
from vzvideo.video import open_video, sampling
from vzvideo.video.pyav.hwaccel import acceleration

if TYPE_CHECKING:  # each reading is a process, which would take seconds to load it
    from vzvideo.bench.models import Setup

CODECS = ("h264", "hevc", "vp9", "av1")
SAMPLINGS = ("sparse", "dense")  # all over the clip; in a row, in its middle
SPARSE, DENSE = 32, 64  # frames
MOST_REPEATS = 3  # of a reading, which may take minutes
_SAME_S = 1e-3  # timestamps this close mean the same frame
_OURS = "vzvideo"
_IMPORTS = {"decord": "decord", "torchcodec": "torchcodec.decoders"}

# A clip, the numbers of the frames wanted (ascending) -> pictures (T, H, W, 3), their seconds (T,).
Pictures = tuple[NDArray[np.uint8], NDArray[np.float64]]
Reader = Callable[[Path, Clip, NDArray[np.int64]], Pictures]


def measure(setup: Setup) -> Numbers:
    return {"cells": [_cell(setup, clip, how) for clip in clips(setup) for how in SAMPLINGS]}


def clips(setup: Setup) -> list[Clip]:
    """A star: every codec at one size, one codec at every size."""
    if setup.quick:
        return [Clip(seconds=20)]
    return [
        *(Clip(codec, gop) for codec in CODECS for gop in (SHORT_GOP, LONG_GOP)),
        Clip(height=1080, seconds=600),
        Clip(gop=SHORT_GOP, height=1080),
        Clip("hevc", height=1080, seconds=30),
        Clip(height=2160, seconds=20),
    ]


def frame_numbers(clip: Clip, how: str) -> NDArray[np.int64]:
    """Numbers of the frames to read, ascending."""
    if how == "dense":
        return np.arange(DENSE) + (clip.frames - DENSE) // 2
    return np.floor(sampling.uniform(0, clip.seconds, SPARSE) * clip.fps).astype(int)


def _cell(setup: Setup, clip: Clip, how: str) -> Numbers:
    cell: Numbers = {"codec": clip.codec, "gop": clip.gop, "height": clip.height}
    cell |= {"seconds": clip.seconds, "sampling": how}
    try:
        path = make(clip, setup.scratch)
    except (ValueError, av.FFmpegError) as error:  # this PyAV cannot encode it
        return cell | {"error": error_line(error)}
    cell["clip_bytes"] = path.stat().st_size
    runs: dict[str, list[Numbers]] = {name: [] for name in readers()}
    found: dict[str, Numbers] = {}
    deadline_s = max(300, 2 * clip.seconds)
    for turn in range(1 if setup.quick else min(setup.repeats, MOST_REPEATS)):
        for name in rotate(runs, turn):
            if name in found:  # it failed before
                continue
            try:
                run = in_child(read_once, name, path, clip, how, deadline_s=deadline_s)
                runs[name].append(run)
            except RuntimeError as error:
                found[name] = {"error": error_line(error)}
    for name in [name for name in runs if name not in found]:
        columns = {key: [run[key] for run in runs[name]] for key in runs[name][0]}
        wrong = sorted(set().union(*columns.pop("wrong_frames")))
        found[name] = {key: spread(columns[key]) for key in columns}
        found[name] |= {"wrong": len(wrong), "wrong_frames": wrong}
    cell["readers"] = {name: found[name] for name in runs}
    right = {name: each["time_s"] for name, each in found.items() if each.get("wrong") == 0}
    others = [name for name in right if not name.startswith(_OURS)]
    if others:
        cell["best"] = min(others, key=lambda name: right[name]["median"])
        if _OURS in right:
            cell["vzvideo_to_best"] = ratio(right[_OURS]["each"], right[cell["best"]]["each"])
    return cell


def read_once(name: str, path: Path, clip: Clip, how: str) -> Numbers:
    """What it takes a reader, and the numbers of the frames for which it showed another."""
    indices = frame_numbers(clip, how)
    read = readers()[name]
    # What is imported is not timed.
    import_module(_IMPORTS.get(name.partition(",")[0], "vzvideo.video.pyav.reader"))
    before = peak_resident_bytes(reset=True)
    begun_s, begun_cpu_s = time.perf_counter(), _cpu_s()
    pixels, at_s = read(path, clip, indices)
    found = {"time_s": time.perf_counter() - begun_s, "cpu_s": _cpu_s() - begun_cpu_s}
    found["peak_bytes"] = peak_resident_bytes() - before
    wrong = (numbers(pixels) != indices) | (np.abs(at_s - indices / clip.fps) > _SAME_S)
    return found | {"wrong_frames": indices[wrong].tolist()}


def _cpu_s() -> float:
    """Processor time of this process and of the children it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def readers() -> dict[str, Reader]:
    """All there are; whether one is installed is found out by using it."""
    found: dict[str, Reader] = {
        _OURS: _vzvideo,
        "decord": _decord,
        "torchcodec": _torchcodec,
        "torchcodec, approximate": partial(_torchcodec, seek_mode="approximate"),
        "sequential": partial(_plain, seek=False),
        "seeking": partial(_plain, seek=True),
    }
    if device := hardware():
        found[f"{_OURS}, hardware"] = partial(_vzvideo, hwaccel=device)
    return found


def hardware() -> str | None:
    """The first device that decodes video and can be opened."""
    for device in hwdevices_available():
        with suppress(SettingsError):
            acceleration(device)
            return device
    return None


def _vzvideo(path: Path, clip: Clip, indices: NDArray[np.int64], **options: Any) -> Pictures:
    with open_video(path, size=min(clip.shown), **options) as video:
        frames = video.frames_at((indices + 0.5) / clip.fps)
    return frames.pixels, frames.pts_s


def _decord(path: Path, clip: Clip, indices: NDArray[np.int64]) -> Pictures:
    import decord

    width, height = clip.shown
    reader = decord.VideoReader(str(path), width=width, height=height)
    pixels = reader.get_batch(indices.tolist()).asnumpy()
    return pixels, reader.get_frame_timestamp(indices.tolist())[:, 0]


def _torchcodec(
    path: Path, clip: Clip, indices: NDArray[np.int64], seek_mode: str = "exact"
) -> Pictures:
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import Resize

    width, height = clip.shown
    decoder = VideoDecoder(
        str(path),
        dimension_order="NHWC",
        seek_mode=seek_mode,  # type: ignore[arg-type]
        num_ffmpeg_threads=0,  # as many as suit the machine, as with the others
        transforms=[Resize((height, width))],
    )
    frames = decoder.get_frames_at(indices.tolist())
    return frames.data.numpy(), frames.pts_seconds.numpy()


def _plain(path: Path, clip: Clip, indices: NDArray[np.int64], seek: bool) -> Pictures:
    """PyAV: all frames one after another, or back to the keyframe before each one wanted that does
    not just follow the last."""
    pixels, at_s, last = [], [], None
    width, height = clip.shown
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        decoded = container.decode(stream)
        for index in indices.tolist():
            time_s = index / clip.fps
            if seek and index - 1 != last:
                assert stream.time_base is not None
                container.seek(round(time_s / stream.time_base), stream=stream)
                decoded = container.decode(stream)
            frame = next(frame for frame in decoded if frame.time > time_s - 0.5 / clip.fps)
            shown = frame.reformat(width, height, "rgb24", interpolation="BICUBIC")
            pixels.append(shown.to_ndarray())
            at_s.append(frame.time)
            last = index
    return np.stack(pixels), np.array(at_s)
