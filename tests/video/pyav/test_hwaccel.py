"""Decoding on a device: the same frames as on the processor, or one clear line."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
from av.codec.hwaccel import HWAccel, hwdevices_available

from tests.tolerances import HARDWARE_LEVELS
from vzvideo.errors import SettingsError
from vzvideo.video import open_video


def test_a_device_nobody_knows_is_told_with_those_there_are(clip: Path) -> None:
    with pytest.raises(SettingsError, match="'abacus' given, this FFmpeg knows "):
        open_video(clip, hwaccel="abacus")


def test_devices_are_for_pyav(clip: Path) -> None:
    with pytest.raises(SettingsError, match="pyav"):
        open_video(clip, decoder="decord", hwaccel="cuda")


def usable() -> set[str]:
    """Devices that FFmpeg itself can open."""
    found = set()
    for device in hwdevices_available():
        with suppress(OSError, RuntimeError, av.FFmpegError):
            HWAccel(device, allow_software_fallback=False).create(av.Codec("h264", "r"))
            found.add(device)
    return found


@pytest.mark.parametrize("device", hwdevices_available())
def test_a_device_shows_the_same_frames_or_says_that_it_is_not_there(
    clip: Path, device: str
) -> None:
    times = [0.02, 0.5, 1.3]
    with open_video(clip) as video:
        expected = video.frames_at(times)
    if device not in usable():
        with pytest.raises(SettingsError, match=f"{device} cannot be opened here"):
            open_video(clip, hwaccel=device)
        return
    with open_video(clip, hwaccel=device) as video:
        found = video.frames_at(times)
    np.testing.assert_array_equal(found.pts_s, expected.pts_s)
    apart = np.abs(found.pixels.astype(int) - expected.pixels).mean()
    assert apart < HARDWARE_LEVELS
