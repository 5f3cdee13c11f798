"""The method carried on in time: a stream of any length within a fixed number of tokens.

What was seen just now is remembered as it was zipped; what lies further back is zipped again,
across neighbouring moments, longer ones the longer ago, but never so that one part of the past
takes the room of all others. The paper has nothing of this: it is ours. Everything here is a pure
function or a frozen value. K tokens of D channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_LEAST_CHANGE = 0.05  # two moments alike to the last bit still tell that time went by
_SHARE, _LEAST = 1 / 3, 3  # of the tokens of two moments, how many one of both keeps
_OTHER_ROLE = 4.0  # taken off a similarity, which lies within -1..1


@dataclass(frozen=True, eq=False)
class Moment:
    """What is remembered of a stretch of time: K tokens in the order they were first seen.

    features (K, D); role (K,) and patch (K,): labels that each token keeps.
    pts_s (K,) float64: when what a token stands for was first seen.
    weight (K,) float32: of how many tokens it is the mean.
    start_s, end_s: the stretch: when the first of it was seen and when the last.
    grid: rows and columns of the frame that `patch` counts in.
    """

    features: Tensor
    role: Tensor
    patch: Tensor
    pts_s: Tensor
    weight: Tensor
    start_s: float
    end_s: float
    grid: tuple[int, int]

    TENSORS: ClassVar = ("features", "role", "patch", "pts_s", "weight")

    def __len__(self) -> int:
        return len(self.role)

    def on_grid(self, grid: tuple[int, int]) -> Moment:
        """The same with places in another grid: those that lie at the same share of the frame."""
        if grid == self.grid:
            return self
        (rows, columns), of = grid, self.grid
        row, column = self.patch // of[1], self.patch % of[1]
        patch = row * rows // of[0] * columns + column * columns // of[1]
        patch = torch.where(self.patch < 0, self.patch, patch.to(self.patch))  # of a CLS
        return replace(self, patch=patch, grid=grid)


def merge_moments(earlier: Moment, later: Moment, keep: int) -> Moment:
    """Two neighbours of one grid as one of `keep` tokens, or of all where they are fewer."""
    both = {
        name: torch.cat([getattr(earlier, name), getattr(later, name)]) for name in Moment.TENSORS
    }
    stretch = Moment(**both, start_s=earlier.start_s, end_s=later.end_s, grid=earlier.grid)
    return merge_tokens(stretch, keep)


def merge_tokens(moment: Moment, keep: int) -> Moment:
    """A moment in at most `keep` tokens: again and again the two most alike become their mean.

    Alike is the cosine of their features. How much a token stands for counts for the mean but not
    for the choice: what was there for a second survives beside what was there for an hour, as long
    as it is different. A token of one role goes into one of another only where nothing else is
    left; the earlier token's place, time and patch stay.
    """
    count = len(moment)
    if count <= keep:
        return moment
    # Of sums, whose cosines are those of the means. Their products with each other are all that the
    # steps need, and in numpy: torch would spend its time on dispatching so many on so little.
    summed = moment.features.float() * moment.weight[:, None]
    products = (summed @ summed.T).numpy().astype(np.float64)
    role, into = moment.role.numpy().copy(), np.arange(count)
    length = np.sqrt(products.diagonal()).clip(min=1e-12)
    alike = products / (length[:, None] * length) - _OTHER_ROLE * (role[:, None] != role)
    alike[np.tri(count, dtype=bool)] = -np.inf
    for _ in range(count - keep):
        first, second = divmod(int(alike.argmax()), count)  # of equals the earliest
        into[into == second] = first
        products[first] += products[second]
        products[:, first] += products[:, second]
        length[first] = max(np.sqrt(max(0.0, products[first, first])), 1e-12)
        role[first] = min(role[first], role[second])
        row = products[first] / (length[first] * length) - _OTHER_ROLE * (role != role[first])
        row[into != np.arange(count)] = -np.inf
        alike[second], alike[:, second] = -np.inf, -np.inf
        alike[first, first + 1 :], alike[:first, first] = row[first + 1 :], row[:first]
    left, place = np.unique(into, return_inverse=True)
    groups = torch.from_numpy(place)
    weight = torch.zeros(keep).index_add_(0, groups, moment.weight)
    mean = torch.zeros(keep, summed.shape[1]).index_add_(0, groups, summed) / weight[:, None]
    return Moment(
        mean.to(moment.features.dtype), torch.from_numpy(role[left]), moment.patch[left],
        moment.pts_s[left], weight, moment.start_s, moment.end_s, moment.grid,
    )  # fmt: skip


def change(earlier: Moment, later: Moment) -> float:
    """How much two moments differ, 0..2: 1 - cosine of each token with the nearest of the other."""
    one, other = (F.normalize(m.features.float(), dim=-1) for m in (earlier, later))
    alike = one @ other.T
    nearest = torch.cat([alike.amax(dim=0), alike.amax(dim=1)])
    return float((1 - nearest).mean().clamp(min=0))


@dataclass(frozen=True)
class Memory:
    """Moments of a stream, never more than `budget` tokens of them.

    moments: in time order. changes: how much each differs from the one behind it.

    Of all neighbours those two become one that together are short, long ago and alike. Half of the
    room goes by how long ago: as much to the last ten seconds as to those between ten and a hundred
    seconds ago. The other half goes evenly to all the time there was, or an hour long ago would be
    a single moment. What differs from its neighbours stays for itself the longest. The number of
    moments, and with it the cost of one more frame, does not depend on how long the stream has run.
    """

    budget: int
    moments: tuple[Moment, ...] = ()
    changes: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ValueError(f"budget={self.budget}: room for 1 token at least is needed")

    @property
    def tokens(self) -> int:
        return sum(map(len, self.moments))

    @property
    def start_s(self) -> float:
        return self.moments[0].start_s if self.moments else -math.inf

    @property
    def end_s(self) -> float:
        """Up to when anything is remembered; before the first moment, before all times."""
        return self.moments[-1].end_s if self.moments else -math.inf

    def add(self, moment: Moment) -> Memory:
        """With one more moment, behind all others; ValueError where it is not.

        Its places are told in the grid of the first, for a camera may change its shape.
        """
        if moment.start_s < self.end_s:
            raise ValueError(f"a moment at {moment.start_s} s, behind one that ends {self.end_s} s")
        moment = moment.on_grid(self.moments[0].grid) if self.moments else moment
        moments, changes = [*self.moments, moment], [*self.changes]
        if len(moments) > 1:
            changes.append(change(moments[-2], moment))
        tokens = self.tokens + len(moment)
        while tokens > self.budget:
            tokens -= _shrink(moments, changes, self.budget)
        return Memory(self.budget, tuple(moments), tuple(changes))

    def extend_to(self, until_s: float) -> Memory:
        """The last moment goes on until then: nothing has changed."""
        if not self.moments or until_s <= self.end_s:
            return self
        last = replace(self.moments[-1], end_s=until_s)
        return replace(self, moments=(*self.moments[:-1], last))

    def between(self, since_s: float, until_s: float) -> tuple[Moment, ...]:
        """The moments of which some part lies in the window, its ends counted; where it lies
        between two, the earlier: that is what was to be seen then."""
        found = tuple(m for m in self.moments if m.end_s >= since_s and m.start_s <= until_s)
        if found or not max(self.start_s, since_s) <= until_s <= self.end_s:
            return found
        return tuple(m for m in self.moments if m.start_s <= until_s)[-1:]


def _shrink(moments: list[Moment], changes: list[float], budget: int) -> int:
    """Makes two neighbours one, or one that is too large smaller; returns the tokens saved."""
    if len(moments) == 1:
        before = len(moments[0])
        moments[0] = merge_tokens(moments[0], budget)
        return before - len(moments[0])
    starts = np.array([moment.start_s for moment in moments[:-1]])
    ends = np.array([moment.end_s for moment in moments[1:]])
    now_s = moments[-1].end_s
    age_s = np.maximum(now_s - starts, np.finfo(float).tiny)
    # Moments come to be as dense as the bracket says: by age, and the same again evenly, for the
    # integral of 1 / age over all the time from a second on is the logarithm of that time.
    evenly = math.log(max(age_s[0], math.e)) / age_s[0]
    weight = (_LEAST_CHANGE + np.array(changes)) ** 2
    at = int(np.argmin((ends - starts) * (1 / age_s + evenly) * weight))
    earlier, later = moments[at : at + 2]
    both = len(earlier) + len(later)
    made = merge_moments(earlier, later, min(both - 1, max(_LEAST, round(_SHARE * both))))
    moments[at : at + 2] = [made]
    del changes[at]
    for place in (at - 1, at):
        if 0 <= place < len(changes):
            changes[place] = change(moments[place], moments[place + 1])
    return both - len(made)
