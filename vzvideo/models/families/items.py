"""Pictures and videos as a model is shown them, and what is kept of them.

G groups of C cells with E channels each become M kept cells; see `base` for the words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vzvideo import visionzip
from vzvideo.errors import ModelError
from vzvideo.models.tower import Scored
from vzvideo.visionzip import ZipSettings


class Part(NamedTuple):
    """Groups of one size. cells: hidden (G, C, E), scores (G, C), keys (G, C, K).

    place (G, C) int64: which of the item's placeholders shows a cell; -1 for a CLS that the model
        is not shown unless compressed. has_cls: the first cell of each group is a CLS.
    """

    cells: Scored
    place: Tensor
    has_cls: bool = False


class Item(NamedTuple):
    """size: placeholders; those that no cell is at show `newline` (D,).

    tiled: parts behind the first are tiles of one picture, whose rows run across them.
    """

    parts: list[Part]
    size: int
    newline: Tensor | None = None
    tiled: bool = False


class Kept(NamedTuple):
    """features (M, D) in the order they are read; slots (M,) int64, the placeholders of the item
    that stay, ascending; size: placeholders it had."""

    features: Tensor
    slots: Tensor
    size: int


def places(groups: int, cells: int, device: torch.device, first: int = 0) -> Tensor:
    """(G, C): group by group, cell by cell, beginning at `first`."""
    count = torch.arange(groups * cells, device=device)
    return count.view(groups, cells) + first


def with_cls(place: Tensor) -> Tensor:
    """(G, C) -> (G, 1 + C): with a CLS in front that the model is not shown."""
    return F.pad(place, (1, 0), value=-1)


def take_rows(values: Tensor, keep: Tensor, fill: int) -> Tensor:
    """values, keep (B, S) -> (B, longest): what is kept of each row, padded on the left."""
    rows = [row[some] for row, some in zip(values, keep.to(values.device), strict=True)]
    longest = max(map(len, rows))
    return torch.stack([F.pad(row, (longest - len(row), 0), value=fill) for row in rows])


class Order(NamedTuple):
    """What is kept of an item, in the order it is read: features (M, E), place (M,).

    whole: all of it is.
    """

    features: Tensor
    place: Tensor
    whole: bool


def compress(items: Sequence[Item], settings: ZipSettings | None, by_place: bool) -> list[Order]:
    """settings: None for all of them. by_place: in the order of places, what was merged, too."""
    clips = {}
    if settings is not None and settings.temporal:
        clips = {n: _across(item.parts[0], settings, by_place) for n, item in enumerate(items)
                 if len(item.parts) == 1 and len(item.parts[0].place) > 1}  # fmt: skip
    others = [item for n, item in enumerate(items) if n not in clips]
    zipped = _compress([part for item in others for part in item.parts], settings)
    kept = []
    for n, item in enumerate(items):
        if n in clips:
            kept.append(clips[n])
            continue
        own, zipped = zipped[: len(item.parts)], zipped[len(item.parts) :]
        kept.append(_in_order(item, own, by_place))
    return kept


def _across(part: Part, settings: ZipSettings, by_place: bool) -> Order:
    """A clip's frames, zipped across them."""
    groups, cells = part.place.shape
    zipped = visionzip.zip_clip(
        *part.cells, groups * min(settings.tokens_per_frame(cells), cells), has_cls=part.has_cls,
        merge=settings.merge, prune=by_place, contextual=settings.contextual_share,
    )  # fmt: skip
    return Order(zipped.features, part.place[zipped.frame, zipped.cell], False)


class _Zipped(NamedTuple):
    """features (G, m, E), place (G, m); of the m the first `dominant` stand as they were."""

    features: Tensor
    place: Tensor
    dominant: int


def _compress(parts: Sequence[Part], settings: ZipSettings | None) -> list[_Zipped]:
    """Each part compressed, those of one shape at once."""
    if settings is None:
        return [_Zipped(part.cells.hidden, part.place, part.place.shape[1]) for part in parts]
    found: dict[int, _Zipped] = {}
    alike: dict[tuple[int, bool], list[int]] = {}
    for number, part in enumerate(parts):
        alike.setdefault((part.place.shape[1], part.has_cls), []).append(number)
    for (cells, has_cls), numbers in alike.items():
        dominant, contextual = settings.counts(cells, has_cls)
        if dominant + contextual >= cells:  # no larger than the budget: it stays as it is
            dominant, contextual = cells, 0
        chosen = [parts[number] for number in numbers]
        together = Scored(*map(torch.cat, zip(*(part.cells for part in chosen), strict=True)))
        features, patch, _ = visionzip.compress(
            *together, dominant, contextual, merge=settings.merge, has_cls=has_cls
        )
        place = torch.cat([part.place for part in chosen]).gather(1, patch)
        sizes = [len(part.place) for part in chosen]
        for number, own, at in zip(numbers, features.split(sizes), place.split(sizes), strict=True):
            found[number] = _Zipped(own, at, dominant)
    return [found[number] for number in range(len(parts))]


def _in_order(item: Item, zipped: Sequence[_Zipped], by_place: bool) -> Order:
    features, place, whole = [], [], []
    for part, (own, at, dominant) in zip(item.parts, zipped, strict=True):
        flat, where = own.flatten(0, 1), at.flatten()
        whole.append(dominant == part.place.shape[1])
        if part.has_cls and whole[-1]:  # without a CLS that is not shown
            flat, where = flat[where >= 0], where[where >= 0]
        features.append(flat)
        place.append(where)
    together, at = torch.cat(features), torch.cat(place)
    if by_place or all(whole):
        order = at.argsort(stable=True)
    elif item.tiled and len(zipped) > 1:
        order = _across_tiles(zipped, place, item.size)
    else:
        return Order(together, at, False)
    return Order(together[order], at[order], all(whole))


def _across_tiles(zipped: Sequence[_Zipped], place: Sequence[Tensor], size: int) -> Tensor:
    """The order (M,) of a picture in tiles, as the authors of LLaVA-NeXT's VisionZip have it: the
    small whole picture, then dominant cells row by row across tiles, then the tiles' CLS, then what
    was merged."""
    keys = [torch.full_like(place[0], -1)]
    for tile, (own, at) in enumerate(zip(zipped[1:], place[1:], strict=True)):
        within = torch.arange(len(at), device=at.device) % max(1, own.place.shape[1])
        role = torch.where(within >= own.dominant, 2, (at < 0).long())
        keys.append(role * (size + len(zipped)) + torch.where(role == 0, at, tile))
    return torch.cat(keys).argsort(stable=True)


def with_newlines(
    item: Item, features: Tensor, place: Tensor, whole: bool
) -> tuple[Tensor, Tensor]:
    """With the item's newlines: all where it is whole, else the last, which ends it."""
    free = torch.ones(item.size, dtype=torch.bool, device=place.device)
    for part in item.parts:
        free[part.place[part.place >= 0]] = False
    lines = free.nonzero()[:, 0]
    lines = lines if whole else lines[-1:]
    assert item.newline is not None
    if item.newline.is_meta:
        raise ModelError(
            "the model's newline is not in memory (device_map has put it on a disk or aside): give "
            "the vision part a device of its own"
        )
    newline = item.newline.to(features.device, features.dtype).expand(len(lines), -1)
    features, place = torch.cat([features, newline]), torch.cat([place, lines])
    if not whole:
        return features, place
    order = place.argsort()
    return features[order], place[order]
