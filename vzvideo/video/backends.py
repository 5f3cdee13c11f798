"""Opens a video: PyAV by default, decord, in a process of its own, where it is asked for."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from vzvideo.errors import SettingsError
from vzvideo.video.base import Video, check_file

if TYPE_CHECKING:
    from vzvideo.video.fetching import OnFetch

DECODERS = ("pyav", "decord")


def open_video(
    source: str | Path,
    *,
    decoder: str = "pyav",
    size: int | None = None,
    deadline_s: float = 30.0,
    threads: int = 0,
    hwaccel: str | None = None,
    deinterlace: bool = True,
    tone_map: bool = True,
    on_fetch: OnFetch | None = None,
) -> Video:
    """Opens a file, an http(s) URL, or anything else PyAV opens.

    Args:
        decoder: "pyav" or "decord".
        size: shortest edge, in pixels, to which larger frames are scaled as they are decoded.
        deadline_s: how long a server may stay silent, and how long decord may take for a frame.
        threads: how many PyAV decodes with; 0 for as many as suit the machine. In a local file
            with an index (MP4, MOV), frames far apart are read by several readers that share
            these threads, eight at most.
        hwaccel: a device that PyAV may decode on ("cuda", "videotoolbox", ...); what that device
            cannot decode, the processor does.
        deinterlace: make whole pictures of interlaced ones.
        tone_map: show PQ and HLG (high dynamic range) as an ordinary screen does. decord does
            neither, and refuses what would need it unless it is switched off.
        on_fetch: told how far a video is, in bytes, and of how many if that is known, which is
            fetched to a temporary file (of 2 GiB at most), for its index lies at its end and its
            server knows no byte ranges.

    Raises VideoError in one line for whatever is not a readable video.
    """
    if decoder not in DECODERS:
        raise SettingsError(f"decoder: {decoder!r} given, choose {' or '.join(DECODERS)}")
    if size is not None and size < 1:
        raise SettingsError(f"size: {size} given, a number of pixels is needed")
    if not 0 < deadline_s < math.inf:
        raise SettingsError(f"deadline_s: {deadline_s:g} given, seconds above 0 are needed")
    name = os.fspath(source)
    if "://" not in name:
        check_file(Path(name))
    if decoder == "decord":
        if hwaccel:
            raise SettingsError("hwaccel: is for decoder pyav")
        from vzvideo.video.decord import DecordVideo

        return DecordVideo(name, size, deadline_s, deinterlace=deinterlace, tone_map=tone_map)
    from vzvideo.video.pyav.reader import PyAVVideo

    return PyAVVideo(
        name,
        size,
        deadline_s,
        threads,
        hwaccel,
        deinterlace=deinterlace,
        tone_map=tone_map,
        on_fetch=on_fetch,
    )
