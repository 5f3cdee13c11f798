"""Live sources of every kind, real ones: whatever they do, frames go on and time goes forward."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.tolerances import PTS_S
from tests.video.clips import (
    KINDS,
    Kind,
    number_in,
    paint,
    write,
    write_sound,
    write_sound_last,
)
from tests.video.test_trouble import damaged_packet, lost_ts_packets
from tests.waiting import SLACK_S, outcome
from vzvideo.errors import SettingsError, VideoError
from vzvideo.live import sources as live
from vzvideo.live.sources import LiveSource, Pixels, downscale, is_similar, thumbnail
from vzvideo.video import open_video

BY_NAME = {str(kind): kind for kind in KINDS}
BROADCAST = Kind("broadcast", ".ts", fps=25, frames=50, options={"g": "12", "tune": "zerolatency"})
DATAGRAM = 7 * 188
DEADLINE_S = 0.5


@pytest.fixture(autouse=True)
def _quickly_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_BACKOFF_S", 0.05)
    monkeypatch.setattr(live, "_LONGEST_BACKOFF_S", 0.1)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture(scope="module")
def broadcast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of MPEG-TS, numbered from 0."""
    path = tmp_path_factory.mktemp("live") / "broadcast.ts"
    write(BROADCAST, path)
    return path


def taken(source: LiveSource, count: int | None = None, within_s: float = SLACK_S) -> list[tuple]:
    """Frames and times, until there are `count` or the source ends by itself."""
    late = threading.Timer(within_s, source.close)
    late.start()
    frames = list(itertools.islice(source, count))
    still = late.is_alive()
    late.cancel()
    assert still, f"{len(frames)} frames in {within_s} s"
    assert [pixels.dtype for pixels, _ in frames] == [np.uint8] * len(frames)
    assert_forward([at_s for _, at_s in frames])
    return frames


def assert_forward(times: list[float]) -> None:
    assert (np.diff(times) > 0).all()


def numbers(frames: list[tuple[Pixels, float]]) -> list[int]:
    return [number_in(pixels) for pixels, _ in frames]


def times(frames: list[tuple[Pixels, float]]) -> list[float]:
    return [at_s for _, at_s in frames]


def code_of(error: object) -> str:
    assert isinstance(error, VideoError), error
    assert "\n" not in str(error)
    return error.code


# -- files

FILES = [
    "29.97.mkv",
    "variable.mp4",
    "hevc.ts",
    "late.mp4",
    "turned 90.mp4",
    "turned 270.mp4",
    # Times as the file reader has them: `tests/video/test_base.py` asks it for the same.
    "joined.ts",
    "joined.vob",
    "jumping.ts",
    "decoding order.mkv",
    "decoding order mpeg4.mkv",
    "few stamps.mpg",
    "begun.ts",
    "mpeg4.avi",
    "late B-frames.avi",
]


@pytest.mark.parametrize("name", FILES)
def test_all_frames_of_a_file(tmp_path: Path, name: str) -> None:
    kind, path = BY_NAME[name], tmp_path / name
    kind.make(kind, path)
    frames = taken(LiveSource(str(path), fps=None, start_s=100.0))
    assert numbers(frames) == list(kind.numbers)
    expected = np.array(kind.ticks) / 1000 if kind.ticks else np.arange(kind.frames) / kind.fps
    # A timestamp is written in milliseconds there.
    np.testing.assert_allclose(times(frames), 100 + expected, rtol=0, atol=PTS_S + 1e-3)
    assert {pixels.shape for pixels, _ in frames} == {(*kind.shown_size[::-1], 3)}


@pytest.mark.parametrize("part", [0.1, 0.25, 0.5, 0.7, 1.0, 20.0])
@pytest.mark.parametrize("name", ["one GOP.mp4", "mpeg2.ts", "variable.mkv"])
def test_frames_a_second_are_a_grid_that_does_not_drift(
    tmp_path: Path, name: str, part: float
) -> None:
    """One frame of each cell in which there is any, whatever the decoder leaves out."""
    kind, path = replace(BY_NAME[name], size=(64, 48)), tmp_path / name
    kind.make(kind, path)
    fps = part * kind.fps
    shown = {
        round(at_s, 6): number_in(pixels) for pixels, at_s in taken(LiveSource(str(path), fps=None))
    }
    frames = taken(LiveSource(str(path), fps=fps))
    cells = [int(at_s * fps + 1e-6) for at_s in times(frames)]
    assert cells == sorted({int(at_s * fps + 1e-6) for at_s in shown})
    assert numbers(frames) == [shown[round(at_s, 6)] for at_s in times(frames)]


def test_a_file_is_never_played_faster_than_asked(broadcast: Path) -> None:
    began = time.monotonic()
    for _, at_s in LiveSource(str(broadcast), fps=5.0, speed=4.0, start_s=30.0):
        assert time.monotonic() - began >= (at_s - 30) / 4


@pytest.mark.parametrize("name", ["one GOP.mp4", "turned 90.mp4"])
def test_size_scales_the_shortest_edge_and_never_up(tmp_path: Path, name: str) -> None:
    kind, path = BY_NAME[name], tmp_path / name
    kind.make(kind, path)
    width, height = kind.shown_size
    for size, scale in ((24, 0.5), (1000, 1)):
        frames = taken(LiveSource(str(path), fps=None, size=size))
        assert {p.shape for p, _ in frames} == {(height * scale, width * scale, 3)}
        assert numbers(frames) == list(kind.numbers)


def test_a_file_is_read_again_by_a_second_iteration(broadcast: Path) -> None:
    source = LiveSource(str(broadcast), fps=5)
    assert numbers(list(source)) == numbers(list(source)) == list(range(0, 50, 5))


def test_the_video_is_found_among_other_streams(tmp_path: Path) -> None:
    kind = BY_NAME["among others.mkv"]
    kind.make(kind, tmp_path / "a.mkv")
    assert numbers(taken(LiveSource(str(tmp_path / "a.mkv"), fps=None))) == list(kind.numbers)


@pytest.mark.parametrize("name", ["joined.ts", "jumping.ts", "few stamps.mpg"])
def test_frames_of_a_file_are_those_of_the_reader(tmp_path: Path, name: str) -> None:
    """One set of rules tells the time, however a file is read."""
    kind, path = BY_NAME[name], tmp_path / name
    kind.make(kind, path)
    with open_video(path) as video:
        read, _ = video.differences(0.0, video.info.duration_s)
    live = times(taken(LiveSource(str(path), fps=None)))
    np.testing.assert_allclose(live, read, rtol=0, atol=PTS_S)


def test_a_cut_file_is_read_to_where_its_pictures_end(tmp_path: Path) -> None:
    """Its sound lies behind them, in that part of it which is missing."""
    path = tmp_path / "cut.mp4"
    kind = replace(BY_NAME["short GOP.mp4"], frames=100)
    promised_s = write_sound_last(kind, path)
    assert promised_s == pytest.approx(10.0)
    assert numbers(taken(LiveSource(str(path), fps=None))) == list(range(100))
    with open_video(path) as video:
        batch = video.frames_at(np.arange(0, 10, 0.1))
        assert video.info.duration_s == pytest.approx(10.0, abs=0.05)
    assert [number_in(frame) for frame in batch.pixels] == list(range(100))
    assert batch.lost == 0


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    text, empty, sound = tmp_path / "text.mp4", tmp_path / "empty.ts", tmp_path / "sound.mp4"
    text.write_text("All work and no play makes Jack a dull boy.\n" * 100)
    empty.touch()
    write_sound(sound)
    for path, code in [
        (text, "invalid"),
        (empty, "empty"),
        (sound, "no_video"),
        (tmp_path, "folder"),
        (tmp_path / "missing.mp4", "not_found"),
    ]:
        assert code_of(outcome(lambda path=path: list(LiveSource(str(path))))) == code


def test_a_file_without_a_single_frame_is_an_error(broadcast: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.ts"
    path.write_bytes(broadcast.read_bytes()[: 5 * 188])  # the tables, and the start of a picture
    with pytest.raises(VideoError):
        open_video(path)
    with pytest.raises(VideoError):
        list(LiveSource(str(path)))


@pytest.mark.parametrize("name", ["fps", "speed", "deadline_s"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
def test_settings_are_checked(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"{name}: .* given"):
        LiveSource("rtsp://127.0.0.1/", **{name: value})


# -- what a broadcast does


def test_a_picture_that_changes_its_size(tmp_path: Path) -> None:
    parts = []
    for index, size in enumerate([(64, 48), (128, 96), (48, 64)]):
        part = replace(BROADCAST, size=size, frames=25)
        write(
            part,
            tmp_path / "part.ts",
            offset=25 * index,
            numbers=range(25 * index, 25 * index + 25),
        )
        parts.append((tmp_path / "part.ts").read_bytes())
    path = tmp_path / "whole.ts"
    path.write_bytes(b"".join(parts))
    frames = taken(LiveSource(str(path), fps=None))
    shapes = [shape for shape, _ in itertools.groupby(pixels.shape for pixels, _ in frames)]
    assert shapes == [(48, 64, 3), (96, 128, 3), (64, 48, 3)]
    assert numbers(frames)[-25:] == list(range(50, 75))
    assert len(frames) >= 70
    small = taken(LiveSource(str(path), fps=None, size=24))
    assert {pixels.shape for pixels, _ in small} == {(24, 32, 3), (32, 24, 3)}


def test_a_clock_that_starts_again(broadcast: Path, tmp_path: Path) -> None:
    path = tmp_path / "again.ts"
    path.write_bytes(3 * broadcast.read_bytes())
    frames = taken(LiveSource(str(path), fps=None))
    assert numbers(frames) == 3 * list(range(50))
    np.testing.assert_allclose(times(frames), np.arange(150) / 25, rtol=0, atol=PTS_S)


def noise(path: Path) -> bytes:
    """More of it in the middle than the demuxer goes through in search of a start."""
    data = path.read_bytes()
    middle = len(data) // 188 // 2 * 188
    return data[:middle] + np.random.default_rng(0).bytes(300_000) + data[middle:]


def flipped(path: Path) -> bytes:
    """One byte in five hundred, anywhere behind the tables at the start."""
    data = bytearray(path.read_bytes())
    for at in np.random.default_rng(0).integers(10 * 188, len(data), len(data) // 500):
        data[at] ^= 0xA5
    return bytes(data)


@pytest.mark.parametrize(
    "damage", [lost_ts_packets, partial(damaged_packet, which=20), noise, flipped]
)
def test_damage_is_passed_over(
    broadcast: Path, tmp_path: Path, damage: Callable[[Path], bytes]
) -> None:
    path = tmp_path / "damaged.ts"
    path.write_bytes(damage(broadcast))
    source = LiveSource(str(path), fps=None)
    frames = taken(source)
    assert len(frames) >= 10
    if damage is not noise:  # of which the demuxer says nothing
        assert source.lost > 0
    if damage is not flipped:
        assert numbers(frames)[-10:] == list(range(40, 50))


# -- over the network


class Broadcaster:
    """Sends a file over and over, faster than it was recorded, to all who connect to a port."""

    def __init__(self, data: bytes, port: int = 0) -> None:
        self._data = data
        self._server = socket.create_server(("127.0.0.1", port))
        self.port = self._server.getsockname()[1]
        self.url = f"tcp://127.0.0.1:{self.port}"
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        self._server.settimeout(0.02)
        while not self._over.is_set():
            with suppress(TimeoutError):
                listener, _ = self._server.accept()
                self._threads.append(threading.Thread(target=self._send, args=(listener,)))
                self._threads[-1].start()
        self._server.close()

    def _send(self, listener: socket.socket) -> None:
        with listener, suppress(OSError):
            listener.settimeout(1)
            for at in itertools.cycle(range(0, len(self._data), DATAGRAM)):
                listener.sendall(self._data[at : at + DATAGRAM])
                if self._over.wait(0.01):
                    return

    def kill(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def resources() -> tuple[int, int]:
    process = psutil.Process()
    return process.num_fds(), process.num_threads()


def resources_are_no_more_than(expected: tuple[int, int]) -> bool:
    until = time.monotonic() + SLACK_S
    while time.monotonic() < until:
        if all(now <= most for now, most in zip(resources(), expected, strict=True)):
            return True
        time.sleep(0.05)
    return False


def test_a_broadcast_over_tcp_goes_away_and_comes_back(broadcast: Path) -> None:
    data = broadcast.read_bytes()
    list(LiveSource(str(broadcast)))  # whatever is opened once and for all is open now
    before = resources()
    broadcaster = Broadcaster(data)
    source = LiveSource(broadcaster.url, fps=None, deadline_s=SLACK_S)
    shown, held, killed_at, since = [], [], -1, 0
    late = threading.Timer(3 * SLACK_S, source.close)
    late.start()
    for pixels, at_s in source:
        shown.append(at_s)
        assert number_in(pixels) in range(50)
        if source.reconnects == killed_at:  # what had come before it was killed
            continue
        since += 1
        if since == 70:  # more than once through, and the clock has started again
            held.append(resources())
            if len(held) == 6:
                break
            killed_at, since = source.reconnects, 0
            broadcaster.kill()
            broadcaster = Broadcaster(data, broadcaster.port)
    late.cancel()
    broadcaster.kill()
    assert len(held) == 6
    assert_forward(shown)
    assert source.reconnects >= 5
    assert all(fds <= held[0][0] and threads <= held[0][1] for fds, threads in held)
    assert resources_are_no_more_than(before)


def test_a_broadcast_over_udp(broadcast: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    over = threading.Event()

    def send() -> None:
        data = broadcast.read_bytes()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for at in itertools.cycle(range(0, len(data), DATAGRAM)):
                with suppress(ConnectionRefusedError):  # nobody listens yet
                    sender.sendto(data[at : at + DATAGRAM], address)
                if over.wait(0.01):
                    return

    sender = threading.Thread(target=send)
    sender.start()
    try:
        frames = taken(LiveSource(f"udp://127.0.0.1:{address[1]}", fps=None), 120)
    finally:
        over.set()
        sender.join()
    assert set(numbers(frames)) >= set(range(20, 50))
    # However fast it comes and however often it starts again, a second of it is a second.
    assert times(frames)[-1] >= 119 / 25 - PTS_S


HLS = replace(BROADCAST, suffix=".m3u8", mux={"hls_time": "0.5", "hls_playlist_type": "vod"})


@contextmanager
def web(folder: Path) -> Iterator[str]:
    """A folder's address, on a real server."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("size", "edge"), [(40, 48), (49, 96), (500, 96), (None, 96)])
def test_of_several_sizes_the_smallest_that_is_large_enough_is_taken(
    size: int | None, edge: int, tmp_path: Path
) -> None:
    playlist = "#EXTM3U\n"
    for width, height in ((64, 48), (128, 96)):
        name = f"{width}.m3u8"
        write(replace(HLS, size=(width, height)), tmp_path / name)
        playlist += f"#EXT-X-STREAM-INF:BANDWIDTH={width}000,RESOLUTION={width}x{height}\n{name}\n"
    (tmp_path / "all.m3u8").write_text(playlist)
    with web(tmp_path) as url:
        frames = taken(LiveSource(f"{url}/all.m3u8", fps=None, size=size))
    assert {min(pixels.shape[:2]) for pixels, _ in frames} == {min(edge, size or edge)}
    assert len(frames) == 50


def test_hls_with_an_end_ends_by_itself(tmp_path: Path) -> None:
    write(HLS, tmp_path / "list.m3u8")
    assert len(list(tmp_path.glob("*.ts"))) > 1
    with web(tmp_path) as url:
        frames = taken(LiveSource(f"{url}/list.m3u8", fps=None))
    assert numbers(frames) == list(range(50))
    np.testing.assert_allclose(times(frames), np.arange(50) / 25, rtol=0, atol=PTS_S)


def test_a_test_picture_has_no_end() -> None:
    source = LiveSource("testsrc=size=64x48:rate=25", fps=None, format="lavfi")
    frames = taken(source, 100)
    np.testing.assert_allclose(times(frames), np.arange(100) / 25, rtol=0, atol=PTS_S)
    assert source.reconnects == 0


def test_a_live_source_that_ends_is_waited_for() -> None:
    source = LiveSource("testsrc=size=64x48:rate=25:duration=0.2", fps=None, format="lavfi")
    assert len(taken(source, 20)) == 20
    assert source.reconnects == 3  # five frames at a time


# -- silence


@pytest.mark.parametrize("scheme", ["tcp", "http", "rtsp", "udp"])
def test_a_source_that_never_answers(scheme: str) -> None:
    kind = socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as server:
        server.bind(("127.0.0.1", 0))
        url = f"{scheme}://127.0.0.1:{server.getsockname()[1]}"
        if scheme == "udp":
            server.close()  # the port is FFmpeg's to listen at
        else:
            server.listen()
        began = time.monotonic()
        with pytest.raises(VideoError, match=r"no answer within 0\.5 s") as caught:
            list(LiveSource(url, deadline_s=DEADLINE_S))
        assert caught.value.code == "deadline"
        assert time.monotonic() - began < 10 * DEADLINE_S


@pytest.fixture
def served(broadcast: Path) -> Iterator[Callable[[int | None], str]]:
    """The URL of a server that sends so many packets to each who connects, and hangs up."""
    server = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def serve(data: bytes) -> None:
        with suppress(OSError):
            while True:
                listener, _ = server.accept()
                with listener:
                    listener.sendall(data)

    def served(packets: int | None) -> str:
        data = broadcast.read_bytes()[: None if packets is None else packets * 188]
        threads.append(threading.Thread(target=serve, args=(data,), daemon=True))
        threads[-1].start()
        return f"tcp://127.0.0.1:{server.getsockname()[1]}"

    yield served
    with suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)  # wakes who accepts
    server.close()
    for thread in threads:
        thread.join(SLACK_S)


@pytest.mark.parametrize("packets", [0, 1, 5])
def test_a_source_that_ends_before_its_first_frame_raises(
    served: Callable[[int | None], str], packets: int
) -> None:
    source = LiveSource(served(packets), deadline_s=2.0)
    try:
        code_of(outcome(lambda: next(iter(source)), within_s=8.0))
    finally:
        source.close()


def test_nobody_there_is_an_error_at_first() -> None:
    with socket.socket() as unused:  # bound, but not listening
        unused.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        assert code_of(outcome(lambda: list(LiveSource(url)))) == "unreadable"


def test_a_source_that_falls_silent_is_connected_anew(broadcast: Path) -> None:
    """It says two seconds' worth and then nothing, but keeps the line open."""
    server = socket.create_server(("127.0.0.1", 0))
    lines: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                listener, _ = server.accept()
                lines.append(listener)
                listener.sendall(2 * broadcast.read_bytes())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    source = LiveSource(f"tcp://127.0.0.1:{server.getsockname()[1]}", fps=None, deadline_s=2.0)
    try:
        frames = outcome(lambda: taken(source, 120))
    finally:
        source.close()
        server.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        server.close()
        thread.join(SLACK_S)
        for line in lines:
            line.close()
    assert isinstance(frames, list), frames
    assert source.reconnects >= 1


# -- standard input and pipes

READER = """
import sys
from vzvideo.errors import VideoError
from vzvideo.live.sources import LiveSource
try:
    for pixels, pts_s in LiveSource("-", fps=None, deadline_s=2.0):
        print(pixels.shape[0], f"{pts_s:.2f}", flush=True)
except VideoError as error:
    print(error.code)
"""


def test_standard_input(broadcast: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", READER],
        input=broadcast.read_bytes(),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.decode().split("\n")[:-1] == [f"48 {i / 25:.2f}" for i in range(50)]


def test_standard_input_that_is_no_video() -> None:
    command = [sys.executable, "-c", READER]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=60, check=True)
    assert done.stdout == b"invalid\n"


def test_a_pipe_ends_with_its_writer(broadcast: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_bytes, args=(broadcast.read_bytes(),), daemon=True).start()
    source = LiveSource(str(pipe), fps=None)
    frames = outcome(lambda: taken(source))
    assert isinstance(frames, list), frames
    assert numbers(frames) == list(range(50))


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """A named pipe; whoever still waits for it at the end of the test is let go."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    yield path
    with suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


def test_a_pipe_nobody_writes_into_has_a_deadline(pipe: Path) -> None:
    assert (
        code_of(outcome(lambda: list(LiveSource(str(pipe), deadline_s=DEADLINE_S)), 8.0))
        == "deadline"
    )


def test_a_pipe_that_falls_silent_has_a_deadline(broadcast: Path, pipe: Path) -> None:
    over = threading.Event()

    def write_and_wait() -> None:
        with suppress(BrokenPipeError), pipe.open("wb") as file:
            file.write(2 * broadcast.read_bytes())
            file.flush()
            over.wait(SLACK_S)

    writer = threading.Thread(target=write_and_wait)
    writer.start()
    try:
        found = outcome(lambda: list(LiveSource(str(pipe), deadline_s=DEADLINE_S)), 8.0)
    finally:
        over.set()
        writer.join()
    assert code_of(found) == "deadline"


# -- close


@pytest.mark.parametrize("speed", [None, 0.001])
def test_closing_from_another_thread_ends_the_iteration(
    broadcast: Path, speed: float | None
) -> None:
    """Whether it is being decoded or waited for."""
    path = str(broadcast) if speed else "testsrc=size=64x48:rate=25"
    source = LiveSource(path, fps=None, speed=speed, format=None if speed else "lavfi")
    shown = []

    def iterate() -> str:
        for _, at_s in source:
            if not shown:
                threading.Timer(0.2, source.close).start()
            shown.append(at_s)
        return "ended"

    assert outcome(iterate) == "ended"
    assert shown


def test_closing_ends_the_wait_for_a_source_that_is_gone(
    served: Callable[[int | None], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_BACKOFF_S", 1000.0)
    monkeypatch.setattr(live, "_LONGEST_BACKOFF_S", 1000.0)
    source = LiveSource(served(None), fps=None)
    frames = []

    def iterate() -> str:
        for frame in source:
            frames.append(frame)
            if len(frames) == 45:
                threading.Timer(0.5, source.close).start()
        return "ended"

    assert outcome(iterate) == "ended"
    assert len(frames) >= 45


def test_a_closed_source_gives_nothing(broadcast: Path) -> None:
    source = LiveSource(str(broadcast))
    source.close()
    assert list(source) == []


def test_an_iteration_left_early_lets_go_of_everything(broadcast: Path) -> None:
    list(LiveSource(str(broadcast)))
    before = resources()
    for _ in range(5):
        frames = iter(LiveSource(str(broadcast), fps=None))
        next(frames)
        frames.close()  # type: ignore[attr-defined]
    assert resources_are_no_more_than(before)


# -- pictures


def grey(level: int, width: int = 640, height: int = 480) -> Pixels:
    return np.full((height, width, 3), level, np.uint8)


def test_shrunk_is_a_copy_that_nobody_else_writes_into() -> None:
    pixels = grey(100)
    for size in (None, 480, 1000):
        copy = downscale(pixels, size)
        assert not np.shares_memory(copy, pixels)
        np.testing.assert_array_equal(copy, pixels)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_shrunk_scales_the_shortest_edge(turns: int) -> None:
    upright = np.repeat(paint(77, 640, 480)[:, :, None], 3, axis=2)
    turned = np.rot90(upright, turns)  # not contiguous
    small = downscale(turned, 48)
    assert small.dtype == np.uint8
    assert small.shape == ((64, 48, 3) if turns % 2 else (48, 64, 3))
    assert number_in(np.rot90(small, -turns)) == 77


@pytest.mark.parametrize("corner", [(0, 0), (0, 630), (470, 0), (470, 630)])
def test_somebody_at_the_far_door_is_noticed(corner: tuple[int, int]) -> None:
    empty, somebody = grey(90), grey(90)
    y, x = corner
    somebody[y : y + 10, x : x + 10] = 220  # a three thousandth of the picture
    assert not is_similar(thumbnail(empty), thumbnail(somebody), 0.02)
    assert not is_similar(thumbnail(somebody), thumbnail(empty), 0.02)


def test_noise_is_not_noticed() -> None:
    random = np.random.default_rng(0)
    one, other = (
        (grey(90) + random.integers(-12, 13, (480, 640, 3))).astype(np.uint8) for _ in range(2)
    )
    assert np.abs(one.astype(int) - other).max() > 20
    assert is_similar(thumbnail(one), thumbnail(other), 0.02)
    assert is_similar(thumbnail(one), thumbnail(one), 0.0)


def test_black_and_white_differ_by_all_there_is() -> None:
    black, white = thumbnail(grey(0)), thumbnail(grey(255))
    assert black.shape == (32, 32, 3)
    assert is_similar(black, white, 1.0)
    assert not is_similar(black, white, 0.99)


def test_whoever_takes_his_time_is_not_taken_for_a_silent_source(broadcast: Path) -> None:
    times = []
    for _, at_s in LiveSource(str(broadcast), fps=2.0, deadline_s=0.2):
        times.append(at_s)
        time.sleep(0.3)
    assert len(times) >= 3


def test_a_file_of_a_named_format_ends_once(broadcast: Path) -> None:
    named = LiveSource(str(broadcast), fps=None, format="mpegts")
    assert [at_s for _, at_s in named] == [at_s for _, at_s in LiveSource(str(broadcast), fps=None)]
    assert named.reconnects == 0
