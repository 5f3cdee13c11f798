"""What goes wrong in the world: damaged, cut, changing and unreadable files, silent servers."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import av
import numpy as np
import pytest
from PIL import Image

from tests.video.clips import KINDS, Kind, number_in, write, write_sound
from vzvideo.errors import SettingsError, VideoError
from vzvideo.live.sources import LiveSource
from vzvideo.video import open_video
from vzvideo.video.fetching import fetch

BY_NAME = {str(kind): kind for kind in KINDS}
DEADLINE_S = 0.5


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], tuple[Kind, Path]]:
    def make(name: str) -> tuple[Kind, Path]:
        kind, path = BY_NAME[name], tmp_path / name
        kind.make(kind, path)
        return kind, path

    return make


def code_of(path: Path | str, deadline_s: float = 30.0) -> str:
    with pytest.raises(VideoError) as caught:
        open_video(path, deadline_s=deadline_s)
    assert "\n" not in str(caught.value)
    return caught.value.code


def damaged_packet(path: Path, which: int) -> bytes:
    """The file with the second half of one packet turned into noise."""
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    start = data.index(packets[which])
    for at in range(start + len(packets[which]) // 3, start + len(packets[which])):
        data[at] ^= 0xA5
    return bytes(data)


def lost_ts_packets(path: Path) -> bytes:
    """A broadcast with three of its 188 byte packets gone in the middle."""
    data = path.read_bytes()
    middle = len(data) // 188 // 3 * 188
    return data[:middle] + data[middle + 3 * 188 :]


def read_all(kind: Kind, path: Path) -> tuple[dict[int, int], int]:
    """Which number each frame shows that still comes, by the number it should show; and `lost`."""
    times = np.arange(kind.frames) / kind.fps
    with open_video(path) as video:
        batch = video.frames_at(times)
    assert batch.asked == kind.frames
    assert len(batch) <= batch.asked
    assert (np.diff(batch.pts_s) > 0).all()
    expected = np.rint(batch.pts_s * kind.fps).astype(int)
    return dict(zip(expected, map(number_in, batch.pixels), strict=True)), batch.lost


@pytest.mark.parametrize(
    "name", ["short GOP.mp4", "29.97.mkv", "vp9.webm", "h264.avi", "open GOP.ts", "flv.flv"]
)
def test_no_more_is_lost_than_there_can_be(
    make: Callable[[str], tuple[Kind, Path]], name: str
) -> None:
    """Of a file whose middle fifth is gone; however often one comes upon the hole."""
    kind, path = make(name)
    data = bytearray(path.read_bytes())
    hole = slice(2 * len(data) // 5, 3 * len(data) // 5)
    data[hole] = bytes(hole.stop - hole.start)
    path.write_bytes(data)
    times = np.arange(kind.frames) / kind.fps
    with open_video(path) as video:
        for asked in (times, times[::-1], times):
            batch = video.frames_at(asked)
            assert len(batch) + batch.lost <= 1.1 * kind.frames
            if name in ("short GOP.mp4", "open GOP.ts"):  # other demuxers pass over it in silence
                assert batch.lost > 0


@pytest.mark.parametrize(
    "name",
    ["short GOP.mp4", "29.97.mkv", "vp9.webm", "av1.mp4", "h264.avi", "flv.flv", "fragments.mp4"],
)
def test_a_damaged_packet_is_counted_and_passed_over(
    make: Callable[[str], tuple[Kind, Path]], name: str
) -> None:
    kind, path = make(name)
    path.write_bytes(damaged_packet(path, 20))
    shown, lost = read_all(kind, path)
    assert lost > 0
    assert len(shown) < kind.frames or name == "29.97.mkv"
    outside = {number: seen for number, seen in shown.items() if not 8 <= number < 24}
    assert outside == {number: number for number in outside}  # the damage ends with its GOP
    assert len(outside) >= kind.frames // 2


@pytest.mark.parametrize("name", ["hevc.mp4", "10 bit.mp4", "vp8.webm", "mpeg4.avi"])
def test_damage_that_the_decoder_keeps_to_itself_stays_in_its_gop(
    make: Callable[[str], tuple[Kind, Path]], name: str
) -> None:
    kind, path = make(name)
    path.write_bytes(damaged_packet(path, 20))
    shown, _ = read_all(kind, path)
    outside = {number: seen for number, seen in shown.items() if not 12 <= number < 24}
    assert outside == {number: number for number in set(range(60)) - set(range(12, 24))}


@pytest.mark.parametrize("name", ["open GOP.ts", "hevc.ts", "growing.ts"])
def test_lost_packets_of_a_broadcast_are_counted(
    make: Callable[[str], tuple[Kind, Path]], name: str
) -> None:
    kind, path = make(name)
    path.write_bytes(lost_ts_packets(path))
    shown, lost = read_all(kind, path)
    assert lost > 0
    assert len(shown) >= 50
    after = {number: seen for number, seen in shown.items() if number >= 36}
    assert after == {number: number for number in range(36, 60)}


def test_one_wild_timestamp_hides_nothing(
    make: Callable[[str], tuple[Kind, Path]],
) -> None:
    kind, path = make("open GOP.ts")
    data = bytearray(path.read_bytes())
    # The timestamp stands in the header of a packetised stream, 9 bytes behind its start code.
    starts = [found.start() for found in re.finditer(rb"\x00\x00\x01\xe0", data)]
    data[starts[20] + 9] ^= 0x08  # bit 32 of 33
    path.write_bytes(data)
    shown, lost = read_all(kind, path)
    assert lost == 0
    assert shown == {number: number for number in range(kind.frames)}


@pytest.mark.parametrize(
    "name", ["29.97.mkv", "vp9.webm", "open GOP.ts", "fragments.mp4", "gif.gif"]
)
def test_a_cut_file_is_as_long_as_what_is_left(
    make: Callable[[str], tuple[Kind, Path]], name: str
) -> None:
    kind, path = make(name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with open_video(path) as video:
        assert 0.3 < video.info.duration_s * kind.fps / kind.frames < 0.8
        times = (np.arange(10) + 0.5) / 10 * video.info.duration_s
        batch = video.frames_at(times)
    assert len(batch) == 10
    assert [number_in(frame) for frame in batch.pixels] == [
        round(at_s * kind.fps) for at_s in batch.pts_s
    ]


@pytest.mark.parametrize(
    "name",
    [
        "late.mkv",
        "mpeg2.mpg",
        "long GOP.ts",
        "variable.mp4",
        "joined.ts",
        "jumping.ts",
        "few stamps.mpg",
    ],
)
def test_the_duration_of_a_large_file_is_read_from_its_end(
    make: Callable[[str], tuple[Kind, Path]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, path = make(name)
    with open_video(path) as video:
        exact_s = video.info.duration_s
    monkeypatch.setattr("vzvideo.video.pyav.timing._QUICK_BYTES", 0)
    with open_video(path) as video:
        assert video.info.duration_s == pytest.approx(exact_s, abs=1 / kind.fps)


def test_cut_before_its_index(make: Callable[[str], tuple[Kind, Path]]) -> None:
    _, path = make("short GOP.mp4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    assert code_of(path) == "invalid"


def test_not_a_video(tmp_path: Path) -> None:
    text, empty, sound = tmp_path / "text.mp4", tmp_path / "empty.mp4", tmp_path / "sound.mp4"
    text.write_text("All work and no play makes Jack a dull boy.\n" * 100)
    empty.touch()
    write_sound(sound)
    assert code_of(text) == "invalid"
    assert code_of(empty) == "empty"
    assert code_of(sound) == "no_video"
    assert code_of(tmp_path) == "folder"
    assert code_of(tmp_path / "missing.mp4") == "not_found"
    with pytest.raises(VideoError, match="audio only"):
        open_video(sound)


def test_a_decoder_that_cannot_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "lossless.mkv"
    kind = Kind("lossless", ".mkv", "ffv1", frames=3)
    kind.make(kind, path)
    with av.open(str(path)) as container:
        settings = container.streams.video[0].codec_context.extradata
    assert settings
    content = path.read_bytes()
    assert settings in content
    path.write_bytes(content.replace(settings, bytes(len(settings))))
    assert code_of(path) == "no_frames"


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert code_of(tmp_path / "pipe.mp4") == "unreadable"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_file_that_may_not_be_read(make: Callable[[str], tuple[Kind, Path]]) -> None:
    _, path = make("one frame.mp4")
    path.chmod(0)
    assert code_of(path) == "unreadable"


def test_a_name_that_looks_like_a_protocol(
    make: Callable[[str], tuple[Kind, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = make("one frame.mp4")
    path.rename(path.with_name("12:30.mp4"))
    monkeypatch.chdir(path.parent)
    with open_video("12:30.mp4") as video:
        assert len(video.frames_at([0])) == 1


def test_settings_are_checked(make: Callable[[str], tuple[Kind, Path]]) -> None:
    _, path = make("one frame.mp4")
    with pytest.raises(SettingsError, match="pyav or decord"):
        open_video(path, decoder="opencv")
    with pytest.raises(SettingsError, match="size: 0"):
        open_video(path, size=0)
    with pytest.raises(SettingsError, match="deadline_s: 0"):
        open_video(path, deadline_s=0)
    with open_video(path) as video:
        for times in ([], [float("nan")], [float("inf")]):
            with pytest.raises(SettingsError, match="finite"):
                video.frames_at(times)


def test_a_closed_video_says_so(make: Callable[[str], tuple[Kind, Path]]) -> None:
    _, path = make("one frame.mp4")
    with open_video(path) as video:
        pass
    with pytest.raises(VideoError, match="closed"):
        video.frames_at([0])


@pytest.mark.parametrize("how", ["grown", "replaced", "removed", "cut"])
def test_a_file_that_changes_while_it_is_read(
    make: Callable[[str], tuple[Kind, Path]], how: str
) -> None:
    _, path = make("short GOP.mp4")
    with open_video(path) as video:
        stream = video.stream(np.arange(6.0), batch=1)
        next(stream)
        if how == "grown":
            with path.open("ab") as file:
                file.write(b"more")
        elif how == "replaced":
            other = path.with_suffix(".new")
            other.write_bytes(path.read_bytes())
            other.replace(path)
        elif how == "removed":
            path.unlink()
        else:
            os.truncate(path, 1000)
        with pytest.raises(VideoError) as caught:
            list(stream)
        assert caught.value.code == "changed"


def test_a_pause_is_no_silence(make: Callable[[str], tuple[Kind, Path]]) -> None:
    """The deadline is the source's: a caller may take as long as it likes between two frames."""
    kind, path = make("mpeg2.ts")
    with open_video(path, deadline_s=DEADLINE_S) as video:
        for time_s in (0.0, 5.0, 2.0):
            (frame,) = video.frames_at([time_s]).pixels
            assert number_in(frame) == round(time_s * kind.fps)
            time.sleep(1.2 * DEADLINE_S)
        assert video._seekable  # type: ignore[attr-defined]


class Handler(BaseHTTPRequestHandler):
    """Serves one file, in parts if there are `ranges`, until `silent_after` requests.

    refusals: statuses, and Retry-After, of the first answers.
    """

    path_served: ClassVar[Path]
    ranges: ClassVar[bool] = True
    silent_after: ClassVar[float] = np.inf
    requests: ClassVar[int] = 0
    refusals: ClassVar[Sequence[tuple[int, str | None]]] = ()
    over: ClassVar[threading.Event]

    def do_GET(self) -> None:
        data = self.path_served.read_bytes()
        kind = type(self)
        kind.requests += 1
        if kind.requests > self.silent_after:
            self.over.wait(30)
            return
        if kind.requests <= len(self.refusals):
            status, wait = self.refusals[kind.requests - 1]
            self.send_response(status)
            self.send_header("Content-Length", "0")
            if wait is not None:
                self.send_header("Retry-After", wait)
            self.end_headers()
            return
        wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(wanted[1]) if wanted and self.ranges else 0
        self.send_response(206 if wanted and self.ranges else 200)
        if self.ranges:
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        self.wfile.write(data[first:])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    monkeypatch.setenv("no_proxy", "*")
    over = threading.Event()
    servers = []

    def serve(path: Path, **options: object) -> str:
        handler = type("Served", (Handler,), {"path_served": path, "over": over, **options})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/{path.suffix}"

    yield serve
    over.set()
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize(
    "name", ["fragments.mp4", "29.97.mkv", "open GOP.ts", "gif.gif", "mpeg4.avi"]
)
def test_over_http(
    make: Callable[[str], tuple[Kind, Path]], serve: Callable[..., str], name: str, ranges: bool
) -> None:
    _, path = make(name)
    with open_video(path) as file, open_video(serve(path, ranges=ranges), deadline_s=5) as video:
        assert video.info.duration_s == pytest.approx(file.info.duration_s, rel=0.02)
        for times in ([5.5], [0.5, 2.5], [0.0, 0.1, 2.9]):
            expected, batch = file.frames_at(times), video.frames_at(times)
            np.testing.assert_array_equal(batch.pts_s, expected.pts_s)
            np.testing.assert_array_equal(batch.pixels, expected.pixels)
        np.testing.assert_array_equal(video.keyframes_s(), file.keyframes_s())


@pytest.fixture
def index_last(tmp_path: Path) -> Path:
    """MP4 with its index at its end, behind more than FFmpeg looks back."""
    path = tmp_path / "noise.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=25, options={"qscale": "1", "g": "12"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.codec_context.flags |= av.codec.context.Flags.qscale
        for noise in np.random.default_rng(0).integers(0, 256, (25, 240, 320, 3), np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, "rgb24")))
        container.mux(stream.encode())
    assert path.stat().st_size > 1 << 20
    return path


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_what_a_server_without_ranges_gives_is_fetched_first(
    index_last: Path, temporary: Path, serve: Callable[..., str]
) -> None:
    size = index_last.stat().st_size
    told: list[tuple[int, int | None]] = []
    url = serve(index_last, ranges=False)
    with (
        open_video(index_last) as file,
        open_video(url, deadline_s=5, on_fetch=lambda *said: told.append(said)) as video,
    ):
        assert len(list(temporary.iterdir())) == 1
        times = np.arange(0, 1, 0.04)[::-3]
        expected, batch = file.frames_at(times), video.frames_at(times)
        np.testing.assert_array_equal(batch.pixels, expected.pixels)
        assert batch.source == url
        assert video.info == file.info
    assert not list(temporary.iterdir())
    assert told[-1] == (size, size)
    assert [fetched for fetched, _ in told] == sorted({fetched for fetched, _ in told})
    with open_video(serve(index_last), deadline_s=5) as video:  # nothing is fetched that need not
        assert not list(temporary.iterdir())
        assert len(video.frames_at([0.5])) == 1


def test_no_more_is_fetched_than_there_is_room_for(
    index_last: Path, temporary: Path, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vzvideo.video.fetching.MOST_BYTES", 2**20)
    with pytest.raises(VideoError, match=r"larger than 0\.000977 GiB") as error:
        open_video(serve(index_last, ranges=False), deadline_s=5)
    assert error.value.code == "no_ranges"
    assert not list(temporary.iterdir())


def test_what_is_no_video_is_no_video_once_it_is_fetched(
    tmp_path: Path, temporary: Path, serve: Callable[..., str]
) -> None:
    (tmp_path / "text.mp4").write_text("All work and no play makes Jack a dull boy.\n" * 100)
    assert code_of(serve(tmp_path / "text.mp4", ranges=False), 5) == "invalid"
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_server_is_asked_again(
    make: Callable[[str], tuple[Kind, Path]], serve: Callable[..., str], status: int
) -> None:
    _, path = make("29.97.mkv")
    busy = {"refusals": [(status, None)]}
    with open_video(path) as file, open_video(serve(path, **busy), deadline_s=5) as video:
        np.testing.assert_array_equal(video.frames_at([0.5]).pixels, file.frames_at([0.5]).pixels)
    assert list(LiveSource(serve(path, **busy), deadline_s=5))
    fetched = fetch(serve(path, **busy), deadline_s=5)
    assert fetched.read_bytes() == path.read_bytes()
    fetched.unlink()


@pytest.mark.parametrize(("wait", "said"), [(None, ""), ("90", r" \(90 s, it says\)")])
def test_a_server_that_stays_busy_is_named(
    index_last: Path, temporary: Path, serve: Callable[..., str], wait: str | None, said: str
) -> None:
    """Where it says to wait for longer than the deadline, that is not tried."""
    most = 2 if wait else 9  # the second to find out what it says
    for read in (open_video, fetch, lambda url, deadline_s: list(LiveSource(url, deadline_s=2))):
        with pytest.raises(
            VideoError, match=f"503 Service Unavailable: try again later{said}$"
        ) as got:
            read(serve(index_last, refusals=[(503, wait)] * most), deadline_s=2)  # type: ignore[operator]
        assert got.value.code == "unavailable"
    assert not list(temporary.iterdir())


# -- refusals that name the reason


def encrypted(path: Path) -> None:
    options = {
        "encryption_scheme": "cenc-aes-ctr",
        "encryption_key": "76a6c65c5ea762046bd749a2e632ccbb",
        "encryption_kid": "a7e61c373e219033c21091fa607bf3b8",
    }
    write(replace(BY_NAME["short GOP.mp4"], mux=options), path)


def animated_webp(path: Path) -> None:
    first, *more = [Image.new("RGB", (64, 48), (20 * index, 0, 0)) for index in range(5)]
    first.save(path, save_all=True, append_images=more, duration=100)


def manifest(path: Path) -> None:
    path.write_text('<?xml version="1.0"?>\n<!-- made by hand -->\n<MPD type="static"></MPD>\n')


REFUSED = [
    (encrypted, ".mp4", "encrypted", "encrypted"),
    (animated_webp, ".webp", "an animated WebP", "no_decoder"),
    (manifest, ".mpd", "a DASH manifest", "no_decoder"),
]


@pytest.mark.parametrize(("make", "suffix", "words", "code"), REFUSED)
def test_a_refusal_names_its_reason(
    tmp_path: Path,
    serve: Callable[..., str],
    make: Callable[[Path], None],
    suffix: str,
    words: str,
    code: str,
) -> None:
    path = tmp_path / f"file{suffix}"
    make(path)
    sources = [str(path)] if suffix == ".mp4" else [str(path), serve(path)]
    for source in sources:
        for read in (open_video, lambda source: list(LiveSource(source))):
            with pytest.raises(VideoError, match=words) as error:
                read(source)
            assert error.value.code == code


def test_no_noise_of_an_encrypted_video_is_shown(tmp_path: Path) -> None:
    """Each is encrypted otherwise; of every tenth the decoder takes the noise for a picture."""
    for number in range(30):
        path = tmp_path / f"{number}.mp4"
        encrypted(path)
        with pytest.raises(VideoError, match="encrypted"):
            open_video(str(path))


def box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return (8 + len(body)).to_bytes(4, "big") + kind + body


def tiled_avif(path: Path) -> None:
    """Two pictures side by side, as libavif writes a grid: item 1 is the whole, 2 and 3 tiles."""
    Image.new("RGB", (64, 64), (200, 0, 0)).save(path, quality=50)
    single = path.read_bytes()
    at = single.index(b"av1C") - 4
    config = single[at : at + int.from_bytes(single[at : at + 4], "big")]
    data = single[single.index(b"mdat") + 4 :]

    def words(*values: int) -> bytes:
        return b"".join(value.to_bytes(2, "big") for value in values)

    def item(number: int, kind: bytes) -> bytes:
        return box(b"infe", b"\2\0\0\0", words(number, 0), kind, b"\0")

    def extent(width: int) -> bytes:
        return box(b"ispe", bytes(4), width.to_bytes(4, "big"), (64).to_bytes(4, "big"))

    def associated(number: int, *properties: int) -> bytes:
        return words(number) + bytes([len(properties), *properties])

    grid = bytes([0, 0, 0, 1]) + words(128, 64)
    header = box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf")

    def meta(start: int) -> bytes:
        def place(number: int, method: int, offset: int, length: int) -> bytes:
            where = offset.to_bytes(4, "big") + length.to_bytes(4, "big")
            return words(number, method, 0, 1) + where

        tiles = b"".join(place(number, 0, start, len(data)) for number in (2, 3))
        return box(
            b"meta",
            bytes(4),
            box(b"hdlr", bytes(8), b"pict", bytes(13)),
            box(b"pitm", bytes(4), words(1)),
            box(b"iloc", b"\1\0\0\0\x44\0", words(3), place(1, 1, 0, len(grid)), tiles),
            box(b"iinf", bytes(4), words(3), item(1, b"grid"), item(2, b"av01"), item(3, b"av01")),
            box(b"iref", bytes(4), box(b"dimg", words(1, 2, 2, 3))),
            box(
                b"iprp",
                box(b"ipco", extent(128), extent(64), config),
                box(
                    b"ipma",
                    bytes(4),
                    (3).to_bytes(4, "big"),
                    associated(1, 1),
                    associated(2, 2, 0x83),
                    associated(3, 2, 0x83),
                ),
            ),
            box(b"idat", grid),
        )

    start = len(header) + len(meta(0)) + 8
    path.write_bytes(header + meta(start) + box(b"mdat", data))


def test_a_picture_of_tiles_is_refused_whole(tmp_path: Path) -> None:
    path = tmp_path / "tiles.avif"
    tiled_avif(path)
    with pytest.raises(VideoError, match="a picture in 2 tiles") as error:
        open_video(path)
    assert error.value.code == "tiles"
    with pytest.raises(VideoError, match="a picture in 2 tiles"):
        list(LiveSource(str(path)))


# -- promised and read


@pytest.mark.parametrize("name", ["29.97.mkv", "among others.mkv", "among others.mp4", "flv.flv"])
def test_what_a_header_promises_is_what_a_whole_file_holds(
    make: Callable[[str], tuple[Kind, Path]], name: str
) -> None:
    """It is the video's length that is meant, though sound may go on for longer."""
    _, path = make(name)
    with open_video(path) as video:
        promised_s = video.info.promised_s
        assert promised_s is None or promised_s == pytest.approx(video.info.duration_s, abs=0.25)
        assert promised_s is not None or name == "among others.mkv"


@pytest.mark.parametrize("name", ["29.97.mkv", "among others.mkv", "index first.mp4", "flv.flv"])
def test_a_cut_file_says_what_was_promised(
    make: Callable[[str], tuple[Kind, Path]], tmp_path: Path, name: str
) -> None:
    if name == "index first.mp4":
        kind = replace(BY_NAME["short GOP.mp4"], mux={"movflags": "faststart"})
        path = tmp_path / name
        write(kind, path)
    else:
        kind, path = make(name)
    with open_video(path) as video:
        whole = video.info
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with open_video(path) as video:
        assert video.info.duration_s < 0.8 * whole.duration_s
        assert video.info.promised_s is not None
        assert video.info.promised_s > whole.duration_s - 0.2


def test_a_broadcast_promises_nothing(make: Callable[[str], tuple[Kind, Path]]) -> None:
    with open_video(make("long GOP.ts")[1]) as video:
        assert video.info.promised_s is None


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as unused:  # bound, but not listening
        unused.bind(("127.0.0.1", 0))
        assert code_of(f"http://127.0.0.1:{unused.getsockname()[1]}/", 2) == "unreadable"


def test_a_host_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(VideoError, match="is the address right"):
        open_video("http://nobody.invalid/clip.mp4", deadline_s=20)  # a name that none may have


@pytest.mark.parametrize("scheme", ["http", "https", "rtsp", "tcp"])
def test_a_server_that_accepts_and_never_answers(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        began = time.monotonic()
        url = f"{scheme}://127.0.0.1:{server.getsockname()[1]}/clip.mp4"
        assert code_of(url, DEADLINE_S) == "deadline"
        assert time.monotonic() - began < 10 * DEADLINE_S


@pytest.mark.parametrize("answers", [2, 4, 6])
@pytest.mark.parametrize("suffix", [".mov", ".mkv"])
def test_a_server_that_falls_silent(
    tmp_path: Path, serve: Callable[..., str], suffix: str, answers: int
) -> None:
    """Each request it leaves open is another moment: reading the index, opening again, seeking."""
    kind = replace(BY_NAME["mjpeg.mov"], size=(320, 240))  # too large for one buffer
    path = tmp_path / f"clip{suffix}"
    kind.make(kind, path)
    url = serve(path, silent_after=answers)

    def look_about() -> None:
        for time_s in (5.5, 0.0, 4.0, 1.0, 3.0):
            with open_video(url, deadline_s=DEADLINE_S) as video:
                video.frames_at([time_s])
                video.keyframes_s()

    began = time.monotonic()
    with pytest.raises(VideoError) as caught:
        look_about()
    assert caught.value.code == "deadline"
    assert time.monotonic() - began < 10 * DEADLINE_S
