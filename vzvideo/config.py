"""Settings: defaults, then a YAML file, then what the caller says; no wrong name is ignored."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from vzvideo.errors import SettingsError

# How a frame becomes the square that a tower looks at; see `models.preprocess`.
Fit = Literal["crop", "pad", "squash"]

# Settings that say how a video becomes tokens: too late where it has become tokens already.
ENCODING = {
    *("frames", "tokens_per_frame", "dominant", "contextual", "compress", "merge", "sampling"),
    *("keep", "fps", "start_s", "end_s", "decoder", "hwaccel", "deinterlace", "tone_map"),
    *("fit", "temporal"),
}

# Settings that say which model is loaded and what it keeps: too late once it is.
LOADING = {"model", "device", "dtype", "quantize", "timestamps", "cache", "cache_gib"}

# Settings that say how an answer is found in what has been read.
ANSWERING = ("max_new_tokens", "temperature", "num_beams")


@dataclass(frozen=True)
class Settings:
    """Everything that can be set; `configs/default.yaml` says the same with a comment each.

    model: a name from the catalogue, "auto", a hub id or a folder.
    frames: how many frames to look at; None for the model's own default.
    tokens_per_frame: split into dominant and contextual as the paper does.
    dominant, contextual: the split itself, where it is to be another; both or neither.
    keep: in their place, the share of a frame's tokens, for models whose frames differ in tokens.
    compress: False hands over every token of a frame.
    merge: how contextual tokens are made, "reference" or "mean"; None for what suits the model.
    temporal: "on" merges what stands still across frames, so that the tokens go where something
        changes; "auto" where less than a quarter is kept.
    timestamps: tell the model of each frame when it is, where it is not told so anyway.
    sampling: "uniform", "fps", "keyframes" or "scenes".
    fps: frames a second for sampling "fps", which setting it implies.
    start_s, end_s: the part of the video to look at, in seconds; None for its ends.
    max_new_tokens: the answer's longest length in tokens.
    temperature: 0 answers the same each time.
    num_beams: beginnings of an answer that are followed at once (beam search), of which the one
        likeliest a token wins. More than one costs as many times the work of answering, and the
        answer comes in one piece.
    decoder: "pyav" or "decord".
    hwaccel: a device to decode on, "cuda" for one ("pyav" alone).
    deinterlace, tone_map: show interlaced video, and that of high dynamic range (PQ, HLG), as a
        screen does.
    fit: how a frame becomes the model's square: "crop" (its middle), "pad" (all of it, with bars)
        or "squash" (all of it, out of shape); None for how the model was trained.
    deadline_s: how long a server or a decoder may stay silent.
    batch: frames encoded at a time.
    device, dtype: "auto", or torch's names ("cuda:1", "bfloat16").
    quantize: "4bit" or "8bit" where bitsandbytes is installed.
    cache: keep visual tokens for the next question; cache_gib: how much room they may take.
    """

    model: str = "auto"
    frames: int | None = None
    tokens_per_frame: int = 17
    dominant: int | None = None
    contextual: int | None = None
    keep: float | None = None
    compress: bool = True
    merge: Literal["reference", "mean"] | None = None
    temporal: Literal["off", "on", "auto"] = "off"
    timestamps: bool = False
    sampling: Literal["uniform", "fps", "keyframes", "scenes"] = "uniform"
    fps: float = 1.0
    start_s: float | None = None
    end_s: float | None = None
    max_new_tokens: int = 128
    temperature: float = 0.0
    num_beams: int = 1
    decoder: Literal["pyav", "decord"] = "pyav"
    hwaccel: str | None = None
    deinterlace: bool = True
    tone_map: bool = True
    fit: Fit | None = None
    deadline_s: float = 30.0
    batch: int = 4
    device: str = "auto"
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    quantize: Literal["4bit", "8bit"] | None = None
    cache: bool = True
    cache_gib: float = 2.0

    def __post_init__(self) -> None:
        if (self.dominant is None) != (self.contextual is None):
            raise SettingsError("dominant and contextual: give both or neither")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise SettingsError(
                f"keep: {self.keep:g} given, a share of the tokens above 0 and at most 1 is needed"
            )
        if self.hwaccel and self.decoder != "pyav":
            raise SettingsError(f"hwaccel: is for decoder pyav, not for {self.decoder}")
        for name, least in (
            ("tokens_per_frame", 1),
            ("max_new_tokens", 1),
            ("batch", 1),
            ("temperature", 0),
            ("num_beams", 1),
            ("deadline_s", 0.1),
            ("cache_gib", 0),
        ):
            if not least <= getattr(self, name) < math.inf:
                raise SettingsError(f"{name}: {getattr(self, name)} given, at least {least} needed")

        if self.temperature and self.num_beams > 1:
            raise SettingsError(
                f"temperature {self.temperature:g} and num_beams {self.num_beams}: one draws an "
                "answer, the other looks for the likeliest; give one of them"
            )

    @property
    def answering(self) -> dict[str, Any]:
        """What a language model wants to know beside the question, by name."""
        return {name: getattr(self, name) for name in ANSWERING}

    def replace(self, **changes: Any) -> Settings:
        """A copy with `changes`; an unknown name or a wrong kind of value is a SettingsError."""
        for name, value in changes.items():
            changes[name] = _validated(name, value)
        # What is said last wins, also over what was said earlier of the same thing.
        if "tokens_per_frame" in changes:
            changes = {"dominant": None, "contextual": None, "keep": None} | changes
        if "dominant" in changes or "contextual" in changes:
            changes = {"keep": None} | changes
        if "fps" in changes:
            changes = {"sampling": "fps"} | changes
        return dataclasses.replace(self, **changes)


def load(path: Path | None = None, **overrides: Any) -> Settings:
    """Defaults, then the YAML file at `path`, then `overrides` that are not None."""
    settings = Settings()
    if path is not None:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"{path}: {error.strerror}") from None
        except (yaml.YAMLError, ValueError) as error:
            reason = str(error).replace("\n", " ")
            raise SettingsError(f"{path}: not readable as YAML ({reason})") from None
        if content is None:  # nothing but comments
            content = {}
        if not isinstance(content, dict):
            raise SettingsError(f"{path}: lines of `name: value` are expected")
        try:
            settings = settings.replace(**{str(name): value for name, value in content.items()})
        except SettingsError as error:
            raise SettingsError(f"{path}: {error}", code=error.code) from None
    return settings.replace(**{name: v for name, v in overrides.items() if v is not None})


_KINDS = typing.get_type_hints(Settings)


def _validated(name: str, value: Any) -> Any:
    if name not in _KINDS:
        near = difflib.get_close_matches(name, _KINDS, 1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_KINDS)}"
        raise SettingsError(f"unknown setting {name!r}: {hint}", code="unknown_setting")
    for kind in _alternatives(_KINDS[name]):
        if typing.get_origin(kind) is Literal:
            if isinstance(value, bool) and "on" in typing.get_args(kind):
                return "on" if value else "off"  # as YAML reads these two words
            if value in typing.get_args(kind):
                return value
        elif kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
    raise SettingsError(f"{name}: {value!r} given, {_describe_kind(_KINDS[name])} is needed")


def _alternatives(kind: Any) -> tuple[Any, ...]:
    # `int | None` is a UnionType, `Literal[...] | None` a typing.Union.
    union = typing.get_origin(kind) in (types.UnionType, typing.Union)
    return typing.get_args(kind) if union else (kind,)


def _describe_kind(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    words = []
    for part in _alternatives(kind):
        if typing.get_origin(part) is Literal:
            words += [repr(choice) for choice in typing.get_args(part)]
        else:
            words.append(names.get(part, "null"))
    return " or ".join(words)
