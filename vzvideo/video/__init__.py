"""Video in, frames out: numpy and av. torch is not imported here."""

from vzvideo.video.backends import open_video
from vzvideo.video.base import Video, VideoInfo

__all__ = ["Video", "VideoInfo", "open_video"]
