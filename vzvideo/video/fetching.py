"""What a web server is asked for, patiently where it has too much to do.

And a copy of what it gives only from its beginning, in a temporary file of bounded size: for videos
whose index lies at their end, on servers that know no byte ranges.
"""

from __future__ import annotations

import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

from vzvideo.errors import VideoError

MOST_BYTES = 2 * 2**30
# Called with the bytes that have come, and how many there will be where the server says so.
OnFetch = Callable[[int, int | None], None]
_CHUNK_BYTES = 2**20
_BUSY = (429, 502, 503, 504)  # statuses that may pass by themselves


def retry_options(source: str, deadline_s: float) -> dict[str, str]:
    """FFmpeg's options for `source`: a web server that is busy is asked again.

    That is at once, then in 1, 3, 7, ... seconds, or when its Retry-After says, for as long as it
    leaves FFmpeg time to say how that ended before `deadline_s` has passed.
    """
    if not is_web(source):
        return {}
    longest_s, together_s = _patience(deadline_s)
    return {
        "reconnect_on_http_error": ",".join(str(status) for status in _BUSY),
        "reconnect_delay_max": str(longest_s),
        "reconnect_delay_total_max": str(together_s),
    }


def is_web(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def busy(source: str, error: BaseException) -> VideoError | None:
    """What is said of a server that stays busy; None where an error is another."""
    if not isinstance(error, urllib.error.HTTPError) or error.code not in _BUSY:
        return None
    wait = error.headers.get("Retry-After")
    when = f"try again later ({wait} s, it says)" if _length(wait) else "try again later"
    return VideoError(
        f"{source}: the server was asked more than once and answers {error.code} {error.reason}: "
        f"{when}",
        code="unavailable",
    )


def _patience(deadline_s: float) -> tuple[int, int]:
    """The longest pause, and how long all may be before the last, in seconds."""
    return int(deadline_s / 3), int(deadline_s / 2)


def _ask(request: urllib.request.Request | str, deadline_s: float) -> Any:
    """An answer as of `urlopen`; a server that is busy is asked again, as FFmpeg does it."""
    longest_s, together_s = _patience(deadline_s)
    pause_s = waited_s = 0
    while True:
        try:
            return urllib.request.urlopen(request, timeout=deadline_s)
        except urllib.error.HTTPError as error:
            pause_s = _length(error.headers.get("Retry-After")) or pause_s
            if error.code not in _BUSY or pause_s > longest_s or waited_s > together_s:
                raise
            error.close()
        time.sleep(pause_s)
        waited_s, pause_s = waited_s + pause_s, 1 + 2 * pause_s


def serves_ranges(url: str, deadline_s: float) -> bool:
    """Whether a server gives parts of a file; True where that cannot be found out."""
    request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})
    try:
        with _ask(request, deadline_s) as answer:
            return bool(answer.status == 206)
    except (OSError, ValueError, HTTPException):
        return True


def fetch(url: str, deadline_s: float, on_fetch: OnFetch | None = None) -> Path:
    """A temporary file with what lies at `url`; whoever asked for it removes it.

    Raises VideoError where that is more than MOST_BYTES, or the server stays busy, or silent for
    longer than `deadline_s`.
    """
    handle, name = tempfile.mkstemp(prefix="vzvideo-", suffix=Path(url.partition("?")[0]).suffix)
    path = Path(name)
    try:
        with (
            os.fdopen(handle, "wb") as file,
            _ask(url, deadline_s) as answer,
        ):
            total = _length(answer.headers.get("Content-Length"))
            _check_room(url, total or 0)
            fetched = 0
            while chunk := answer.read(_CHUNK_BYTES):
                fetched += len(chunk)
                _check_room(url, fetched)
                file.write(chunk)
                if on_fetch is not None:
                    on_fetch(fetched, total)
    except BaseException as error:
        with suppress(OSError):
            path.unlink()
        if refused := busy(url, error):
            raise refused from None
        if isinstance(error, TimeoutError):
            raise VideoError(f"{url}: no answer within {deadline_s:g} s", code="deadline") from None
        if isinstance(error, (OSError, ValueError, HTTPException)):
            line = " ".join(str(error).split()) or type(error).__name__
            raise VideoError(f"{url}: {line}", code="unreadable") from None
        raise
    return path


def _length(header: str | None) -> int | None:
    return int(header) if header is not None and header.isdecimal() else None


def _check_room(url: str, size: int) -> None:
    if size > MOST_BYTES:
        raise VideoError(
            f"{url}: the server ignores byte ranges, and the file is larger than "
            f"{MOST_BYTES / 2**30:.3g} GiB, which is the most that is fetched: download it, give "
            "the file",
            code="no_ranges",
        )
