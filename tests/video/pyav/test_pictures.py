"""Pictures as a player shows them: upright, mirrored or not, in shape, whole, with SDR colours."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tests.video.clips import KINDS, paint, write
from vzvideo.live.sources import LiveSource
from vzvideo.video import VideoInfo, open_video
from vzvideo.video.pyav.pictures import Orientation
from vzvideo.video.pyav.tone_mapping import tone_mapped

NAMES = {"R": (255, 0, 0), "G": (0, 255, 0), "B": (0, 0, 255), "W": (255, 255, 255)}
CORNERS = np.array([[NAMES["R"], NAMES["G"]], [NAMES["B"], NAMES["W"]]], np.uint8)
WIDTH, HEIGHT = 320, 180


def corners(pixels: NDArray[np.uint8]) -> str:
    """The colours of a picture's quarters, row by row."""
    height, width = pixels.shape[:2]
    rows = []
    for y, x in itertools.product((0.25, 0.75), repeat=2):
        seen = pixels[int(y * height), int(x * width)].astype(int)
        rows.append(min(NAMES, key=lambda name: float(np.abs(seen - NAMES[name]).sum())))
    return f"{rows[0]}{rows[1]}/{rows[2]}{rows[3]}"


def shown(path: Path, **settings: Any) -> tuple[str, tuple[int, int], VideoInfo]:
    """The quarters, and (width, height), as the reader and the stream of frames give them alike."""
    with open_video(path, **settings) as video:
        (pixels,) = video.frames_at([0.0]).pixels
        info = video.info
    live, _ = next(iter(LiveSource(str(path), fps=None, **settings)))
    np.testing.assert_array_equal(pixels, live)
    return corners(pixels), (pixels.shape[1], pixels.shape[0]), info


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red and green over blue and white."""
    path = tmp_path_factory.mktemp("quarters") / "plain.mp4"
    coloured = CORNERS.repeat(HEIGHT // 2, 0).repeat(WIDTH // 2, 1)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(coloured, "rgb24")))
        container.mux(stream.encode())
    return path


def with_matrix(path: Path, to: Path, matrix: tuple[float, ...]) -> Path:
    """The same video, to be shown by another matrix: a, b, c, d of x' = ax + cy, y' = bx + dy."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    for offset, value in zip((0, 4, 12, 16), matrix, strict=True):
        start = at + offset
        data[start : start + 4] = round(value * 65536).to_bytes(4, "big", signed=True)
    to.write_bytes(data)
    return to


WIDE, TALL = (WIDTH, HEIGHT), (HEIGHT, WIDTH)
MATRICES = [
    ((1, 0, 0, 1), "RG/BW", WIDE),
    ((-1, 0, 0, 1), "GR/WB", WIDE),
    ((1, 0, 0, -1), "BW/RG", WIDE),
    ((-1, 0, 0, -1), "WB/GR", WIDE),
    ((0, 1, 1, 0), "RB/GW", TALL),
    ((0, -1, -1, 0), "WG/BR", TALL),
    ((0, 1, -1, 0), "BR/WG", TALL),
    ((0, -1, 1, 0), "GW/RB", TALL),
    ((0.0005, -0.9999, 0.9999, 0.0005), "GW/RB", TALL),  # 89.97 degrees
    ((-0.9999, -0.0005, 0.0005, -0.9999), "WB/GR", WIDE),  # 179.97
    ((0.99985, 0.0175, -0.0175, 0.99985), "RG/BW", WIDE),  # -1
    ((0.99985, -0.0175, 0.0175, 0.99985), "RG/BW", WIDE),  # 1
    ((0, 0, 0, 0), "RG/BW", WIDE),  # which says nothing
]


@pytest.mark.parametrize(("matrix", "right", "size"), MATRICES)
def test_the_display_matrix_is_obeyed(
    plain: Path, tmp_path: Path, matrix: tuple[float, ...], right: str, size: tuple[int, int]
) -> None:
    quarters, shape, info = shown(with_matrix(plain, tmp_path / "x.mp4", matrix))
    assert (quarters, shape) == (right, size)
    assert (info.width, info.height) == size
    assert info.mirrored == (matrix[0] * matrix[3] - matrix[1] * matrix[2] < 0)


def test_every_orientation_is_its_own_nearest() -> None:
    for rotation, mirrored in itertools.product(range(0, 360, 90), (False, True)):
        orientation = Orientation(rotation, mirrored)
        assert Orientation.nearest(orientation._matrix) == orientation
        picture = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
        upright = orientation.upright(picture)
        assert upright.shape[1::-1] == orientation.shown_size(3, 2)
        # Where the matrix says that the first pixel and its neighbour to the right are.
        x, y = orientation._matrix @ [1, 0]
        (row, column), (to_row, to_column) = (
            [int(axis[0]) for axis in np.nonzero(upright[:, :, 0] == value)] for value in (0, 1)
        )
        assert (to_column - column, to_row - row) == (x, y)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_lie_as_exif_says(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"picture{suffix}"
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(CORNERS.repeat(45, 0).repeat(80, 1)).save(path, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    quarters, shape, info = shown(path)
    assert quarters == corners(expected)
    assert (info.width, info.height) == shape == (expected.shape[1], expected.shape[0])


def reshaped(path: Path, to: Path, ratio: str) -> Path:
    """The same pictures, of pixels that are not square."""
    with av.open(str(path)) as source, av.open(str(to), "w") as container:
        stream: Any = container.add_stream_from_template(source.streams.video[0])
        stream.sample_aspect_ratio = Fraction(ratio)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    return to


@pytest.mark.parametrize(
    ("ratio", "size"), [("3/4", (240, 180)), ("4/3", (427, 180)), ("1/100", (320, 180))]
)
def test_pixels_that_are_not_square(
    plain: Path, tmp_path: Path, ratio: str, size: tuple[int, int]
) -> None:
    path = reshaped(plain, tmp_path / "x.mp4", ratio)
    quarters, shape, info = shown(path)
    assert (quarters, shape) == ("RG/BW", size)
    assert (info.width, info.height) == size
    _, small, _ = shown(path, size=90)
    assert small == (round(size[0] / 2), 90)


def test_a_shape_is_turned_with_the_picture(plain: Path, tmp_path: Path) -> None:
    path = reshaped(plain, tmp_path / "x.mp4", "3/4")
    quarters, shape, info = shown(with_matrix(path, tmp_path / "y.mp4", (0, 1, -1, 0)))
    assert (quarters, shape) == ("BR/WG", (180, 240))
    assert (info.width, info.height, info.rotation) == (180, 240, 270)


def interlaced(path: Path) -> None:
    """A bar that moves on between the two fields of a frame, so that its edges are combs."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(
            "mpeg2video", rate=25, options={"flags": "+ilme+ildct", "qscale": "2"}
        )
        stream.width, stream.height, stream.pix_fmt = WIDTH, 240, "yuv420p"
        for index in range(10):
            grey = np.full((240, WIDTH), 20, np.uint8)
            grey[0::2, 16 * index : 16 * index + 80] = 230
            grey[1::2, 16 * index + 8 : 16 * index + 88] = 230
            frame = av.VideoFrame.from_ndarray(grey, "gray").reformat(format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def combs(pixels: NDArray[np.uint8]) -> float:
    """How much lines differ from those beside them, where nothing but fields makes them."""
    return float(np.abs(np.diff(pixels[60:180].astype(int), axis=0)).mean())


def test_interlaced_pictures_are_made_whole(tmp_path: Path) -> None:
    path = tmp_path / "bar.ts"
    interlaced(path)
    with open_video(path) as video, open_video(path, deinterlace=False) as coded:
        whole, woven = video.frames_at([0.2]).pixels[0], coded.frames_at([0.2]).pixels[0]
    assert combs(woven) > 5
    assert combs(whole) < 0.1 * combs(woven)
    live, _ = next(iter(LiveSource(str(path), fps=None, deinterlace=False)))
    assert combs(live) > 5


def hdr(path: Path, codes: NDArray[np.uint16], transfer: str) -> None:
    """A video of one picture, its RGB codes those of BT.2020 and PQ or HLG, 0..65535."""
    tags = f"log-level=none:colorprim=bt2020:colormatrix=bt2020nc:transfer={transfer}:crf=1"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx265", rate=5, options={"x265-params": tags})
        stream.height, stream.width = codes.shape[:2]
        stream.pix_fmt = "yuv420p10le"
        frame = av.VideoFrame.from_ndarray(codes, "rgb48le")
        coded = frame.reformat(format="yuv420p10le", dst_colorspace="bt2020")
        container.mux(stream.encode(coded))
        container.mux(stream.encode())


# Light in that of white paper, 203 cd/m2, as BT.709 has it, and the same in BT.2020.
LIGHT = np.array([[0, 0, 0], [0.18] * 3, [0.5] * 3, [0.5, 0.1, 0.1], [0.1, 0.5, 0.1], [1] * 3])
TO_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])


def pq(light: NDArray[np.float64]) -> NDArray[np.uint16]:
    """By SMPTE ST 2084, of light in 203 cd/m2."""
    y = (light * 203 / 10000) ** (2610 / 16384)
    code = ((3424 / 4096 + 2413 / 128 * y) / (1 + 2392 / 128 * y)) ** (2523 / 32)
    return np.rint(code * 65535).astype(np.uint16)


def test_what_was_coded_with_pq_looks_as_it_would_without(tmp_path: Path) -> None:
    codes = pq(LIGHT @ TO_2020.T)[None].repeat(64, 0).repeat(32, 1)
    hdr(tmp_path / "pq.mp4", codes, "smpte2084")
    with open_video(tmp_path / "pq.mp4") as video:
        seen = video.frames_at([0.0]).pixels[0][32, 16::32].astype(int)
    as_sdr = np.rint(255 * LIGHT ** (1 / 2.4))
    assert np.abs(seen[:-1] - as_sdr[:-1]).max() <= 6
    assert (seen[-1] > 225).all()  # white paper is white, and there is room for what is brighter
    with open_video(tmp_path / "pq.mp4", tone_map=False) as video:
        flat = video.frames_at([0.0]).pixels[0][32, 16::32].astype(int)
    assert flat[-1].max() < 160


def test_light_only_grows_with_its_code() -> None:
    ramp = np.arange(0, 65536, 64, np.uint16)[None, :, None].repeat(3, 2)
    for transfer in (16, 18):
        seen = tone_mapped(ramp, transfer, 9)[0].astype(int)
        assert (np.diff(seen, axis=0) >= 0).all()
        assert np.ptp(seen, axis=1).max() <= 1  # grey stays grey
        assert (seen[0].max(), seen[-1].min()) == (0, 255)


def test_hlg_white_is_white() -> None:
    """BT.2408: white paper is at 75 % of the signal."""
    white = np.full((1, 1, 3), round(0.75 * 65535), np.uint16)
    assert 225 < tone_mapped(white, 18, 9).min() < 250


@pytest.fixture
def usual(tmp_path: Path) -> Path:
    kind = replace(next(kind for kind in KINDS if kind.name == "short GOP"), frames=10)
    write(kind, tmp_path / "clip.mp4")
    return tmp_path / "clip.mp4"


def test_usual_pictures_take_the_usual_way(usual: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No graph of filters is built, and the pixels are those that FFmpeg's scaler gives."""
    monkeypatch.setattr("vzvideo.video.pyav.pictures.Graph", None)
    with av.open(str(usual)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with open_video(usual) as video:
        found = video.frames_at(np.arange(10) / 10).pixels
    np.testing.assert_array_equal(found, expected)
    assert paint(0, 64, 48).shape == found.shape[1:3]
