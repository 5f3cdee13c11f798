"""Video in, frames out: numpy and av. torch is not imported here."""

from vzvideo.video.base import Video, VideoInfo, open_video

__all__ = ["Video", "VideoInfo", "open_video"]
