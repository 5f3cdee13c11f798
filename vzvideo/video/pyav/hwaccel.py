"""Decoding on a device, where FFmpeg knows it and it is there."""

from __future__ import annotations

from functools import cache

import av
from av.codec.hwaccel import HWAccel, hwdevices_available

from vzvideo.errors import SettingsError


def acceleration(name: str) -> HWAccel:
    """A device to decode on; SettingsError where there is none of that name, or it cannot be
    opened."""
    kinds = hwdevices_available()
    if name not in kinds:
        raise SettingsError(f"hwaccel: {name!r} given, this FFmpeg knows {', '.join(kinds)}")
    if not _opens(name):
        raise SettingsError(
            f"hwaccel: {name} cannot be opened here: there is no such device, or no driver for it"
        )
    return HWAccel(name)


@cache
def _opens(name: str) -> bool:
    """Tried on a codec that every device decodes: an error of the file's would blame the file."""
    try:
        HWAccel(name, allow_software_fallback=False).create(av.Codec("h264", "r"))
    except (OSError, RuntimeError, av.FFmpegError):
        return False
    return True
