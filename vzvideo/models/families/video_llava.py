"""Video-LLaVA, and with it `mini`: as LLaVA-1.5; a video's frames with their CLS."""

from __future__ import annotations

from typing import ClassVar

from vzvideo.models.families.llava import Llava


class VideoLlava(Llava):
    arguments: ClassVar = {"image": ("pixel_values",), "video": ("pixel_values_videos",)}
    aliases: ClassVar = {"pixel_values_images": "pixel_values"}  # what its processor still says
    stacked: ClassVar = ("image", "video")
    shows: ClassVar = "video"
    kind: ClassVar = "video"
    towers: ClassVar = {"image": "image_tower", "video": "video_tower"}

    def shows_cls(self, modality: str) -> bool:
        return modality == "video" or super().shows_cls(modality)
