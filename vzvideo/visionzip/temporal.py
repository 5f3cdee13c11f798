"""Across frames: what stays the same is kept once, and the room goes where something changes.

The outer stage of HoliTom (Shao et al., "HoliTom: Holistic Token Merging for Fast Video Large
Language Models", 2025, arXiv 2505.21334), which composes with VisionZip: a clip is parted into
windows, in each of them the cells that hardly change become one token, and VisionZip chooses among
the others. T frames, C cells a frame, E channels of features, K of keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vzvideo.visionzip.budget import CONTEXTUAL_SHARE
from vzvideo.visionzip.zip import compress

TAU, TAU_FEW = 0.80, 0.65  # as published: usually, and where few tokens are kept
_FEW = 0.12  # a share below which they are few
_NEIGHBOURS = 5  # that a cell's density is told by
_SHARPNESS = 0.01  # VidCom2's temperature

Window = tuple[int, int]  # from and to, in frames, half-open
# Features (S, E) and scores (S,) of static cells, a count -> which are kept, and where each goes.
Choose = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


class ZippedClip(NamedTuple):
    """What `zip_clip` returns: N tokens, in the order of the frames they begin at; in each frame
    those that stand for their own cell in raster order, contextual ones after them.

    features: (N, E). frame, until: (N,) int64, the stretch of frames that each stands for,
    half-open. cell: (N,) int64, its place. assignment: (T, C) int64, the output each input went
    into, -1 where it was dropped. contextual: (N,) bool, whether others of its frame were merged
    into it. static: share of all cells that were merged across frames.
    """

    features: Tensor
    frame: Tensor
    until: Tensor
    cell: Tensor
    assignment: Tensor
    contextual: Tensor
    static: float


def static_windows(features: Tensor, tau: float, longest: int | None = None) -> list[Window]:
    """features (T, C, E) -> windows that cover 0..T in order.

    A cell is static in a window of frames where its cosine from each frame to the next is above
    tau. A window gains (static cells) x (frames - 1), the cells it saves; the windows are those of
    the greatest gain in all, of equal gains the fewest. Exact, by dynamic programming.

    longest: frames in a window, at most. Raises ValueError for no frames.
    """
    frames = len(features)
    if not frames:
        raise ValueError("a clip of at least one frame is needed")
    span = min(longest or frames, frames)
    saved = _static_counts(_runs(features, tau), span) * np.arange(span)
    # best[e]: of the first e frames, what is gained, and with how many windows.
    best = [(0, 0)]
    begins: list[int] = []
    for end in range(1, frames + 1):
        choices = [
            (best[begin][0] + int(saved[end - 1, end - 1 - begin]), best[begin][1] - 1, -begin)
            for begin in range(max(0, end - span), end)
        ]
        gain, fewer, begin = max(choices)
        best.append((gain, fewer))
        begins.append(-begin)
    windows: list[Window] = []
    end = frames
    while end:
        windows.append((begins[end - 1], end))
        end = begins[end - 1]
    return windows[::-1]


def zip_clip(
    features: Tensor,
    scores: Tensor,
    keys: Tensor,
    keep: float,
    *,
    tau: float | None = None,
    static: Literal["attention", "density"] = "density",
    has_cls: bool = True,
    longest: int | None = None,
    merge: Literal["reference", "mean"] = "reference",
    prune: bool = False,
    contextual: float = CONTEXTUAL_SHARE,
) -> ZippedClip:
    """features (T, C, E), scores (T, C), keys (T, C, K) -> ZippedClip.

    keep: how many tokens come out, or as a float their share of all T x C. As many come out
        exactly: but at least one of each frame's own cells, and no more than merging leaves.
    tau: see `static_windows`; None for 0.80, or 0.65 where less than 12 % is kept.
    static: how static cells are chosen: those of the highest score, mean over their window, the
        others dropped; or density peaks (Rodriguez and Laio 2014), the others averaged into
        theirs.
    has_cls: whether cell 0 is a CLS, which is always a frame's own.
    merge: of a frame's own cells, see `compress`. contextual: of a frame's own tokens, the share
        that others are merged into.
    prune: a static cell is what it was in its first frame, not the mean, for models to which its
        place and time mean something; the tokens of a frame then stand in raster order.

    Raises ValueError where shapes disagree or nothing is to be kept.
    """
    if scores.ndim != 2 or features.shape[:-1] != scores.shape or keys.shape[:-1] != scores.shape:
        raise ValueError(
            f"features {tuple(features.shape)}, scores {tuple(scores.shape)} and keys "
            f"{tuple(keys.shape)} must be (T, C, E), (T, C) and (T, C, K)"
        )
    total = scores.numel()
    count = keep if isinstance(keep, int) else round(keep * total)
    if not 0 < count <= total:
        raise ValueError(f"keep={keep}: of {total} tokens, 1 to all or a share are to be kept")
    if tau is None:
        tau = TAU_FEW if count < _FEW * total else TAU
    patches = features[:, 1:] if has_cls else features
    windows = static_windows(patches, tau, longest)
    runs = F.pad(_runs(patches, tau), (int(has_cls), 0))
    still = [
        runs[end - 1] >= end - 1 - begin if end - begin > 1 else torch.zeros_like(runs[begin] > 0)
        for begin, end in windows
    ]
    lasting = [int(each.sum()) for each in still]
    own = [scores.shape[1] - each for each in lasting]
    parts = [(end - begin, each) for (begin, end), each in zip(windows, own, strict=True)]
    room = _shared_out(count, [n for length, n in parts for _ in range(length)], lasting)
    made = _Made(features, has_cls, prune)
    for (begin, end), cells, of_window in zip(windows, still, room[1], strict=True):
        own_cells, static_cells = (~cells).nonzero()[:, 0], cells.nonzero()[:, 0]
        wanted = room[0][begin:end]
        for size in sorted(set(wanted)):
            if size:
                rows = [begin + n for n, each in enumerate(wanted) if each == size]
                late = min(round(size * contextual), size - has_cls)
                made.own(rows, own_cells, scores, keys, (size - late, late), merge)
        if of_window:
            choose = _highest if static == "attention" else _peaks
            made.lasting(begin, end, static_cells, scores, of_window, choose)
    merged = sum(n * (end - begin) for n, (begin, end) in zip(lasting, windows, strict=True))
    return made.clip(merged / total)


def uniqueness(features: Tensor, keep: float) -> Tensor:
    """features (T, C, E) -> the share of its tokens that each frame keeps, (T,) float32.

    Frames unlike the rest of the video keep more than the share `keep` that all of them keep on
    average (VidCom2, Liu et al. 2025, arXiv 2505.14454): keep x (1 + u - mean u), with u the
    softmax over frames of minus a frame's mean cosine to the mean token of the video, / 0.01.
    """
    unit = F.normalize(features.float(), dim=-1)
    centre = F.normalize(unit.mean((0, 1)), dim=-1)
    unlike = torch.softmax(-(unit @ centre).mean(1) / _SHARPNESS, 0)
    return (keep * (1 + unlike - unlike.mean())).clamp(0, 1)


def _runs(features: Tensor, tau: float) -> Tensor:
    """features (T, C, E) -> for how many frames before each one its cells have stayed (T, C)."""
    unit = F.normalize(features.float(), dim=-1)
    moved = (unit[1:] * unit[:-1]).sum(-1) <= tau
    at = torch.arange(len(features), device=features.device)[:, None]
    since = torch.cat([at.new_zeros(1, features.shape[1]), torch.where(moved, at[1:], 0)])
    return at - since.cummax(0).values


def _static_counts(runs: Tensor, span: int) -> NDArray[np.int64]:
    """runs (T, C) -> [e, d]: the cells that are static from frame e - d to frame e, d < span."""
    lengths = runs.clamp(max=span - 1).cpu().numpy()
    counts = np.stack([np.bincount(row, minlength=span) for row in lengths])
    counts = counts[:, ::-1].cumsum(1)[:, ::-1]
    reachable = np.arange(span)[None] <= np.arange(len(runs))[:, None]
    return np.where(reachable, counts, 0)


def _shared_out(count: int, own: list[int], lasting: list[int]) -> tuple[list[int], list[int]]:
    """`count` tokens over the frames' own cells and the windows' static ones, in proportion to
    their numbers, at least one of each that has any, by largest remainder."""
    sizes = np.array([*own, *lasting])
    least = np.minimum(sizes, 1)
    if count < least.sum():  # no more than was asked for, as long as every frame has its own
        least[len(own) :] = 0
    count = int(max(count, least.sum()))
    if count >= sizes.sum():
        given = sizes
    else:
        exact = sizes * (count / sizes.sum())
        given = np.maximum(np.floor(exact).astype(int), least)
        # What rounding left over goes to, or came too much from, those it is nearest for.
        while (left := count - int(given.sum())) != 0:
            owed = np.where(given < sizes if left > 0 else given > least, exact - given, np.nan)
            order = np.argsort(-owed if left > 0 else owed, kind="stable")
            some = order[: min(abs(left), int(np.isfinite(owed).sum()))]
            given[some] += 1 if left > 0 else -1
    return given[: len(own)].tolist(), given[len(own) :].tolist()


def _highest(_: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """scores (S,) -> the `count` highest, ascending, and where each cell goes, -1 for nowhere."""
    kept = scores.argsort(descending=True, stable=True)[:count].sort().values
    goes = torch.full_like(scores, -1, dtype=torch.int64)
    goes[kept] = torch.arange(count, device=scores.device)
    return kept, goes


def _peaks(features: Tensor, _: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """features (S, E) -> `count` density peaks, ascending, and which of them each cell goes to.

    A cell's density goes by exp(-mean of its nearest squared distances / E); a peak is dense and
    far from whatever is denser.
    """
    points = features.float()
    apart = torch.cdist(points, points)
    near = apart.pow(2).topk(min(_NEIGHBOURS + 1, len(points)), largest=False).values[:, 1:]
    # In logarithms, for the densities of features of a large scale are all 0 in floats.
    density = -near.mean(1) / points.shape[1] if near.shape[1] else apart.new_zeros(1)
    order = density.argsort(descending=True, stable=True)  # of equal ones the first is the denser
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    denser = rank[None] < rank[:, None]
    far = torch.where(denser, apart, torch.inf).min(1).values
    far = torch.where(rank == 0, apart.max(), far)
    kept = (density + far.log()).argsort(descending=True, stable=True)[:count].sort().values
    goes = apart[:, kept].argmin(1)
    goes[kept] = torch.arange(count, device=kept.device)
    return kept, goes


class _Made:
    """Tokens of a clip as they are made, in any order."""

    def __init__(self, features: Tensor, has_cls: bool, prune: bool) -> None:
        self._features, self._has_cls, self._prune = features, has_cls, prune
        self._tokens: list[Tensor] = []
        self._about: list[Tensor] = []  # frame, until, contextual or not, cell
        self._count = 0
        frames, cells = features.shape[:2]
        self._goes = torch.full((frames, cells), -1, dtype=torch.int64, device=features.device)

    def own(
        self, rows: list[int], cells: Tensor, scores: Tensor, keys: Tensor, split: tuple[int, int],
        merge: Literal["reference", "mean"],
    ) -> None:  # fmt: skip
        """Dominant and contextual tokens of the cells of each of these frames, by VisionZip."""
        size = sum(split)
        at = torch.tensor(rows, device=cells.device)
        dominant, contextual = split if size < len(cells) else (size, 0)
        features, ranked, alike = (v[at][:, cells] for v in (self._features, scores, keys))
        zipped = compress(
            features, ranked, alike, dominant, contextual, merge=merge, has_cls=self._has_cls
        )
        late = torch.arange(size, device=cells.device) >= dominant
        first = at[:, None].expand(-1, size).flatten()
        self._add(
            zipped.features.flatten(0, 1), first, first + 1, late.repeat(len(rows)),
            cells[zipped.patch].flatten(),
        )  # fmt: skip
        base = self._count - len(rows) * size + torch.arange(len(rows), device=cells.device) * size
        went = torch.where(zipped.assignment < 0, -1, zipped.assignment + base[:, None])
        self._goes[at[:, None], cells] = went

    def lasting(
        self, begin: int, end: int, cells: Tensor, scores: Tensor, size: int, choose: Choose
    ) -> None:
        """`size` tokens of the cells that are static from `begin` to `end`."""
        mean = self._features[begin:end, cells].float().mean(0)
        kept, goes = choose(mean, scores[begin:end, cells].float().mean(0), size)
        taken = goes >= 0
        if self._prune:
            merged = self._features[begin, cells[kept]]
        else:
            groups = F.one_hot(goes[taken], size).to(mean.dtype)
            merged = groups.T @ mean[taken] / groups.sum(0)[:, None]
        first = torch.full_like(kept, begin)
        self._add(
            merged.to(self._features.dtype), first, torch.full_like(kept, end),
            torch.zeros_like(kept, dtype=torch.bool), cells[kept],
        )  # fmt: skip
        base = self._count - size
        self._goes[begin:end, cells] = torch.where(taken, goes + base, -1)

    def _add(self, tokens: Tensor, *about: Tensor) -> None:
        self._tokens.append(tokens)
        self._about.append(torch.stack([each.to(torch.int64) for each in about]))
        self._count += len(tokens)

    def clip(self, static: float) -> ZippedClip:
        """All of them in their order."""
        frame, until, late, cell = torch.cat(self._about, 1)
        cells = self._features.shape[1]
        # Dominant ones come in raster order; contextual ones as VisionZip has them.
        behind = (late > 0) & (not self._prune)
        rank = frame * 2 * cells + torch.where(behind, cells, cell)
        order = rank.argsort(stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        assignment = torch.where(self._goes < 0, -1, place[self._goes.clamp(min=0)])
        tokens = torch.cat(self._tokens)[order]
        frame, until, late, cell = (about[order] for about in (frame, until, late, cell))
        return ZippedClip(tokens, frame, until, cell, assignment, late > 0, static)
