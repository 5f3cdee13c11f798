"""VisionZip for a Hugging Face model that somebody already has.

    from vzvideo.hf import visionzip

    model = visionzip(AutoModelForImageTextToText.from_pretrained(...), dominant=54, contextual=10)
    model.generate(**processor(...), max_new_tokens=64)  # its own processor, generate, pipeline

On that one instance: pictures and videos are encoded, the prompt is shortened to what is kept, and
the model's own `generate` or `forward` goes on from there. `unzip` gives the model back.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from types import MethodType
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from vzvideo.errors import ModelError, SettingsError
from vzvideo.models.families import family_class, family_of
from vzvideo.visionzip import ZipSettings

Model = TypeVar("Model", bound=nn.Module)


def visionzip(
    model: Model,
    dominant: int | None = None,
    contextual: int | None = None,
    *,
    keep: float | None = None,
    merge: Literal["reference", "mean"] | None = None,
    temporal: Literal["off", "on"] = "off",
) -> Model:
    """The model itself, which from now on compresses what it sees.

    Args:
        model: a transformers model with a head, or a PEFT model around one.
        dominant: of each frame or tile, tokens kept, a CLS counted; 54 where nothing is said.
        contextual: and tokens that the others are merged into; 10.
        keep: in their place, the share of tokens kept, split as the paper does, for pictures of
            any size. 1.0 changes nothing.
        merge: see `vzvideo.visionzip.compress`; None for what suits the family.
        temporal: "on" merges what stands still across the frames of a video, as many tokens in all;
            for families that are given a video as one.

    Raises ModelError where the model's family is not known, SettingsError where the numbers cannot
    be.
    """
    inner = _inner(model)
    family = family_class(getattr(inner.config, "model_type", None))
    settings = _settings(dominant, contextual, keep, merge or family.merge)
    if temporal not in ("off", "on"):
        raise SettingsError(f'temporal={temporal!r}: choose "off" or "on"')
    if temporal == "on" and "video" not in family.arguments:
        raise SettingsError(
            f"temporal: {inner.config.model_type} models are given frames as single pictures, of "
            "which nobody says which belong together; vzvideo.load(...).ask knows it"
        )
    settings = settings and replace(settings, temporal=temporal == "on")
    unzip(model)
    if settings is None:
        return model
    hooks = [model.register_forward_pre_hook(_before_forward, with_kwargs=True)]
    hooks.append(inner.model.register_forward_pre_hook(_before_core, with_kwargs=True))
    inner._visionzip = settings
    model.__dict__["_visionzip_hooks"] = hooks
    inner.generate = MethodType(_generate, inner)  # of a copy, bound to the copy
    return model


def unzip(model: Model) -> Model:
    """The model as it was before `visionzip`."""
    for hook in model.__dict__.pop("_visionzip_hooks", ()):
        hook.remove()
    inner = _inner(model)
    if inner.__dict__.pop("_visionzip", None) is not None:
        del inner.generate
    return model


def _inner(model: Any) -> Any:
    """The transformers model inside a PEFT model; else the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _settings(
    dominant: int | None,
    contextual: int | None,
    keep: float | None,
    merge: Literal["reference", "mean"],
) -> ZipSettings | None:
    """None: everything is kept."""
    if merge not in ("reference", "mean"):
        raise SettingsError(f'merge={merge!r}: choose "reference" or "mean"')
    if keep is None:
        dominant = 54 if dominant is None else dominant
        contextual = 10 if contextual is None else contextual
        if dominant < 0 or contextual < 0 or dominant + contextual < 1:
            raise SettingsError(
                f"dominant={dominant}, contextual={contextual}: neither may be below 0, and one "
                "token at least must remain"
            )
        return ZipSettings(dominant, contextual, merge)
    if dominant is not None or contextual is not None:
        raise SettingsError("keep, or dominant and contextual: give one of them")
    if not 0 < keep <= 1:
        raise SettingsError(f"keep={keep}: a share of the tokens, above 0 and at most 1, is needed")
    return None if keep == 1 else ZipSettings.share(keep, merge)


def _before_forward(
    model: Any, args: tuple[Any, ...], given: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    inner = _inner(model)
    if args:
        names = inspect.signature(type(inner).forward).parameters
        given = {**dict(zip([*names][1:], args, strict=False)), **given}
    return ((), _shorten(inner, given)) if _sees(inner, given) else None


def _before_core(_core: Any, _args: tuple[Any, ...], given: dict[str, Any]) -> None:
    """Nothing passes by unseen, as it would where a wrapper calls `forward` itself."""
    if any(name.startswith("pixel_values") and value is not None for name, value in given.items()):
        raise ModelError(
            "pixels came past vzvideo.hf.visionzip, for the model was wrapped afterwards (by PEFT, "
            "for one): unzip it, wrap it, and call visionzip on what wraps it",
            code="wrapped",
        )


def _sees(model: Any, given: dict[str, Any]) -> bool:
    """Whether a call holds pixels, whose arguments get their names of today."""
    family = family_class(model.config.model_type)
    for old, name in family.aliases.items():
        if old in given:
            given[name] = given.pop(old)
    pixels = {n for n, value in given.items() if n.startswith("pixel_values") and value is not None}
    # Under a name that is not known, nothing would be compressed, and nobody would know.
    if unknown := pixels - {names[0] for names in family.arguments.values()}:
        raise ModelError(
            f"{', '.join(sorted(unknown))}: not known of {model.config.model_type} models",
            code="family",
        )
    return bool(pixels)


def _shorten(model: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call that holds pixels -> of one with what is kept of them."""
    family, kept = family_of(model), {}
    for modality, names in family.arguments.items():
        if given.get(names[0]) is not None:
            own = {name: given[name] for name in names if given.get(name) is not None}
            kept[modality] = family.see(modality, own, model._visionzip)
    return family.tell(given, kept)


def _generate(model: Any, inputs: Tensor | None = None, *args: Any, **given: Any) -> Any:
    """`generate`; what it returns begins with the caller's own prompt, which callers cut off."""
    generate = type(model).generate
    if not _sees(model, given):
        return generate(model, inputs, *args, **given)
    past = given.get("cache", given.get("past_key_values"))  # since transformers 5.24, and before
    if past is not None and past.get_seq_length():
        raise ModelError(
            "pixels behind a cache that is not empty: give the whole conversation, or the cache "
            "without pixels",
            code="cache",
        )
    whole = given.pop("input_ids", inputs)
    if whole is None:
        raise ModelError("pixels without input_ids: give the prompt as token ids", code="prompt")
    with torch.no_grad():
        short = _shorten(model, {**given, "input_ids": whole})
    said = generate(model, None, *args, **short)
    rows = said if isinstance(said, Tensor) else said.sequences
    prompt = whole.repeat_interleave(len(rows) // len(whole), dim=0).to(rows.device)
    rows = torch.cat([prompt, rows[:, short["input_ids"].shape[1] :]], dim=1)
    if isinstance(said, Tensor):
        return rows
    said.sequences = rows
    return said
