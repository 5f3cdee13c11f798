"""Videos to visual tokens: decoded while the frames before are encoded, or taken from the cache.

Knows no language model.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np
import torch
from numpy.typing import NDArray

from vzvideo.errors import SettingsError
from vzvideo.models.encoder import ClipEncoder
from vzvideo.qa.prefetch import Prefetch, Span, StageTimer
from vzvideo.qa.store import TokenCache, is_playlist
from vzvideo.types import FrameBatch, VisualTokens, is_token_file
from vzvideo.video.base import check_file, no_frames
from vzvideo.video.frames import frames_of

if TYPE_CHECKING:
    from PIL import Image

    from vzvideo.qa.recipe import Recipe

Progress = Callable[[str, int, int], None]  # stage, done, total


@dataclass
class Encoded:
    """Tokens, and what it took: seconds in decode and encode, whether they came from the cache.

    spans: when decode and encode worked, which may be at the same time; none where neither did.
    """

    tokens: VisualTokens
    seconds: dict[str, float]
    cached: bool
    asked: int
    lost: int
    spans: list[Span] = field(default_factory=list)


# Frames in memory: uint8 (H, W, 3) or (T, H, W, 3), RGB, or a picture of Pillow's.
Pixels = Union[NDArray[np.uint8], "Image.Image", FrameBatch]
Source = str | Path | VisualTokens | Encoded | Pixels


def _from_tokens(tokens: VisualTokens) -> Encoded:
    """Tokens that were there already, with what was noted of their making."""
    asked, lost = (tokens.settings.get(name, 0) for name in ("asked", "lost"))
    return Encoded(tokens, {"decode": 0.0, "encode": 0.0}, True, asked or tokens.frames, lost)


def already_encoded(source: Source) -> Encoded | None:
    """What is encoded already, in memory or in a file; None where it is a video."""
    if isinstance(source, Encoded):
        return source
    if isinstance(source, VisualTokens):
        return _from_tokens(source)
    if isinstance(source, FrameBatch) or as_frames(source) is not None:
        return None
    if not isinstance(source, str | os.PathLike):
        raise SettingsError(
            f"source: {type(source).__name__} given; a path, a URL, visual tokens, a picture or "
            "uint8 frames (T, H, W, 3) are needed"
        )
    if "://" not in str(source) and is_token_file(Path(source)):
        return _from_tokens(VisualTokens.load(source))
    return None


def as_frames(source: object) -> FrameBatch | None:
    """Frames in memory, a second apart where nobody says when they are; None for what is none."""
    if isinstance(source, FrameBatch):
        return source
    if hasattr(source, "convert") and hasattr(source, "getexif"):  # Pillow's, which is not loaded
        source = np.array(source.convert("RGB"))
    if not isinstance(source, np.ndarray):
        return None
    pixels = source[None] if source.ndim == 3 else source
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or 0 in pixels.shape:
        raise SettingsError(
            f"frames: {source.dtype} {source.shape} given, uint8 (H, W, 3) or (T, H, W, 3) is "
            "needed"
        )
    return FrameBatch(pixels, np.arange(len(pixels), dtype=np.float64), "frames", len(pixels))


class CachedEncoder:
    """Encodes videos, and keeps what it made. Not for several threads at once."""

    def __init__(self, cache: TokenCache | None) -> None:
        self._cache = cache
        # The last file's tokens, so that asking it again finds what has been read of them too.
        self._last: tuple[str, VisualTokens] | None = None

    def encode(self, source: str, recipe: Recipe, progress: Progress | None = None) -> Encoded:
        """A video's tokens; source: path or URL."""
        about = recipe.about
        key = None
        if "://" not in source:
            check_file(Path(source))
            if self._cache and not is_playlist(Path(source)):
                key = TokenCache.key(Path(source), about)
        if key and self._last and self._last[0] == key and self._last[1].source == source:
            return _from_tokens(self._last[1])
        if self._cache and key and (kept := self._cache.get(key)):
            kept = replace(kept, source=source)
            self._last = (key, kept)
            return _from_tokens(kept)
        encoded = self._encode(source, recipe, progress or _ignore)
        noted = about | encoded.tokens.settings
        noted |= {"asked": encoded.asked, "lost": encoded.lost}
        encoded = replace(encoded, tokens=replace(encoded.tokens, settings=noted))
        # A file replaced since the key was taken would be kept under the old one's.
        if self._cache and key and key == TokenCache.key(Path(source), about):
            self._cache.put(key, encoded.tokens)
            self._last = (key, encoded.tokens)
        return encoded

    def encode_frames(self, frames: FrameBatch, recipe: Recipe) -> Encoded:
        """The tokens of frames in memory, which are not kept."""
        clock, each = StageTimer(), recipe.settings.batch
        batches = (
            FrameBatch(frames.pixels[at : at + each], frames.pts_s[at : at + each], frames.source)
            for at in range(0, len(frames), each)
        )
        with clock.stage("encode"):
            tokens = recipe.encoder.encode_clip(batches, recipe.compression)
            synchronize(recipe.encoder.device)
        noted = recipe.about | tokens.settings | {"asked": len(frames), "lost": frames.lost}
        tokens = replace(tokens, settings=noted)
        seconds = {"decode": 0.0} | clock.seconds
        return Encoded(tokens, seconds, False, len(frames), frames.lost, clock.spans)

    def forget(self) -> None:
        """Lets go of the last file's tokens."""
        self._last = None

    def _encode(self, source: str, recipe: Recipe, progress: Progress) -> Encoded:
        clock = StageTimer()
        asked = lost = 0
        clip = ClipEncoder(recipe.encoder, recipe.compression)
        with ExitStack() as opened:
            with clock.stage("decode"):
                found = opened.enter_context(
                    frames_of(
                        source,
                        recipe.settings,
                        recipe.frames,
                        recipe.size,
                        on_fetch=lambda done, total: progress("fetch", done, total or 0),
                    )
                )
            batches = clock.timed(found.batches, "decode")
            for batch in opened.enter_context(closing(Prefetch(batches))):
                asked, lost = asked + batch.asked, lost + batch.lost
                progress("decode", asked, found.asked)
                with clock.stage("encode"):
                    clip.add(batch)
                    synchronize(recipe.encoder.device)
                progress("encode", asked, found.asked)
        if clip.empty:
            raise no_frames(source)
        with clock.stage("encode"):
            tokens = clip.tokens()
            synchronize(recipe.encoder.device)
        tokens = replace(tokens, settings=tokens.settings | found.lengths)
        return Encoded(tokens, clock.seconds, False, asked, lost, clock.spans)


def synchronize(device: torch.device) -> None:
    """Waits for what an accelerator still has to do, so that its time counts where it belongs."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _ignore(_stage: str, _done: int, _total: int) -> None:
    pass
