"""How a video becomes tokens for one model: settings to frames, tokens a frame, and their mark.

Plans only: nothing is decoded, and of the models no weights are needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vzvideo import config, visionzip
from vzvideo._version import __version__
from vzvideo.errors import SettingsError
from vzvideo.models.catalog import ModelCard
from vzvideo.models.encoder import NO_COMPRESSION, Encoder, ZipSettings
from vzvideo.models.language import SHORTEST_ANSWER, LanguageModel
from vzvideo.video import sampling

# Of a frame's tokens, the share below which "auto" merges across frames: where more are kept,
# nothing is gained by it, as published.
_FEW = 0.25


@dataclass(frozen=True)
class Recipe:
    """How a video becomes tokens.

    encoder: fits frames as the settings say. frames: as many at most. size: shortest edge that
    frames are scaled to, in pixels.
    about: what the tokens are marked with (JSON), by which the cache tells them apart.
    """

    encoder: Encoder
    settings: config.Settings
    compression: ZipSettings
    frames: int
    size: int
    about: dict[str, Any]


@dataclass(frozen=True)
class Recipes:
    """What one model makes of settings; tower: the fingerprint of its weights."""

    card: ModelCard
    encoder: Encoder
    language: LanguageModel
    tower: str

    def recipe(self, settings: config.Settings, question: str) -> Recipe:
        """See `VideoQA.recipe`."""
        encoder = self.encoder.fitted(settings.fit)
        compression = self._compression(settings)
        frames = self._budget(settings, compression, question).frames
        about = {
            "vzvideo": __version__,
            "model": self.card.name,
            "tower": self.tower,
            "dtype": str(self.encoder.dtype).removeprefix("torch."),
            **compression.about(),
            "sampling": settings.sampling,
            # With a rate they follow from the clip, and are only a limit, which a video that was
            # encoded with another may not meet.
            "frames": settings.frames if settings.sampling == "fps" else frames,
            "fps": settings.fps if settings.sampling == "fps" else None,
            "start_s": settings.start_s,
            "end_s": settings.end_s,
            "decoder": settings.hwaccel or settings.decoder,
            "deinterlace": settings.deinterlace,
            "tone_map": settings.tone_map,
        }
        if encoder is not self.encoder:  # else tokens are those of a model asked as it was trained
            about["fit"] = settings.fit
        size = 2 * encoder.preprocess.size  # twice what the tower sees; its own resize follows
        # What a model looks at together is encoded together.
        at_once = self.encoder.family.frames_per_group
        batch = settings.batch + -settings.batch % at_once
        return Recipe(encoder, settings.replace(batch=batch), compression, frames, size, about)

    def budget(self, settings: config.Settings, question: str) -> visionzip.Budget:
        """See `VideoQA.plan`."""
        return self._budget(settings, self._compression(settings), question)

    def _budget(
        self, settings: config.Settings, compression: ZipSettings, question: str
    ) -> visionzip.Budget:
        if settings.frames is not None:
            sampling.check_frames(settings.frames)
        self.encoder.check(compression)
        return visionzip.plan(
            self.language.window,
            text=self.language.prompts.length(question),
            answer=min(settings.max_new_tokens, max(SHORTEST_ANSWER, self.language.window // 4)),
            frames=settings.frames,
            tokens_per_frame=compression.tokens_per_frame(self.encoder.tokens)
            + self.language.frame_text,
            frames_at_once=self.encoder.family.frames_per_group,
            # With a rate the video decides, up to what fits.
            most_frames=None if settings.sampling == "fps" else self.card.frames,
        )

    def _temporal(self, settings: config.Settings, compression: ZipSettings) -> bool:
        kept = compression.tokens_per_frame(self.encoder.tokens) / self.encoder.tokens
        if settings.temporal == "on" and kept == 1:
            raise SettingsError('temporal="on": nothing is compressed here; say how much to keep')
        return settings.temporal == "on" or (settings.temporal == "auto" and kept < _FEW)

    def _compression(self, settings: config.Settings) -> ZipSettings:
        compression = self._each_frame(settings)
        return replace(compression, temporal=self._temporal(settings, compression))

    def _each_frame(self, settings: config.Settings) -> ZipSettings:
        if not settings.compress or settings.keep == 1:
            return NO_COMPRESSION
        merge = settings.merge or self.encoder.family.merge
        if settings.keep is not None:
            return ZipSettings.share(settings.keep, merge)
        if settings.dominant is not None and settings.contextual is not None:
            dominant, contextual = settings.dominant, settings.contextual
        else:
            if settings.tokens_per_frame > self.encoder.tokens:
                raise SettingsError(
                    f"tokens_per_frame: {settings.tokens_per_frame} given, a frame of this model "
                    f"has {self.encoder.tokens}; compress=False (--no-compress) keeps them all"
                )
            dominant, contextual = visionzip.split_tokens(settings.tokens_per_frame)
        return ZipSettings(dominant, contextual, merge)
