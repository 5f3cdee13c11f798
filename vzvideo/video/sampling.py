"""Which moments of a video to look at: pure functions from numbers to times in seconds.

Every policy returns ascending float64 times within the half-open clip [start_s, end_s). Knows no
file: what a policy needs of one (duration, keyframes, frame differences) is handed in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vzvideo.errors import SettingsError, VideoError

Times = NDArray[np.float64]

MOST_FRAMES = 100_000  # beyond it a typing error is likelier than a wish


def clip(duration_s: float, start_s: float | None, end_s: float | None) -> tuple[float, float]:
    """The part of a video to look at, or VideoError where it lies outside.

    An end past the end of the video means the end.
    """
    start = 0.0 if start_s is None else start_s
    end = duration_s if end_s is None else min(end_s, duration_s)
    if not (np.isfinite(start) and np.isfinite(end)) or start < 0 or start >= end:
        asked = f"{start:g} s to {'the end' if end_s is None else f'{end_s:g} s'}"
        raise VideoError(
            f"the clip from {asked} holds nothing of a video of {duration_s:.3f} s: "
            f"choose a start from 0 to below {duration_s:.3f} and an end after it",
            code="clip",
        )
    return start, end


def check_frames(frames: int) -> int:
    """`frames` itself, or SettingsError where it is no sensible number."""
    if not 1 <= frames <= MOST_FRAMES:
        raise SettingsError(f"frames: {frames} given, 1..{MOST_FRAMES} are allowed")
    return frames


def uniform(start_s: float, end_s: float, frames: int) -> Times:
    """The middles of `frames` equal parts of the clip."""
    check_frames(frames)
    return start_s + (np.arange(frames, dtype=np.float64) + 0.5) * ((end_s - start_s) / frames)


def fps(start_s: float, end_s: float, rate_hz: float) -> Times:
    """One moment every 1 / rate_hz seconds, the first at start_s."""
    if not np.isfinite(rate_hz) or rate_hz <= 0:
        raise SettingsError(f"fps: {rate_hz:g} given, a number above 0 is needed")
    wanted = (end_s - start_s) * rate_hz - 1e-9  # floats alone do not make one more
    if wanted > MOST_FRAMES:
        raise SettingsError(
            f"fps: {rate_hz:g} a second over {end_s - start_s:g} s makes {wanted:.0f} frames, "
            f"at most {MOST_FRAMES} are allowed"
        )
    times = start_s + np.arange(max(1, np.ceil(wanted))) / rate_hz
    return times[times < end_s]  # late in a long video their error is larger than that


def keyframes(keyframes_s: Times, start_s: float, end_s: float, frames: int) -> Times:
    """The clip's keyframes, thinned evenly to `frames` at most: the cheapest frames to decode.

    A clip between two keyframes has none; its start stands for it.
    """
    check_frames(frames)
    inside = keyframes_s[(keyframes_s >= start_s) & (keyframes_s < end_s)]
    if not len(inside):
        return np.array([start_s], np.float64)
    return _thin(inside, frames)


def scenes(
    pts_s: Times, differences: NDArray[np.floating], start_s: float, end_s: float, frames: int
) -> Times:
    """The middles of scenes, the longest ones cut into equal parts until `frames` are reached.

    pts_s (T,): times of consecutive frames; differences (T,): how much each differs from the one
    before it, 0..1, the first one 0. A cut is a difference above 0.1 that is also three times the
    median of its neighbours, 12 on each side, which a fast pan is not.
    """
    check_frames(frames)
    starts = [start_s, *pts_s[_cuts(differences)], end_s]
    edges = np.unique(np.clip(starts, start_s, end_s))
    lengths = np.diff(edges)
    if len(lengths) > frames:
        longest = np.sort(np.argsort(-lengths, kind="stable")[:frames])
        return edges[longest] + lengths[longest] / 2
    parts = np.ones(len(lengths), int)
    while parts.sum() < frames:
        parts[np.argmax(lengths / parts)] += 1
    return np.concatenate(
        [uniform(a, b, n) for a, b, n in zip(edges[:-1], edges[1:], parts, strict=True)]
    )


def _cuts(differences: NDArray[np.floating]) -> NDArray[np.intp]:
    cuts = []
    for at in np.flatnonzero(differences > 0.1):
        around = np.concatenate([differences[max(0, at - 12) : at], differences[at + 1 : at + 13]])
        if differences[at] >= 3 * float(np.median(around)):
            cuts.append(at)
    return np.array(cuts, np.intp)


def _thin(times: Times, frames: int) -> Times:
    if len(times) <= frames:
        return times
    return times[((np.arange(frames) + 0.5) * len(times) / frames).astype(int)]
