"""The clips that are measured on, made once: known pictures in any codec, length and size.

Every picture carries its frame's number, so that a reader who shows the wrong one is found out
whatever the codec has lost. Knows nothing of who reads them, nor of torch, which would take those
long to load.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from vzvideo.video.base import scaled

SEED = 0
CELLS = (9, 16)  # rows and columns of a picture; its number lies in the top row, a bit a column
SHORT_GOP, LONG_GOP = 12, 250  # frames from one keyframe to the next
_SIZE = 448  # shortest edge that readers bring frames down to
_ENCODERS = {  # as fast as the numbers stay legible (SVT's preset 12 loses some)
    "h264": ("libx264", {"preset": "ultrafast", "bf": "2", "sc_threshold": "0", "crf": "28"}),
    "hevc": ("libx265", {"preset": "ultrafast", "crf": "28"}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "row-mt": "1", "b": "0"}),
    "av1": ("libsvtav1", {"preset": "10", "crf": "32"}),
}
_WITHOUT_SVT = ("libaom-av1", {"usage": "realtime", "cpu-used": "8", "row-mt": "1"})


@dataclass(frozen=True)
class Clip:
    """What a clip is like; `gop` is the number of frames from one keyframe to the next."""

    codec: str = "h264"
    gop: int = LONG_GOP
    height: int = 360
    seconds: int = 60
    fps: int = 25

    @property
    def width(self) -> int:
        return self.height * CELLS[1] // CELLS[0]

    @property
    def frames(self) -> int:
        return self.seconds * self.fps

    @property
    def shown(self) -> tuple[int, int]:
        """(width, height) that readers are to bring frames down to."""
        return scaled(self.width, self.height, _SIZE)

    @property
    def name(self) -> str:
        like = "" if (self.codec, self.gop) == ("h264", LONG_GOP) else f"{self.codec}-{self.gop}-"
        return f"texture-{like}{self.height}p-{self.seconds}s.mp4"


def make(clip: Clip, scratch: Path) -> Path:
    """The clip's file, made where it is not there yet.

    A texture panned to and fro, a patch flying over it; on top each frame's number, as 16 squares
    in black and white.
    """
    path = scratch / clip.name
    if path.exists():
        return path
    scratch.mkdir(parents=True, exist_ok=True)
    encoder, options = _encoder(clip)
    part = str(path.with_suffix(".part"))
    with scheduling_kept(), av.open(part, "w", format="mp4") as container:
        stream: Any = container.add_stream(encoder, rate=clip.fps, options=options)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        stream.codec_context.thread_count = 0
        for picture in _pictures(clip):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "yuv420p")))
        container.mux(stream.encode(None))
    path.with_suffix(".part").rename(path)
    return path


@contextmanager
def scheduling_kept() -> Iterator[None]:
    """Gives this thread back its place in the queue for a core.

    SVT-AV1, where root runs it, moves the thread that opens it before everything else on the
    machine (SCHED_FIFO 99) and leaves it there; processes that are started inherit that. PyTorch's
    threads then spin in wait for one that never gets a core, forever.
    """
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def _encoder(clip: Clip) -> tuple[str, dict[str, str]]:
    encoder, options = _ENCODERS[clip.codec]
    if encoder not in av.codecs_available and clip.codec == "av1":
        encoder, options = _WITHOUT_SVT
    every = str(clip.gop)
    options = options | {"g": every, "keyint_min": every}  # no keyframe but where it is due
    if encoder == "libx265":
        quiet = "bframes=2:scenecut=0:log-level=none"
        options["x265-params"] = f"{quiet}:keyint={every}:min-keyint={every}"
    os.environ.setdefault("SVT_LOG", "1")  # errors alone: it would tell everyone its settings
    return encoder, options


def _pictures(clip: Clip) -> Iterator[NDArray[np.uint8]]:
    """YUV 4:2:0, all planes one above the other."""
    width, height, (rows, columns) = clip.width, clip.height, CELLS
    random = np.random.default_rng(SEED)
    reach, patch = 256, height // 4
    coarse = random.integers(70, 180, ((height + reach) // 8 + 1, (width + reach) // 8 + 1))
    texture = coarse.repeat(8, 0).repeat(8, 1)
    texture = (texture + random.integers(-8, 9, texture.shape)).astype(np.uint8)
    tint = 96 + texture[::-1, ::-1] // 4
    planes = np.empty((height * 3 // 2, width), np.uint8)  # Y, then U and V at half the size
    chroma = planes[height:].reshape(2, height // 2, width // 2)
    for index in range(clip.frames):
        top, left = (reach - abs(index * step % (2 * reach) - reach) for step in (1, 3))
        planes[:height] = texture[top : top + height, left : left + width]
        chroma[:] = tint[top // 2 :, left // 2 :][: height // 2, : width // 2]
        y, x = index * 5 % (height - patch), index * 7 % (width - patch)
        planes[y : y + patch, x : x + patch] = texture[-patch:, -patch:]
        bits = np.where(index >> np.arange(columns) & 1, 215, 40)
        planes[: height // rows] = bits.repeat(width // columns)
        chroma[:, : height // rows // 2] = 128
        yield planes


def numbers(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The numbers (T,) that pictures (T, H, W, 3) carry."""
    rows, columns = CELLS
    high, wide = pixels.shape[1] // rows, pixels.shape[2] // columns
    top = pixels[:, :high, : columns * wide].reshape(-1, high, columns, wide, 3)
    return ((top.mean((1, 3, 4)) > 128) << np.arange(columns)).sum(1)


def lengthened(clip: Clip, seconds: int, scratch: Path) -> Path:
    """A file of `seconds`, a multiple of the clip's, in which it comes again and again.

    Its packets are copied, nothing is encoded: hours take seconds. Frames' numbers start anew with
    each repetition.
    """
    source = make(clip, scratch)
    path = scratch / replace(clip, seconds=seconds).name.replace("texture", "repeated")
    if path.exists():
        return path
    with av.open(str(path.with_suffix(".part")), "w", format="mp4") as target:
        copied = None
        for again in range(seconds // clip.seconds):
            with av.open(str(source)) as container:
                stream = container.streams.video[0]
                copied = copied or target.add_stream_from_template(stream)
                assert stream.time_base is not None
                shift = round(again * clip.seconds / stream.time_base)
                for packet in container.demux(stream):
                    if packet.dts is None or packet.pts is None:  # the one that marks the end
                        continue
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = copied
                    target.mux(packet)
    path.with_suffix(".part").rename(path)
    return path
