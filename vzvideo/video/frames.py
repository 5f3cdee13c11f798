"""From a source and settings to the frames that a question looks at.

The part of the way that needs neither torch nor a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vzvideo.config import Settings
from vzvideo.errors import SettingsError
from vzvideo.types import FrameBatch
from vzvideo.video import Video, VideoInfo, open_video, sampling

if TYPE_CHECKING:
    from vzvideo.video.fetching import OnFetch


@dataclass(frozen=True)
class Frames:
    """How many times are asked for, and the frames shown then, in batches as they are decoded;
    info: of the video."""

    info: VideoInfo
    asked: int
    batches: Iterator[FrameBatch]

    @property
    def lengths(self) -> dict[str, float | None]:
        """How long the video is, and how long its header says, as tokens are marked with it."""
        return {"duration_s": self.info.duration_s, "promised_s": self.info.promised_s}


@contextmanager
def frames_of(
    source: str,
    settings: Settings,
    count: int,
    size: int,
    *,
    threads: int = 0,
    on_fetch: OnFetch | None = None,
) -> Iterator[Frames]:
    """Opens a video and chooses its frames, `count` at most, by the policy that `settings` name.

    size: shortest edge to which larger frames are scaled, in pixels; threads, on_fetch: see
    `open_video`.
    """
    with open_video(
        source,
        decoder=settings.decoder,
        size=size,
        deadline_s=settings.deadline_s,
        threads=threads,
        hwaccel=settings.hwaccel,
        deinterlace=settings.deinterlace,
        tone_map=settings.tone_map,
        on_fetch=on_fetch,
    ) as video:
        times = sample(video, settings, count)
        yield Frames(video.info, len(times), video.stream(times, settings.batch))


def sample(video: Video, settings: Settings, frames: int) -> sampling.Times:
    """The times to look at, by the policy that `settings` name; `frames` at most."""
    start_s, end_s = sampling.clip(video.info.duration_s, settings.start_s, settings.end_s)
    match settings.sampling:
        case "fps":
            times = sampling.fps(start_s, end_s, settings.fps)
            if len(times) > frames:
                rate = frames / (end_s - start_s)
                digit = 10.0 ** (np.floor(np.log10(rate)) - 2)  # rounded down to three digits
                why = "fit the model's window" if settings.frames is None else "are allowed"
                raise SettingsError(
                    f"fps: {settings.fps:g} a second over {end_s - start_s:.1f} s makes "
                    f"{len(times)} frames, {frames} {why}: choose at most "
                    f"{np.floor(rate / digit) * digit:g} a second, or a shorter part of the video"
                )
            return times
        case "keyframes":
            return sampling.keyframes(video.keyframes_s(), start_s, end_s, frames)
        case "scenes":
            pts_s, differences = video.differences(start_s, end_s)
            return sampling.scenes(pts_s, differences, start_s, end_s, frames)
        case _:
            return sampling.uniform(start_s, end_s, frames)
