"""vzvideo: ask questions of video with a vision-language model, at a fraction of the tokens.

    import vzvideo

    qa = vzvideo.load("mini")
    tokens = qa.encode("movie.mp4", frames=64, dominant=14, contextual=3)
    print(qa.ask(tokens, "What happens?").text)

Names are imported when they are first used, so that `import vzvideo` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vzvideo._version import __version__ as __version__

if TYPE_CHECKING:
    from vzvideo import visionzip as visionzip
    from vzvideo.config import Settings as Settings
    from vzvideo.errors import VzVideoError as VzVideoError
    from vzvideo.live.stream import Stream as Stream
    from vzvideo.qa.asking import Chat as Chat
    from vzvideo.qa.loading import load as load
    from vzvideo.qa.video_qa import VideoQA as VideoQA
    from vzvideo.types import Answer as Answer
    from vzvideo.types import Failure as Failure
    from vzvideo.types import FrameBatch as FrameBatch
    from vzvideo.types import VisualTokens as VisualTokens
    from vzvideo.video import open_video as open_video

_HOMES = {
    "Answer": "types",
    "Chat": "qa.asking",
    "Failure": "types",
    "FrameBatch": "types",
    "Settings": "config",
    "Stream": "live.stream",
    "VideoQA": "qa.video_qa",
    "VisualTokens": "types",
    "VzVideoError": "errors",
    "load": "qa.loading",
    "open_video": "video.backends",
}
__all__ = [*_HOMES, "visionzip"]


def __getattr__(name: str) -> Any:
    if name == "visionzip":
        return import_module("vzvideo.visionzip")
    if name in _HOMES:
        return getattr(import_module(f"vzvideo.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'vzvideo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
