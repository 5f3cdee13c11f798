"""Test clips made on the fly with PyAV, each frame carrying its own number as a picture.

A number is painted as eight blocks, black or white, in two rows of four, the lowest bit first.
That survives lossy coding and scaling, and reads as another number where the picture is turned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

from vzvideo.bench.clips import scheduling_kept

_COLUMNS, _ROWS = 4, 2
_BLACK, _WHITE = 40, 215
_WRITERS = {
    "h264": "libx264",
    "hevc": "libx265",
    "vp8": "libvpx",
    "vp9": "libvpx-vp9",
    "av1": "libsvtav1",
}


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of clip, and what is true of it however it is read.

    stamps: whether plain PyAV gives its frames right timestamps; if not they are number / fps.
    flags: whether its packets say of themselves, and truly, which are keyframes.
    decord: empty where decord reads it rightly, else the part of its refusal that says why not.
    """

    name: str
    suffix: str
    codec: str = "h264"
    make: Callable[[Kind, Path], None] = lambda kind, path: write(kind, path)
    frames: int = 60
    fps: float = 10.0
    size: tuple[int, int] = (64, 48)
    rotation: int = 0
    pix_fmt: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    mux: dict[str, str] = field(default_factory=dict)
    ticks: tuple[int, ...] = ()  # times in ms, where the rate is variable
    stamps: bool = True
    flags: bool = True
    decord: str = ""

    @property
    def numbers(self) -> range:
        return range(self.frames)

    @property
    def shown_size(self) -> tuple[int, int]:
        return self.size[::-1] if self.rotation % 180 else self.size

    def __str__(self) -> str:
        return self.name + self.suffix


def paint(number: int, width: int, height: int) -> NDArray[np.uint8]:
    """Grey (height, width) showing `number`, 0..255."""
    bits = np.array([number >> bit & 1 for bit in range(_COLUMNS * _ROWS)]).reshape(_ROWS, _COLUMNS)
    rows = np.arange(height) * _ROWS // height
    columns = np.arange(width) * _COLUMNS // width
    return np.where(bits[rows[:, None], columns], _WHITE, _BLACK).astype(np.uint8)


def number_in(pixels: NDArray[np.uint8]) -> int:
    """The number painted in an RGB picture, -1 where a block is neither black nor white."""
    grey = pixels.mean(axis=2)
    height, width = grey.shape
    number = 0
    for bit in range(_COLUMNS * _ROWS):
        row, column = divmod(bit, _COLUMNS)
        y, x = (row + 0.5) * height / _ROWS, (column + 0.5) * width / _COLUMNS
        dy, dx = height / _ROWS / 4, width / _COLUMNS / 4
        level = grey[round(y - dy) : round(y + dy), round(x - dx) : round(x + dx)].mean()
        if abs(level - 128) < 30:
            return -1
        number |= int(level > 128) << bit
    return number


def write(kind: Kind, path: Path, *, offset: int = 0, numbers: Sequence[int] = ()) -> None:
    """A file of one video stream, its first timestamp `offset` frames after 0."""
    with scheduling_kept(), av.open(str(path), "w", options=kind.mux) as container:
        stream = _stream(container, kind)
        for packet in _packets(stream, kind, numbers or kind.numbers, offset):
            container.mux(packet)


def _stream(container: Any, kind: Kind) -> Any:
    rate = Fraction(kind.fps).limit_denominator(1001)
    writer = _WRITERS.get(kind.codec, kind.codec)
    stream = container.add_stream(writer, rate=rate, options=dict(kind.options))
    stream.width, stream.height = kind.size
    stream.pix_fmt = kind.pix_fmt
    stream.codec_context.time_base = Fraction(1, 1000) if kind.ticks else 1 / rate
    return stream


def _packets(stream: Any, kind: Kind, numbers: Sequence[int], offset: int = 0) -> Iterator[Any]:
    lasting = dict(zip(kind.ticks, [*np.diff(kind.ticks).tolist(), 40], strict=False))
    for packet in _encoded(stream, kind, numbers, offset):
        if kind.ticks:  # encoders give them all the same duration
            packet.duration = lasting[packet.pts]
        yield packet


def _encoded(stream: Any, kind: Kind, numbers: Sequence[int], offset: int) -> Iterator[Any]:
    for index, number in enumerate(numbers):
        upright = paint(number, *kind.shown_size)
        coded = np.ascontiguousarray(np.rot90(upright, -kind.rotation // 90))
        frame = av.VideoFrame.from_ndarray(coded, "gray").reformat(format=kind.pix_fmt)
        frame.pts = kind.ticks[index] if kind.ticks else index + offset
        frame.time_base = stream.codec_context.time_base
        yield from stream.encode(frame)
    yield from stream.encode(None)


def write_late(kind: Kind, path: Path) -> None:
    """The first frame is not at 0."""
    write(kind, path, offset=25)


def write_rotated(kind: Kind, path: Path) -> None:
    """What a phone held upright writes: the turn is in the track's matrix, not in the picture."""
    write(kind, path)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    sine, cosine = {90: (-1, 0), 180: (0, -1), 270: (1, 0)}[kind.rotation]
    for at, value in ((0, cosine), (4, sine), (12, -sine), (16, cosine)):
        data[matrix + at : matrix + at + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(data)


def write_trimmed(kind: Kind, path: Path) -> None:
    """Cut without encoding again: an edit list hides the first five frames of the first GOP."""
    hidden = 5
    write(kind, path, numbers=[255] * hidden + list(kind.numbers))
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 4 + 4 + 4  # behind version, flags and count
    with av.open(str(path)) as container:
        step = round(1 / (kind.fps * container.streams.video[0].time_base))
    shift = int.from_bytes(data[at + 4 : at + 8], "big") + hidden * step
    data[at : at + 4] = round(kind.frames / kind.fps * 1000).to_bytes(4, "big")
    data[at + 4 : at + 8] = shift.to_bytes(4, "big")
    path.write_bytes(data)


def write_unpaced(kind: Kind, path: Path) -> None:
    """Packets copied into a header that declares no rate, as a screen recorder's has none."""
    paced = path.with_suffix(".paced.mp4")
    write(kind, paced)
    with av.open(str(paced)) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream, packet.duration = stream, 0
                container.mux(packet)


def write_among_others(kind: Kind, path: Path) -> None:
    """A cover picture, the video, a small one besides, and sound that goes on for longer."""
    small = replace(kind, size=(32, 24))
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 24, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        main, preview = _stream(container, kind), _stream(container, small)
        sound = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.VideoFrame.from_ndarray(paint(255, 32, 24), "gray")
        packets = [*cover.encode(frame.reformat(format="yuvj420p")), *cover.encode(None)]
        packets += _packets(preview, small, [254] * kind.frames)
        packets += _packets(main, kind, kind.numbers)
        packets += _silence(sound, kind.frames / kind.fps + 3)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)


def write_sound_last(kind: Kind, path: Path) -> float:
    """MP4 with its index first, then all pictures, then all sound, of which most is missing.

    Gives the length that its header promises, in seconds.
    """
    mux = {"movflags": "faststart", "write_tmcd": "0"}
    with av.open(str(path), "w", options=mux) as container:
        main = _stream(container, kind)
        sound = container.add_stream("aac", rate=16000, layout="mono")
        packets = [*_packets(main, kind, kind.numbers), *_silence(sound, kind.frames / kind.fps)]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    data = path.read_bytes()
    body = data.index(b"mdat")
    # The tables of both tracks say where each chunk lies; a chunk ends where another begins.
    tables = []
    at = data.find(b"stco")
    while 0 <= at < body:
        count = int.from_bytes(data[at + 8 : at + 12], "big")
        offsets = np.frombuffer(data, ">u4", count, at + 12).astype(int).tolist()
        tables.append((at + 12, offsets))
        at = data.find(b"stco", at + 1)
    begins = sorted(offset for _, offsets in tables for offset in offsets)
    ends = dict(zip(begins, [*begins[1:], len(data)], strict=True))
    moved, parts = bytearray(data[: body + 4]), []
    for place, offsets in tables:
        start = len(moved) + sum(map(len, parts))
        for index, offset in enumerate(offsets):
            to = place + 4 * index
            moved[to : to + 4] = start.to_bytes(4, "big")
            parts.append(data[offset : ends[offset]])
            start += len(parts[-1])
    pictures = sum(map(len, parts[: len(tables[0][1])]))
    path.write_bytes((bytes(moved) + b"".join(parts))[: len(moved) + pictures + 500])
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.duration is not None
        assert stream.time_base is not None
        return float(stream.duration * stream.time_base)


def write_sound(path: Path) -> None:
    """Two seconds of silence and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for packet in _silence(stream, 2.0):
            container.mux(packet)


def _silence(stream: Any, seconds: float) -> Iterator[Any]:
    for index in range(int(seconds * 16000 / 1024)):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, index * 1024, Fraction(1, 16000)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def write_growing(kind: Kind, path: Path) -> None:
    """The picture is four times as large from the middle on, as in a broadcast."""
    half = kind.frames // 2
    large = replace(kind, size=(2 * kind.size[0], 2 * kind.size[1]))
    with av.open(str(path), "w") as container:
        stream = _stream(container, kind)
        parts = [list(_packets(stream, kind, range(half)))]
        with av.open(str(path.with_suffix(".half.ts")), "w") as other:
            second = _stream(other, large)
            parts.append(list(_packets(second, large, range(half, kind.frames), half)))
        for packet in (packet for part in parts for packet in part):
            packet.stream = stream
            container.mux(packet)


def write_without_stss(kind: Kind, path: Path) -> None:
    """MP4 whose list of keyframes is gone, so that every frame counts as one."""
    write(kind, path)
    data = path.read_bytes()
    assert b"stss" in data
    path.write_bytes(data.replace(b"stss", b"free"))


def write_flagged(kind: Kind, path: Path) -> None:
    """AVI whose index flags every frame as a keyframe, as some writers do."""
    write(kind, path)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"idx1") + 8
    for entry in range(at, at + 16 * kind.frames, 16):
        data[entry + 4] |= 0x10
    path.write_bytes(data)


def write_in_decoding_order(kind: Kind, path: Path) -> None:
    """Packets stamped one after the other as they are decoded, as some recorders do it."""
    ordered = path.with_suffix(".ordered.mp4")
    write(kind, ordered)
    with av.open(str(ordered)) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        first = packets[0].dts
        for packet in packets:
            packet.pts = packet.dts = packet.dts - first
            packet.stream = stream
            container.mux(packet)


def write_few_stamps(kind: Kind, path: Path) -> None:
    """An MPEG program stream in whose packets lie many frames each, with one timestamp."""
    with av.open(str(path), "w", format="mpeg") as container:
        stream = _stream(container, kind)
        for packet in _packets(stream, kind, kind.numbers):
            container.mux(packet)


def write_reordered_late(kind: Kind, path: Path) -> None:
    """The first half has no B-frames, so that the decoder learns of them in the middle."""
    half = kind.frames // 2
    early = replace(kind, options=_x264(12, 0))
    with av.open(str(path), "w") as container:
        stream = _stream(container, early)
        packets = list(_packets(stream, early, range(half)))
        with av.open(str(path.with_suffix(".late.avi")), "w") as other:
            packets += _packets(_stream(other, kind), kind, range(half, kind.frames), half)
        for index, packet in enumerate(packets):
            packet.pts = packet.dts = index
            packet.time_base, packet.stream = Fraction(1, int(kind.fps)), stream
            container.mux(packet)


def write_joined(kind: Kind, path: Path, *, jump_s: int = 0) -> None:
    """Two recordings, one behind the other (`cat a.ts b.ts`); the second's clock starts again."""
    half = kind.frames // 2
    parts = []
    for numbers, offset in ((range(half), 0), (range(half, kind.frames), round(jump_s * kind.fps))):
        write(replace(kind, frames=half), path, numbers=numbers, offset=offset)
        parts.append(path.read_bytes())
    path.write_bytes(b"".join(parts))


def write_jumping(kind: Kind, path: Path) -> None:
    """The second recording's clock is far ahead of the first's."""
    write_joined(kind, path, jump_s=50_000)


def write_begun(kind: Kind, path: Path) -> None:
    """A broadcast that was switched on within a GOP, of which nothing can be decoded."""
    missed = 9
    write(kind, path, numbers=[255] * 12 + list(kind.numbers))
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    start = packets[missed].pos // 188 * 188
    path.write_bytes(data[: 3 * 188] + data[start:])  # behind the tables


def _x264(gop: int, b_frames: int, more: str = "") -> dict[str, str]:
    fixed = f"keyint={gop}:min-keyint={gop}:bframes={b_frames}:b-adapt=0:scenecut=0"
    return {"x264-params": fixed + more}


def _x265(gop: int, b_frames: int) -> dict[str, str]:
    return {
        "x265-params": f"keyint={gop}:min-keyint={gop}:bframes={b_frames}:b-adapt=0:scenecut=0"
        ":log-level=none:pools=1:frame-threads=1"
    }


_TICKS = tuple(np.cumsum([0] + [20, 40, 300, 33] * 12 + [2900, 40, 40, 1500, 40]).tolist())
UNTRIED = " "  # decord refuses or not, in whichever words
_VP9 = {"g": "30", "lag-in-frames": "0", "cpu-used": "8"}
_SVT = {"preset": "10", "svtav1-params": "keyint=12"}

KINDS = [
    Kind("short GOP", ".mp4", options=_x264(8, 0)),
    Kind("one GOP", ".mp4", options=_x264(250, 3)),
    Kind("29.97", ".mkv", fps=30000 / 1001, frames=90, options=_x264(12, 3)),
    Kind("open GOP", ".ts", options=_x264(12, 3, ":open-gop=1"), decord="mpegts"),
    Kind("open GOP", ".mp4", options=_x264(12, 3, ":open-gop=1"), decord="open groups"),
    Kind(
        "long GOP",
        ".ts",
        frames=120,
        options=_x264(50, 3),
        make=write_late,
        decord="mpegts",
    ),
    Kind("hevc", ".mp4", "hevc", options=_x265(12, 3), decord="open groups"),
    Kind("hevc", ".ts", "hevc", options=_x265(12, 3), decord="mpegts"),
    Kind("vp8", ".webm", "vp8", options={"g": "12", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    Kind("vp9", ".webm", "vp9", options={"g": "12", "lag-in-frames": "16", "cpu-used": "5"}),
    Kind("av1", ".mp4", "av1", options=_SVT, decord="cannot find video stream"),
    Kind("mpeg4", ".avi", "mpeg4", options={"g": "12", "bf": "2"}, decord="seeking in avi"),
    Kind("h264", ".avi", options=_x264(12, 3), stamps=False, decord="seeking in avi"),
    Kind("mpeg2", ".mpg", "mpeg2video", fps=25, options={"g": "12", "bf": "2"}, decord="in mpeg "),
    Kind(
        "mpeg2",
        ".ts",
        "mpeg2video",
        size=(320, 240),
        fps=25,
        frames=200,
        options={"g": "12", "bf": "2"},
        decord="mpegts",
    ),
    Kind("mjpeg", ".mov", "mjpeg", pix_fmt="yuvj420p"),
    Kind("gif", ".gif", "gif", pix_fmt="gray", decord="gif"),
    Kind("late", ".mp4", make=write_late, options=_x264(12, 3), decord="begin with 0"),
    Kind("late", ".mkv", make=write_late, options=_x264(12, 3), decord="begin with 0"),
    Kind("flv", ".flv", options=_x264(12, 3), decord="flv"),
    Kind("variable", ".mp4", frames=len(_TICKS), ticks=_TICKS, options=_x264(12, 3)),
    Kind("variable", ".mkv", make=write_unpaced, frames=len(_TICKS), ticks=_TICKS),
    Kind("turned 90", ".mp4", make=write_rotated, rotation=90, decord="upright"),
    Kind("turned 180", ".mp4", make=write_rotated, rotation=180),
    Kind("turned 270", ".mp4", make=write_rotated, rotation=270, decord="upright"),
    Kind("odd size", ".mp4", size=(65, 49), pix_fmt="yuv444p"),
    Kind("10 bit", ".mp4", "hevc", pix_fmt="yuv420p10le", options=_x265(12, 0)),
    Kind("one frame", ".mp4", frames=1),
    Kind("two frames", ".webm", "vp8", frames=2),
    Kind("1 a second", ".mp4", fps=1, frames=12, options=_x264(12, 3)),
    Kind("one in 5 s", ".mp4", fps=0.2, frames=12, options=_x264(12, 3)),
    Kind("bare", ".h264", fps=25, stamps=False, options=_x264(12, 3), decord="h264"),
    Kind("bare", ".m2v", "mpeg2video", fps=25, options={"g": "12", "bf": "2"}, decord="mpegvideo"),
    Kind("live", ".webm", "vp8", options={"g": "12"}, mux={"live": "1"}, decord="measure duration"),
    Kind("live", ".mkv", options=_x264(12, 3), mux={"live": "1"}, decord="measure duration"),
    Kind(
        "fragments",
        ".mp4",
        options=_x264(12, 3),
        mux={"movflags": "frag_keyframe+empty_moov"},
        decord="begin with 0",
    ),
    Kind("trimmed", ".mp4", make=write_trimmed, options=_x264(12, 3), decord="counts 65"),
    Kind("among others", ".mkv", make=write_among_others, options=_x264(12, 3)),
    Kind("among others", ".mp4", make=write_among_others, options=_x264(12, 3)),
    Kind("mpeg4", ".ts", "mpeg4", fps=2, options={"g": "50"}, decord="mpegts"),
    Kind(
        "no stss",
        ".mp4",
        "mpeg4",
        make=write_without_stss,
        options={"g": "50"},
        flags=False,
        decord=UNTRIED,
    ),
    Kind(
        "no stss vp9",
        ".mp4",
        "vp9",
        make=write_without_stss,
        options=_VP9,
        flags=False,
        decord=UNTRIED,
    ),
    Kind(
        "all flagged",
        ".avi",
        "mpeg4",
        make=write_flagged,
        options={"g": "50"},
        flags=False,
        decord=UNTRIED,
    ),
    Kind(
        "msvideo1",
        ".avi",
        "msvideo1",
        pix_fmt="rgb555le",
        make=write_flagged,
        flags=False,
        decord=UNTRIED,
    ),
    Kind(
        "cinepak",
        ".avi",
        "cinepak",
        pix_fmt="rgb24",
        make=write_flagged,
        flags=False,
        decord=UNTRIED,
    ),
    Kind(
        "decoding order",
        ".mkv",
        make=write_in_decoding_order,
        options=_x264(12, 3),
        stamps=False,
        decord=UNTRIED,
    ),
    Kind(
        "decoding order",
        ".ts",
        make=write_in_decoding_order,
        options=_x264(12, 3),
        stamps=False,
        decord=UNTRIED,
    ),
    Kind(
        "decoding order mpeg4",
        ".mkv",
        "mpeg4",
        make=write_in_decoding_order,
        options={"g": "12", "bf": "2"},
        stamps=False,
        flags=False,
        decord=UNTRIED,
    ),
    Kind(
        "few stamps",
        ".mpg",
        fps=25,
        frames=200,
        make=write_few_stamps,
        options=_x264(50, 0),
        stamps=False,
        decord=UNTRIED,
    ),
    Kind(
        "late B-frames",
        ".avi",
        make=write_reordered_late,
        options=_x264(12, 3),
        stamps=False,
        decord=UNTRIED,
    ),
    Kind("joined", ".ts", make=write_joined, options=_x264(12, 3), stamps=False, decord=UNTRIED),
    Kind("jumping", ".ts", make=write_jumping, options=_x264(12, 3), stamps=False, decord=UNTRIED),
    Kind(
        "joined",
        ".vob",
        "mpeg2video",
        fps=25,
        make=write_joined,
        options={"g": "12", "bf": "2"},
        stamps=False,
        decord=UNTRIED,
    ),
    Kind("begun", ".ts", make=write_begun, options=_x264(12, 0), decord=UNTRIED),
    Kind("growing", ".ts", make=write_growing, options=_x264(12, 3), decord="mpegts"),
]
