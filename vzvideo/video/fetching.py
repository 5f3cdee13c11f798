"""A copy of what a server gives only from its beginning, in a temporary file of bounded size.

For videos whose index lies at their end, on servers that know no byte ranges.
"""

from __future__ import annotations

import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

from vzvideo.errors import VideoError

MOST_BYTES = 2 * 2**30
# Called with the bytes that have come, and how many there will be where the server says so.
OnFetch = Callable[[int, int | None], None]
_CHUNK_BYTES = 2**20


def serves_ranges(url: str, deadline_s: float) -> bool:
    """Whether a server gives parts of a file; True where that cannot be found out."""
    request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})
    try:
        with urllib.request.urlopen(request, timeout=deadline_s) as answer:
            return bool(answer.status == 206)
    except (OSError, ValueError, HTTPException):
        return True


def fetch(url: str, deadline_s: float, on_fetch: OnFetch | None = None) -> Path:
    """A temporary file with what lies at `url`; whoever asked for it removes it.

    Raises VideoError where that is more than MOST_BYTES, or the server stays silent for longer than
    `deadline_s`.
    """
    handle, name = tempfile.mkstemp(prefix="vzvideo-", suffix=Path(url.partition("?")[0]).suffix)
    path = Path(name)
    try:
        with (
            os.fdopen(handle, "wb") as file,
            urllib.request.urlopen(url, timeout=deadline_s) as answer,
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
