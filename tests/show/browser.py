"""A Chromium without a window, spoken to in its own protocol over two pipes.

Needs no driver, no port and no package. Every read has a deadline, so that nothing here can hang.
"""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
KEYS = {
    "Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "End": 35, "Home": 36,
    "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
}  # fmt: skip
_DEADLINE_S = 60.0  # a busy machine starts a browser slowly
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip

Message = dict[str, Any]


def installed() -> str | None:
    """The browser's path, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page. `events` holds what the browser told unasked since the last `open`."""

    def __init__(self, program: str, width: int = 1280, height: int = 1000) -> None:
        self.events: list[Message] = []
        self._numbers, self._read = itertools.count(1), b""
        self._session: str | None = None
        self._folder = tempfile.mkdtemp(prefix="browser-")
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # The browser wants to find them at 3 and 4, where this process may have something else.
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", f'exec "$@" 3<&{high[0]} 4>&{high[1]}', "bash", program, *_FLAGS,
             f"--user-data-dir={self._folder}", f"--window-size={width},{height}"],
            pass_fds=high, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        for end in (*high, theirs_in, theirs_out):
            os.close(end)
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the browser, its children and its folder."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        # Its children may still be writing for a moment.
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- the protocol

    def call(self, method: str, **params: Any) -> Any:
        number = next(self._numbers)
        asked: Message = {"id": number, "method": method, "params": params}
        if self._session:
            asked["sessionId"] = self._session
        os.write(self._out, json.dumps(asked).encode() + b"\0")
        deadline = time.monotonic() + _DEADLINE_S
        while (told := self._next(deadline)).get("id") != number:
            self.events.append(told)
        if "error" in told:
            raise RuntimeError(f"{method}: {told['error']['message']}")
        return told["result"]

    def _next(self, deadline: float) -> Message:
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError("the browser says nothing")
            more = os.read(self._in, 1 << 20)
            if not more:
                raise EOFError("the browser has ended")
            self._read += more
        message, _, self._read = self._read.partition(b"\0")
        told: Message = json.loads(message)
        return told

    # -- a page

    def open(self, path: Path) -> None:
        """Opens a file, waits until it is loaded and its pictures are drawn."""
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        deadline = time.monotonic() + _DEADLINE_S
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next(deadline))
        self.settle()

    def settle(self) -> None:
        """Waits until what was begun has been drawn."""
        self.js(
            "(async () => { for (let n = 0; n < 3; n++) await new Promise(go =>"
            " requestAnimationFrame(() => setTimeout(go, 20))); })()"
        )

    def js(self, code: str) -> Any:
        """What an expression comes to in the page, awaited where it is a promise."""
        done = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise RuntimeError(str(done["exceptionDetails"]))
        return done["result"].get("value")

    def press(self, key: str, times: int = 1) -> None:
        """A real key, as the keyboard sends it."""
        about: Message = {"key": key, "code": "Space" if key == " " else key}
        about["windowsVirtualKeyCode"] = KEYS[key]
        for _ in range(times):
            text = {"Enter": "\r", " ": " "}.get(key)
            self.call(
                "Input.dispatchKeyEvent",
                type="keyDown",
                **about,
                **({"text": text} if text else {}),
            )
            self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def move(self, x: float, y: float) -> None:
        """The mouse to a place, in pixels of the window."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self.settle()

    def scheme(self, name: str) -> None:
        """ "light" or "dark", as the system would say."""
        feature = {"name": "prefers-color-scheme", "value": name}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        self.settle()

    def named(self) -> list[tuple[str, str]]:
        """Role and name of everything that assistive technology is told of."""
        found = []
        for node in self.call("Accessibility.getFullAXTree")["nodes"]:
            if not node.get("ignored"):
                role, name = (node.get(part, {}).get("value", "") for part in ("role", "name"))
                found.append((role, name))
        return found

    def shot(self, path: Path, whole: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))

    @property
    def complaints(self) -> list[Message]:
        """Console messages, log entries and uncaught exceptions since the page was opened."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event for event in self.events if event["method"] in kinds]

    @property
    def requests(self) -> list[str]:
        """Addresses asked for since the page was opened; what the page itself holds is none."""
        urls = [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith("data:")]
