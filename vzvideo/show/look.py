"""A video as the tower and VisionZip see it: pictures, attention, and what every patch went into.

Everything that the page, the sheet and the numbers are made of, for several budgets at once. Knows
no page and no language model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vzvideo import visionzip
from vzvideo.errors import SettingsError
from vzvideo.models.encoder import Scored, join
from vzvideo.models.preprocess import Preprocess
from vzvideo.qa.encoding import Progress
from vzvideo.qa.evidence import needs_tenths
from vzvideo.qa.video_qa import VideoQA
from vzvideo.types import Role, VisualTokens, is_token_file
from vzvideo.video.base import check_file, no_frames
from vzvideo.video.frames import frames_of
from vzvideo.words import format_time

BUDGETS = (9, 17, 33, 65)  # tokens a frame, those that `mini` was trained with
_PAIRS = 2000  # drawn at random, to say how alike two patches are that have nothing to do


@dataclass(frozen=True)
class BudgetView:
    """What one budget makes of T frames of P patches; M tokens come out of each.

    dominant: the first tokens of the M that stand as they are, a CLS counted among them.
    patch: (T, M), the patch each token stands at, -1 for the CLS.
    assignment: (T, P), the token each patch went into, -1 where it was dropped.
    to_kept: (T * R,), for every patch that was merged or dropped, the cosine of its features with
        those of the kept patch most like it, empty where none is kept; to_merged: with those of
        the token it went into.
    """

    dominant: int
    patch: NDArray[np.int64]
    assignment: NDArray[np.int64]
    to_kept: NDArray[np.float32]
    to_merged: NDArray[np.float32]

    @property
    def tokens(self) -> int:
        """Tokens a frame."""
        return int(self.patch.shape[1])

    @property
    def total(self) -> int:
        """Tokens of all frames."""
        return int(self.patch.size)

    def whole(self, frame: int) -> int:
        """Of a frame's tokens, how many stand as they are."""
        return self.dominant

    def count(self, frame: int) -> int:
        """Tokens of a frame."""
        return self.tokens


@dataclass(frozen=True)
class AcrossView:
    """What zipping across frames makes of T frames of P patches: N tokens.

    frame, until: (N,), the stretch that each stands for, half-open.
    token: of each frame, the numbers of those that stand for something in it: first the `dominant`
        (T,) that are a patch of its own or one that lasts, then contextual ones. patch: the patch
        each stands at, -1 for the CLS. assignment: (T, P), which of them each patch went into, -1
        where it was dropped. static: share of the patches that are merged across frames.
    """

    frame: NDArray[np.int64]
    until: NDArray[np.int64]
    token: list[NDArray[np.int64]]
    dominant: list[int]
    patch: list[NDArray[np.int64]]
    assignment: NDArray[np.int64]
    static: float

    @property
    def total(self) -> int:
        """Tokens of all frames."""
        return len(self.frame)

    @property
    def tokens(self) -> float:
        """Tokens a frame, on average."""
        return round(self.total / len(self.token), 1)

    def whole(self, frame: int) -> int:
        """Of a frame's tokens, how many stand as they are."""
        return self.dominant[frame]

    def count(self, frame: int) -> int:
        """Tokens of a frame."""
        return len(self.token[frame])


@dataclass(frozen=True)
class Inspection:
    """T frames of a video, P patches each, seen through a tower of L layers.

    pictures: uint8 (T, S, S, 3), the square of each frame that the tower sees, twice as finely.
    pts_s: (T,), seconds. grid: patches of a frame, (rows, columns).
    attention: float32 (T, P), what VisionZip ranks patches by, a frame's summing to 1.
    by_layer: float32 (L, P), attention by rank, the highest first, mean over frames; sums to 1.
    neighbours: float32 (T - 1,), mean cosine of a frame's patches with those at the same place in
        the next. chance: mean cosine of two patches drawn at random from all frames.
    cuts: by tokens a frame. tokens: of a whole frame. cropped: of a frame's area, the share that
        the pictures leave out. across: what zipping across frames makes of as many tokens, where
        the settings ask for that.
    """

    source: str
    model: str
    pictures: NDArray[np.uint8]
    pts_s: NDArray[np.float64]
    grid: tuple[int, int]
    tokens: int
    attention: NDArray[np.float32]
    by_layer: NDArray[np.float32]
    neighbours: NDArray[np.float32]
    chance: float
    cuts: dict[int, BudgetView]
    chosen: int  # the budget that the settings ask for, one of `cuts`
    cropped: float = 0.0
    across: AcrossView | None = None

    @property
    def asked(self) -> BudgetView | AcrossView:
        """What a question would be asked of."""
        return self.across or self.cuts[self.chosen]

    @property
    def frames(self) -> int:
        return len(self.pts_s)

    def when(self, time_s: float) -> str:
        """A time as a person reads it, as finely as these frames need it."""
        return format_time(time_s, needs_tenths(self.pts_s))


def inspect_video(
    qa: VideoQA, source: str, *, question: str = "?", progress: Progress | None = None
) -> tuple[Inspection, VisualTokens]:
    """Decodes and encodes a video as `qa` would for `question`; what it sees on the way, and the
    tokens to ask.

    Raises SettingsError where the settings keep every token: there is nothing to be seen then.
    """
    check(source)
    recipe = qa.recipe(question)
    encoder = recipe.encoder
    if recipe.compression.dominant is None:
        raise SettingsError("--no-compress: show is about what compression keeps; leave it out")
    splits = {tokens: visionzip.split_tokens(tokens) for tokens in BUDGETS}
    chosen = recipe.compression.tokens_per_frame(encoder.tokens)
    splits[chosen] = recipe.compression.counts(encoder.tokens, encoder.has_cls)
    splits = {tokens: splits[tokens] for tokens in sorted(splits) if tokens <= encoder.tokens}
    pictures, pts_s, scored, layers, parts, looks = [], [], [], [], [], []
    asked = lost = 0
    with frames_of(source, recipe.settings, recipe.frames, recipe.size) as found:
        for batch in found.batches:
            inputs = encoder.preprocess(torch.from_numpy(batch.pixels), encoder.device)
            seen, by_layer = encoder.score_layers(inputs)
            if recipe.compression.temporal:
                looks.append(encoder.looked(batch, seen))
            else:
                parts.append(encoder.compress(batch, seen, recipe.compression))
            scored.append(Scored(*(values.cpu() for values in seen)))
            layers.append(by_layer.cpu())
            pictures.append(squares(batch.pixels, encoder.preprocess))
            pts_s.append(batch.pts_s)
            asked, lost = asked + batch.asked, lost + batch.lost
            if progress:
                progress("look", asked, found.asked)
    if not pictures:
        raise no_frames(source)
    tokens = (
        encoder.zip_clip(looks, recipe.compression) if recipe.compression.temporal else join(parts)
    )
    across = None
    if recipe.compression.temporal:
        zipped = encoder.zip_looked(looks, recipe.compression)
        tokens = encoder.pack_clip(zipped, looks, recipe.compression)
        across = _across(tokens, zipped, encoder.has_cls)
    else:
        tokens = join(parts)
    whole = Scored(*(torch.cat(values) for values in zip(*scored, strict=True)))
    cls = int(encoder.has_cls)
    patches = F.normalize(whole.hidden[:, cls:].float(), dim=-1)  # (T, P, D)
    looked = Inspection(
        source=source,
        model=qa.name,
        pictures=np.concatenate(pictures),
        pts_s=np.concatenate(pts_s),
        grid=encoder.grid,
        tokens=encoder.tokens,
        attention=_shares(whole.scores[:, cls:]).numpy(),
        by_layer=_by_rank(torch.cat(layers, 1)[..., cls:]),
        neighbours=(patches[1:] * patches[:-1]).sum(-1).mean(-1).numpy(),
        chance=_chance(patches),
        cuts={
            tokens: _cut(whole, *split, recipe.compression.merge, encoder.has_cls)
            for tokens, split in splits.items()
        },
        chosen=chosen,
        cropped=tokens.settings["cropped"],
        across=across,
    )
    noted = recipe.about | tokens.settings | found.lengths | {"asked": asked, "lost": lost}
    return looked, replace(tokens, settings=noted)


def check(source: str) -> None:
    """Says at once, before a model is loaded, what cannot be looked at."""
    if "://" in source:
        return
    check_file(Path(source))
    if is_token_file(Path(source)):
        raise SettingsError(f"{source}: these are tokens, without their pictures; give the video")


def _cut(scored: Scored, dominant: int, contextual: int, merge: str, has_cls: bool) -> BudgetView:
    zipped = visionzip.compress(
        *scored, dominant, contextual, merge=merge, has_cls=has_cls  # type: ignore[arg-type]
    )  # fmt: skip
    cls = int(has_cls)
    assignment = zipped.assignment[:, cls:]
    unit = F.normalize(scored.hidden[:, cls:].float(), dim=-1)
    out = F.normalize(zipped.features.float(), dim=-1)
    merged = assignment >= dominant
    merged |= assignment < 0
    alike = unit @ out[:, cls:dominant].transpose(1, 2)
    kept = alike.amax(-1)[merged] if alike.shape[-1] else unit.new_empty(0)
    into = out.gather(1, assignment.clamp(min=0).unsqueeze(-1).expand(-1, -1, out.shape[-1]))
    own = (unit * into).sum(-1)
    return BudgetView(
        dominant,
        (zipped.patch - cls).numpy(),
        assignment.numpy(),
        kept.numpy(),
        own[merged & (assignment >= 0)].numpy(),
    )


def _across(tokens: VisualTokens, zipped: visionzip.ZippedClip, has_cls: bool) -> AcrossView:
    covers, late = tokens.covers(), tokens.role == Role.CONTEXTUAL
    token = [
        np.concatenate([np.flatnonzero(each & ~late), np.flatnonzero(each & late)])
        for each in covers
    ]
    went = zipped.assignment[:, int(has_cls) :].cpu().numpy()
    assignment = np.full(went.shape, -1, np.int64)
    for own, into, at in zip(token, went, assignment, strict=True):
        place = np.full(len(tokens) + 1, -1)  # the last is what was dropped
        place[own] = np.arange(len(own))
        at[:] = place[into]
    return AcrossView(
        tokens.frame.astype(np.int64), tokens.until.astype(np.int64), token,
        [int((each & ~late).sum()) for each in covers], [tokens.patch[own] for own in token],
        assignment, zipped.static,
    )  # fmt: skip


def squares(pixels: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.uint8]:
    """Frames (T, H, W, 3) to the squares (T, S, S, 3) that a tower sees, twice as finely."""
    seen = preprocess.enlarged(2).square(torch.from_numpy(pixels))
    return seen.permute(0, 2, 3, 1).numpy()


def _shares(scores: Tensor) -> Tensor:
    scores = scores.float()
    return scores / scores.sum(-1, keepdim=True)


def _by_rank(scores: Tensor) -> NDArray[np.float32]:
    """(L, T, P) -> (L, P)."""
    ranked: NDArray[np.float32] = _shares(scores).sort(-1, descending=True).values.mean(1).numpy()
    return ranked


def _chance(patches: Tensor) -> float:
    flat = patches.flatten(0, 1)
    drawn = torch.randint(len(flat), (2, _PAIRS), generator=torch.Generator().manual_seed(0))
    return float((flat[drawn[0]] * flat[drawn[1]]).sum(-1).mean())
