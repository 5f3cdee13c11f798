"""Decoding in a child: the same frames, and whatever a video does, an error and not the end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

import numpy as np
import psutil
import pytest

from tests.video.clips import KINDS, number_in, write_sound
from tests.video.test_trouble import damaged_packet
from vzvideo.config import Settings
from vzvideo.errors import VzVideoError
from vzvideo.types import FrameBatch
from vzvideo.video import open_video
from vzvideo.video.child import Child, Died
from vzvideo.video.frames import frames_of
from vzvideo.video.guarded import Guard, GuardedDecoder

BY_NAME = {str(kind): kind for kind in KINDS}
PATIENT = Settings(deadline_s=60)  # who waits for a silent server for longer than any test
SLACK_S = 30.0  # for starting processes on a busy machine


@pytest.fixture(scope="module")
def decoder() -> Iterator[GuardedDecoder]:
    """One for all that does not end it."""
    decoder = GuardedDecoder(Guard(memory_gib=1.0))
    yield decoder
    decoder.close()


@pytest.fixture
def fresh(request: pytest.FixtureRequest) -> Iterator[Callable[..., GuardedDecoder]]:
    made: list[GuardedDecoder] = []

    def fresh(**guard: float) -> GuardedDecoder:
        made.append(GuardedDecoder(Guard(**guard)))  # type: ignore[arg-type]
        return made[-1]

    yield fresh
    for decoder in made:
        decoder.close()


def made(folder: Path, name: str) -> Path:
    kind = BY_NAME[name]
    kind.make(kind, folder / name)
    return folder / name


def children(pid: int | None = None) -> set[psutil.Process]:
    """The decoding processes below one."""
    return {
        process
        for process in psutil.Process(pid).children(recursive=True)
        if any(word.startswith("vzvideo.video.") for word in process.cmdline())
    }


def ends(process: psutil.Process, within_s: float) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def raised(call: Callable[[], object]) -> VzVideoError:
    with pytest.raises(VzVideoError) as caught:
        call()
    return caught.value


def numbers(batches: list[FrameBatch]) -> list[int]:
    return [number_in(pixels) for batch in batches for pixels in batch.pixels]


@contextmanager
def server(
    monkeypatch: pytest.MonkeyPatch, each: Callable[[socket.socket], None] = lambda connection: None
) -> Iterator[str]:
    """The URL of a video whose server accepts, calls `each`, and says nothing by itself."""
    monkeypatch.setenv("no_proxy", "*")
    held: list[socket.socket] = []

    def accept() -> None:
        with suppress(OSError):
            while True:
                held.append(listening.accept()[0])
                each(held[-1])

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/x.mp4"
        listening.shutdown(socket.SHUT_RDWR)
    for connection in held:
        connection.close()


# -- the same as without it


@pytest.mark.parametrize(
    "settings",
    [
        Settings(batch=3),
        Settings(batch=8, start_s=1.0, end_s=2.05),
        Settings(batch=4).replace(fps=2.0),
        Settings(sampling="keyframes"),
        Settings(sampling="scenes", batch=1),
    ],
    ids=["uniform", "part", "fps", "keyframes", "scenes"],
)
@pytest.mark.parametrize("name", ["open GOP.ts", "variable.mkv", "turned 90.mp4"])
def test_frames_are_those_of_the_same_process(
    tmp_path: Path, decoder: GuardedDecoder, name: str, settings: Settings
) -> None:
    path = str(made(tmp_path, name))
    with frames_of(path, settings, 20, 40) as frames:
        expected = list(frames.batches)
    batches = decoder.decode(path, settings, 20, 40)
    assert sum(batch.asked for batch in batches) == frames.asked > 0
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert min(batch.pixels.shape[1:3]) == 40
        np.testing.assert_array_equal(batch.pixels, other.pixels)
        np.testing.assert_array_equal(batch.pts_s, other.pts_s)
        assert (batch.source, batch.asked, batch.lost) == (path, other.asked, other.lost)


def test_the_chosen_frames_are_spread_over_the_part(
    tmp_path: Path, decoder: GuardedDecoder
) -> None:
    path = str(made(tmp_path, "short GOP.mp4"))  # 10 a second, each with its number
    assert numbers(decoder.decode(path, Settings().replace(fps=1.0), 9, 48)) == [
        0, 10, 20, 30, 40, 50,
    ]  # fmt: skip
    part = Settings(start_s=2.0, end_s=3.0)
    seen = numbers(decoder.decode(path, part, 10, 48))
    assert seen == sorted(set(seen))
    assert set(seen) <= set(range(20, 30))
    assert len(seen) >= 9


def test_damage_is_counted(tmp_path: Path, decoder: GuardedDecoder) -> None:
    path = made(tmp_path, "short GOP.mp4")
    path.write_bytes(damaged_packet(path, 20))
    assert sum(batch.lost for batch in decoder.decode(str(path), Settings(), 60, 48)) > 0


@pytest.mark.parametrize("name", ["29.97.mkv", "turned 270.mp4", "variable.mp4", "late.mkv"])
def test_a_description_is_that_of_open_video(
    tmp_path: Path, decoder: GuardedDecoder, name: str
) -> None:
    path = str(made(tmp_path, name))
    with open_video(path) as video:
        assert decoder.describe(path, Settings()) == video.info


def test_errors_come_through_as_they_are(tmp_path: Path, decoder: GuardedDecoder) -> None:
    good = made(tmp_path, "one frame.mp4")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("All work and no play makes Jack a dull boy.\n" * 100)
    write_sound(tmp_path / "sound.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    codes = set()
    for name in ("none.mp4", ".", "empty.mp4", "text.mp4", "sound.mp4", "pipe.mp4"):
        source = str(tmp_path / name)
        expected = raised(lambda source=source: open_video(source))
        for error in (
            raised(lambda source=source: decoder.decode(source, Settings(), 4, 48)),
            raised(lambda source=source: decoder.describe(source, Settings())),
        ):
            assert (type(error), str(error)) == (type(expected), str(expected))
            assert error.code == expected.code
        codes.add(expected.code)
        assert len(decoder.decode(str(good), Settings(), 4, 48)) == 1  # the child lives on
    assert codes == {"not_found", "folder", "empty", "invalid", "no_video", "unreadable"}


def test_settings_that_do_not_suit_a_video_are_told(
    tmp_path: Path, decoder: GuardedDecoder
) -> None:
    path = str(made(tmp_path, "short GOP.mp4"))
    for settings, told in (
        (Settings(frames=8).replace(fps=10.0), "8 are allowed: choose at most 1.33 a second"),
        (Settings().replace(fps=10.0), "8 fit the model's window"),
        (Settings(start_s=7.0), "the clip from 7 s"),
    ):

        def here(settings: Settings = settings) -> None:
            with frames_of(path, settings, 8, 48):
                pass

        expected = raised(here)
        error = raised(lambda settings=settings: decoder.decode(path, settings, 8, 48))
        assert told in str(error)
        assert (type(error), str(error), error.code) == (
            type(expected), str(expected), expected.code,
        )  # fmt: skip


# -- what harms the child


def test_a_child_that_was_killed_is_replaced_silently(
    tmp_path: Path, fresh: Callable[..., GuardedDecoder]
) -> None:
    path, decoder, before = str(made(tmp_path, "short GOP.mp4")), fresh(tries=1), children()
    pids = set()
    for _ in range(3):
        assert len(numbers(decoder.decode(path, Settings(), 5, 48))) == 5
        (child,) = children() - before
        pids.add(child.pid)
        child.kill()
        child.wait()
    assert len(pids) == 3


def test_one_child_serves_many_videos(tmp_path: Path, fresh: Callable[..., GuardedDecoder]) -> None:
    path, decoder, before = str(made(tmp_path, "short GOP.mp4")), fresh(), children()
    decoder.decode(path, Settings(), 5, 48)
    first = children() - before
    decoder.describe(path, Settings())
    decoder.decode(path, Settings(), 5, 48)
    assert children() - before == first
    assert len(first) == 1


def test_a_video_that_hangs_is_given_up(
    monkeypatch: pytest.MonkeyPatch, fresh: Callable[..., GuardedDecoder]
) -> None:
    decoder, before = fresh(deadline_s=2, tries=2), children()
    with server(monkeypatch) as url:
        began = time.monotonic()
        error = raised(lambda: decoder.decode(url, PATIENT, 4, 48))
        assert 4 <= time.monotonic() - began < 4 + SLACK_S
    assert error.code == "deadline"
    assert str(error) == f"{url}: not decoded within 2 s, tried 2 times"
    assert children() == before


def test_a_video_that_kills_the_child_is_tried_and_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: Callable[..., GuardedDecoder]
) -> None:
    decoder, before = fresh(tries=3, deadline_s=60), children()
    killed: list[int] = []

    def kill(_: socket.socket) -> None:
        (child,) = children() - before
        killed.append(child.pid)
        child.kill()

    with server(monkeypatch, kill) as url:
        error = raised(lambda: decoder.decode(url, PATIENT, 4, 48))
    assert error.code == "crashed"
    assert str(error) == f"{url}: its decoding killed the process (status -9), tried 3 times"
    assert len(set(killed)) == len(killed) == 3
    path = str(made(tmp_path, "short GOP.mp4"))
    assert len(numbers(decoder.decode(path, Settings(), 5, 48))) == 5  # and on it goes


def test_a_child_that_dies_once_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: Callable[..., GuardedDecoder]
) -> None:
    content = made(tmp_path, "live.mkv").read_bytes()
    decoder, before = fresh(), children()
    connections: list[socket.socket] = []

    def kill_or_serve(connection: socket.socket) -> None:
        connections.append(connection)
        if len(connections) == 1:
            (child,) = children() - before
            child.kill()
        else:
            connection.recv(1 << 16)
            with suppress(OSError):
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + content)
            connection.close()

    with server(monkeypatch, kill_or_serve) as url:
        batches = decoder.decode(url, Settings(end_s=0.05), 1, 48)
    assert numbers(batches) == [0]
    assert len(connections) >= 2


def test_an_interrupted_call_leaves_no_answer_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: Callable[..., GuardedDecoder]
) -> None:
    path, decoder = str(made(tmp_path, "short GOP.mp4")), fresh()
    hanging: list[socket.socket] = []

    def interrupt(connection: socket.socket) -> None:
        hanging.append(connection)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGUSR1, stop)
    try:
        with server(monkeypatch, interrupt) as url:
            with pytest.raises(KeyboardInterrupt):
                decoder.decode(url, PATIENT, 4, 48)
            hanging[0].shutdown(socket.SHUT_RDWR)  # now the child has its answer: an error
            assert {batch.source for batch in decoder.decode(path, Settings(), 5, 48)} == {path}
    finally:
        signal.signal(signal.SIGUSR1, former)


# -- memory


def gigantic(folder: Path, width: int, height: int, frames: int = 6) -> str:
    """A GIF of a kilobyte whose every picture is as large as it says."""
    kind, path = replace(BY_NAME["gif.gif"], frames=frames), folder / "gigantic.gif"
    kind.make(kind, path)
    content = bytearray(path.read_bytes())
    content[6:10] = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(16000, 16000, 48), (7680, 4320, 4320)],
    ids=["in the decoder", "in conversion"],
)
def test_a_video_too_large_for_the_limit_is_an_error_and_the_next_one_is_none(
    tmp_path: Path, decoder: GuardedDecoder, width: int, height: int, size: int
) -> None:
    path = gigantic(tmp_path, width, height)
    error = raised(lambda: decoder.decode(path, Settings(batch=6), 6, size))
    assert str(error).startswith(f"{path}: ")
    assert "\n" not in str(error)
    good = str(made(tmp_path, "short GOP.mp4"))
    assert len(numbers(decoder.decode(good, Settings(), 5, 48))) == 5


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(16000, 16000, 48), (11000, 11000, 48), (7680, 4320, 4320)],
    ids=["at the first frame", "at a later one", "in conversion"],
)
def test_want_of_memory_is_called_so(
    tmp_path: Path, decoder: GuardedDecoder, width: int, height: int, size: int
) -> None:
    path = gigantic(tmp_path, width, height, frames=2 if width == 11000 else 6)
    error = raised(lambda: decoder.decode(path, Settings(batch=6), 6, size))
    assert error.code == "memory"
    assert "more than 1 GiB" in str(error)


# -- the end


def test_close_leaves_no_process_behind(
    tmp_path: Path, fresh: Callable[..., GuardedDecoder]
) -> None:
    path, decoder, before = str(made(tmp_path, "one frame.mp4")), fresh(), children()
    decoder.describe(path, Settings())
    (child,) = children() - before
    decoder.close()
    assert not child.is_running()
    decoder.close()  # a second time does no harm
    decoder.describe(path, Settings())  # and it can be used again
    (child,) = children() - before
    del decoder
    fresh.__closure__[0].cell_contents.clear()  # type: ignore[index]
    assert ends(child, SLACK_S)


def test_decord_goes_with_its_parent(tmp_path: Path, fresh: Callable[..., GuardedDecoder]) -> None:
    pytest.importorskip("decord", reason="decord, which is optional, is not installed")
    path, decoder, before = str(made(tmp_path, "short GOP.mp4")), fresh(), children()
    decord, pyav = (
        decoder.decode(path, Settings(decoder=name), 5, 48)  # type: ignore[arg-type]
        for name in ("decord", "pyav")
    )
    assert numbers(decord) == numbers(pyav)
    below = children() - before
    decoder.close()
    assert all(ends(process, SLACK_S) for process in below)


PARENT = """
import sys, time
from vzvideo.config import Settings
from vzvideo.video.guarded import GuardedDecoder
if __name__ == "__main__":
    decoder = GuardedDecoder()
    decoder.describe(sys.argv[1], Settings(deadline_s=60))
    print("described", flush=True)
    time.sleep(600)
"""


@contextmanager
def parent_of(source: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that asks a decoder to describe `source`, and waits."""
    command = [sys.executable, "-c", PARENT, source]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        try:
            yield parent
        finally:
            parent.kill()


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    with parent_of(str(made(tmp_path, "one frame.mp4"))) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"described\n"
        (child,) = children(parent.pid)
        parent.kill()
        assert ends(child, SLACK_S)


def test_a_child_that_hangs_ends_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    connected = threading.Event()
    with (
        server(monkeypatch, lambda connection: connected.set()) as url,
        parent_of(url) as parent,
    ):
        assert connected.wait(2 * SLACK_S)
        (child,) = children(parent.pid)
        parent.kill()
        try:
            assert ends(child, 4.0)
        finally:
            with suppress(psutil.NoSuchProcess):
                child.kill()


# -- a child of whatever module


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Child]]:
    """Starts children whose answers the given lines make out of `request`."""
    monkeypatch.syspath_prepend(tmp_path)
    started: list[Child] = []

    def child(*lines: str, arguments: tuple[str, ...] = ()) -> Child:
        body = "\n".join(f"    {line}" for line in lines)
        code = f"import os, sys, time\nfrom vzvideo.video.child import serve\n\
def answer(request):\n{body}\nserve(answer)\n"
        name = f"made_child_{len(started)}"
        (tmp_path / f"{name}.py").write_text(code)
        started.append(Child(name, arguments))
        return started[-1]

    yield child
    for each in started:
        each.close()


def test_a_child_answers_in_turn(child: Callable[..., Child]) -> None:
    asked = child("return request, sys.argv[1:], os.getpid()", arguments=("x", "y z"))
    first = asked.ask("one", SLACK_S)
    assert first[:2] == ("one", ["x", "y z"])
    large = np.arange(1_000_000)
    again, _, pid = asked.ask(large, SLACK_S)
    np.testing.assert_array_equal(again, large)
    assert pid == first[2] != os.getpid()


def test_what_a_library_prints_is_no_answer(child: Callable[..., Child]) -> None:
    noisy = child("print('noise', flush=True)", "os.write(1, b'noise')", "return request + 1")
    assert [noisy.ask(n, SLACK_S) for n in range(3)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("os._exit(3)", 3),
        ("os.abort()", -6),
        ("raise ValueError('meant to be raised')", 1),
    ],
)
def test_a_death_is_told_with_its_status(
    child: Callable[..., Child], line: str, status: int
) -> None:
    dying = child(line)
    with pytest.raises(Died) as caught:
        dying.ask(None, SLACK_S)
    assert (caught.value.late, caught.value.status) == (False, status)
    assert not dying.alive
    with pytest.raises(Died):
        dying.ask(None, SLACK_S)


def test_a_late_child_is_gone(child: Callable[..., Child]) -> None:
    slow = child("time.sleep(request)", "return request")
    assert slow.ask(0, SLACK_S) == 0
    assert slow.alive
    with pytest.raises(Died) as caught:
        slow.ask(300, 0.2)
    assert caught.value.late
    assert not slow.alive


def test_a_child_does_not_hear_ctrl_c(child: Callable[..., Child]) -> None:
    asked = child("os.kill(os.getpid(), 2)", "return 'alive'")
    assert asked.ask(None, SLACK_S) == "alive"


def test_modules_of_the_working_folder_are_not_taken_for_others(
    child: Callable[..., Child], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "colorsys.py").write_text("raise RuntimeError('of the user')")
    monkeypatch.chdir(tmp_path / "here")
    asked = child("import colorsys", "return 'found'")
    assert asked.ask(None, SLACK_S) == "found"


def test_the_child_needs_neither_torch_nor_typer() -> None:
    code = """if 1:
        import runpy, sys
        sys.argv[1:] = ["4.0", "1"]
        runpy.run_module("vzvideo.video.guarded", run_name="__main__", alter_sys=True)
        heavy = {"torch", "typer", "transformers", "pyarrow", "ray"} & set(sys.modules)
        sys.exit(f"loaded: {heavy}" if heavy else 0)
    """
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=100)
    assert done.returncode == 0
