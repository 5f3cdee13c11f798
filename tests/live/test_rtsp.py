"""A camera of the real kind, GStreamer's RTSP server, that is killed and comes back."""

from __future__ import annotations

import itertools
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.live.test_sources import resources, resources_are_no_more_than
from vzvideo.errors import VideoError
from vzvideo.live import sources as live
from vzvideo.live.sources import LiveSource

PYTHON = "/usr/bin/python3"  # the system's own, for which GStreamer's bindings are installed
SERVER = """
import sys
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
for needed in ("videotestsrc", "x264enc", "rtph264pay"):
    assert Gst.ElementFactory.find(needed), needed
if len(sys.argv) > 1:
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=sys.argv[1])
    factory = GstRtspServer.RTSPMediaFactory(shared=True)
    factory.set_launch(
        "( videotestsrc is-live=true ! video/x-raw,width=320,height=240,framerate=15/1 "
        "! x264enc tune=zerolatency key-int-max=15 speed-preset=ultrafast threads=1 "
        "! rtph264pay name=pay0 pt=96 )"
    )
    server.get_mount_points().add_factory("/camera", factory)
    assert server.attach(None)
    print("ready", flush=True)
    GLib.MainLoop().run()
"""
KILLED = 3
SLACK_S = 30.0  # on a busy machine


def missing() -> str:
    """Why there can be no such server here; empty where there can."""
    if not Path(PYTHON).exists():
        return f"there is no {PYTHON}"
    try:
        done = subprocess.run([PYTHON, "-c", SERVER], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return "GStreamer does not answer"
    lines = done.stderr.strip().splitlines() or ["it fails"]
    return lines[-1] if done.returncode else ""


class Camera:
    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"rtsp://127.0.0.1:{self._port}/camera"
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [PYTHON, "-c", SERVER, str(self._port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Iterator[Camera]:
    if reason := missing():
        pytest.skip(f"no RTSP server (gir1.2-gst-rtsp-server-1.0, python3-gi): {reason}")
    monkeypatch.setattr(live, "_BACKOFF_S", 0.1)
    monkeypatch.setattr(live, "_LONGEST_BACKOFF_S", 0.2)
    camera = Camera()
    yield camera
    camera.kill()


def test_a_camera_that_is_killed_comes_back(camera: Camera) -> None:
    list(
        itertools.islice(LiveSource(camera.url), 1)
    )  # whatever is opened once and for all is open now
    before = resources()
    source = LiveSource(camera.url, fps=None, deadline_s=SLACK_S)
    late = threading.Timer((KILLED + 1) * SLACK_S, source.close)
    late.start()
    times, held, killed_at, since = [], [], -1, 0
    for pixels, at_s in source:
        assert pixels.shape == (240, 320, 3)
        assert pixels.std() > 10  # bars, and no grey of a picture that never came
        times.append(at_s)
        if source.reconnects == killed_at:  # what had come before it was killed
            continue
        since += 1
        if since == 10:
            held.append(resources())
            if len(held) > KILLED:
                break
            killed_at, since = source.reconnects, 0
            camera.kill()
            camera.start()
    late.cancel()
    assert len(held) == KILLED + 1
    assert (np.diff(times) > 0).all()
    assert source.reconnects >= KILLED
    assert all(fds <= held[0][0] and threads <= held[0][1] for fds, threads in held)
    late.join()
    assert resources_are_no_more_than(before)


def test_a_camera_that_freezes_and_is_replaced(camera: Camera) -> None:
    """It keeps the line open and says nothing, as does one that has lost its power."""
    source = LiveSource(camera.url, fps=None, deadline_s=2.0)
    late = threading.Timer(2 * SLACK_S, source.close)
    late.start()
    times, since = [], 0
    for _, at_s in source:
        times.append(at_s)
        if len(times) == 10:
            camera.freeze()
            replaced = threading.Timer(3.0, lambda: (camera.kill(), camera.start()))
            replaced.start()
        since += source.reconnects > 0  # and not of those that had come before
        if since == 10:
            break
    late.cancel()
    assert since == 10
    replaced.join()
    assert (np.diff(times) > 0).all()
    assert np.diff(times).max() >= 2.0  # the wall has told for how long


def test_a_path_that_is_not_there_is_an_error(camera: Camera) -> None:
    with pytest.raises(VideoError, match="404"):
        list(LiveSource(camera.url.replace("camera", "kitchen"), deadline_s=SLACK_S))
