"""VisionZip as pure tensor functions: which visual tokens to keep, and what becomes of the rest.

Yang et al., "VisionZip: Longer is Better but Not Necessary in Vision Language Models", CVPR 2025,
arXiv 2412.04467. Nothing in this folder knows a model, a file or a frame.
"""

from vzvideo.visionzip.budget import Budget, plan, split_tokens
from vzvideo.visionzip.scores import attention_received, cls_attention, mean_keys
from vzvideo.visionzip.temporal import ZippedClip, static_windows, uniqueness, zip_clip
from vzvideo.visionzip.zip import NO_COMPRESSION, Zipped, ZipSettings, compress

__all__ = [
    "NO_COMPRESSION",
    "Budget",
    "ZipSettings",
    "Zipped",
    "ZippedClip",
    "attention_received",
    "cls_attention",
    "compress",
    "mean_keys",
    "plan",
    "split_tokens",
    "static_windows",
    "uniqueness",
    "zip_clip",
]
