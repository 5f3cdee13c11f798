"""From a model's name to a `VideoQA`: chosen, fetched, loaded; checked, where nobody named it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from vzvideo import config
from vzvideo.models import catalog, loader, weights
from vzvideo.qa.encoding import Progress
from vzvideo.qa.video_qa import VideoQA


def load(
    model: str | None = None,
    *,
    settings: config.Settings | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    part: Literal["both", "tower", "language", "outline"] = "both",
    **changes: Any,
) -> VideoQA:
    """Loads a model, fetching it first where it is not here yet.

    Args:
        model: a name of the catalogue, "auto", a hub id or a checkpoint folder; None for the one
            that `settings` name.
        settings: what `encode` and `ask` use unless told otherwise.
        progress: called with (stage, done, total) while weights are fetched.
        say: called with a line where something is chosen or fetched for the user.
        part: half a model encodes or answers; "outline", without any weights, plans.
        changes: single settings by name (`device="cpu"`, `cache=False`); see `config.Settings`.
    """
    if model is not None:
        changes["model"] = model
    settings = (settings or config.Settings()).replace(**changes)
    name, say = settings.model, say or _ignore
    if name == "auto":
        name, reason = loader.choose_auto(settings.device)
        warning = ": small, and often wrong" if name == "mini" else ""
        say(f"model: {name}{warning} ({reason})")
    card = catalog.find(name)
    folder = weights.locate(card)
    unknown = settings.model == "auto" and folder is None and not card.wheels
    if folder is None:
        size = f"{card.size_mb} MB" if card.size_mb else "it"
        say(f"{name} is not here yet: fetching {size}, once")
        folder = weights.pull(card, progress=progress)
    if part == "outline":
        encoder, language = loader.outline(folder)
    else:
        encoder, language = loader.load(
            folder,
            device=settings.device,
            dtype=settings.dtype,
            quantize=settings.quantize,
            part=part,
            timestamps=settings.timestamps,
        )
    if unknown and part == "both":  # nobody has asked for this one: it has to work here
        from vzvideo.models import check

        if not all(each.holds for each in check.exactness(encoder, language)):
            weights.mark_inexact(card)
            say(f"{name} does not work here exactly (see `vzvideo check {name}`): mini instead")
            return load("mini", settings=settings, progress=progress, say=say)
    return VideoQA(card, encoder, language, weights.fingerprint(folder), settings)


def _ignore(_line: str) -> None:
    pass
