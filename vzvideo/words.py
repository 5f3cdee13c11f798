"""Times and numbers as people write and read them."""

from __future__ import annotations

from vzvideo.errors import SettingsError


def parse_time(text: str) -> float:
    """'83.5', '1:23.5' or '0:01:23.5' -> seconds. Raises SettingsError."""
    try:
        found = 0.0
        for part in text.split(":"):
            found = found * 60 + float(part)
        return found
    except ValueError:
        raise SettingsError(f"time {text!r}: give seconds, or m:s, or h:m:s") from None


def format_time(time_s: float, tenths: bool = False) -> str:
    """83.52 -> '1:23', or '1:23.5'; with hours from the first on, '1:02:03'."""
    if tenths:
        whole, tenth = divmod(round(time_s * 10), 10)
        ending = f".{tenth}"
    else:
        whole, ending = int(time_s), ""  # a clock shows 0:59 until it is 1:00
    minutes, seconds = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    start = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{start}:{seconds:02d}{ending}"


def format_duration(time_s: float) -> str:
    """How long something takes: '0.03 s', '45 s', '12 min', '1 h 02 min'."""
    minutes = round(time_s / 60)
    if time_s < 10:
        return f"{time_s:.2g} s"
    if minutes < 1 or time_s < 60:
        return f"{time_s:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def describe_cropped(share: float | None) -> str:
    """What of each frame is not seen: '12 % of each frame cropped', and above a quarter how to see
    it; '' where that is hardly anything, or nobody knows."""
    percent = round(100 * (share or 0.0))
    if percent < 5:
        return ""
    cure = " (--fit pad keeps it)" if percent > 25 else ""
    return f"{percent} % of each frame cropped{cure}"


def pluralize(number: int, noun: str) -> str:
    """'1 video', '2 videos'; the noun is one that takes an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
