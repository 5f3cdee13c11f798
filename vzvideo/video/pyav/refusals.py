"""Why FFmpeg makes nothing of a file, as far as its first bytes tell. Decodes nothing."""

from __future__ import annotations

import re
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from vzvideo.errors import VideoError
from vzvideo.video.fetching import busy, is_web

_HEAD_BYTES = 2**16
_TAIL_BYTES = 2**20  # MP4 may have its headers there
_DASH = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?.*?\?>\s*|<!--.*?-->\s*)*<MPD\b", re.S)
_UNEXPLAINED = {"invalid", "no_frames", "unreadable"}


class Refusal(NamedTuple):
    """What is wrong, in words that follow the file's name; and its code."""

    reason: str
    code: str


def explained(error: VideoError, source: str, path: Path | None, deadline_s: float) -> VideoError:
    """An error that says why a source cannot be read, if one can be told; else `error`.

    path: of a local file; None where only a server has it.
    """
    if error.code not in _UNEXPLAINED:
        return error
    try:
        refusal = reason_for(_ends(source, path, deadline_s))
    except (OSError, ValueError, HTTPException) as failed:
        return busy(source, failed) or error
    return VideoError(f"{source}: {refusal.reason}", code=refusal.code) if refusal else error


def _ends(source: str, path: Path | None, deadline_s: float) -> bytes:
    """The first bytes of a source, and of a file the last, too."""
    if path is None:
        if not is_web(source):
            return b""
        with urllib.request.urlopen(source, timeout=deadline_s) as answer:
            return bytes(answer.read(_HEAD_BYTES))
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        file.seek(max(len(head), path.stat().st_size - _TAIL_BYTES))
        return head + file.read()


def reason_for(head: bytes) -> Refusal | None:
    """What a file is that begins (and ends) with `head`, where that is why it cannot be read."""
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) > 20 and head[20] & 2:
        return Refusal(
            "an animated WebP, for which FFmpeg has no decoder: convert it to GIF or MP4",
            "no_decoder",
        )
    if re.match(
        rb"\s*(?:\xef\xbb\xbf)?\s*<(?:\?xml.*?\?>\s*(?:<!--.*?-->\s*)*<)?MPD\b", head, re.S
    ):
        return Refusal(
            "a DASH manifest, which this FFmpeg cannot read: give an HLS playlist (.m3u8) or one "
            "of the files it lists",
            "no_decoder",
        )
    if is_encrypted(head):
        return Refusal("its video is encrypted, and there is no key", "encrypted")
    return None


def is_encrypted(head: bytes) -> bool:
    """Whether headers of MP4, Matroska or a playlist of HLS say that the video is encrypted."""
    if head.startswith(b"#EXTM3U"):
        return bool(re.search(rb"#EXT-X-(?:SESSION-)?KEY:[^\n]*METHOD=(?!NONE)", head))
    if head.startswith(b"\x1aE\xdf\xa3"):
        return b"\x50\x35" in head and b"\x47\xe1" in head  # ContentEncryption, its algorithm
    return b"encv" in head and b"sinf" in head and b"schm" in head
