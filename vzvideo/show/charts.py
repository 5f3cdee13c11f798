"""Small charts as SVG, drawn by hand so that a page needs no library and no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WIDTH, _HEIGHT = 360, 214
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 40, 36


@dataclass(frozen=True)
class Axis:
    """What an axis says, from `low` to `high`."""

    label: str
    low: float
    high: float

    def ticks(self, most: int = 5, least: float = 0.0) -> list[float]:
        """Round numbers within it, `least` apart at least."""
        span = (self.high - self.low) or 1.0
        step = 10.0 ** np.floor(np.log10(max(span / most, least)))
        step = next(
            step * by for by in (1, 2, 5, 10) if max(span / most, least) <= step * by * 1.001
        )
        first = np.ceil(self.low / step - 1e-9)
        return [float(n * step) + 0.0 for n in np.arange(first, self.high / step + 1e-9)]


Values = Sequence[float] | NDArray[Any]
Series = tuple[str, Values, Values]  # name, x, y


def lines(title: str, x: Axis, y: Axis, series: Sequence[Series], marks: bool = True) -> str:
    """Lines over `x`, with their names where there are several."""
    drawn = []
    for number, (name, xs, ys) in enumerate(series):
        points = [(_across(x, a), _down(y, b)) for a, b in zip(xs, ys, strict=True)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        drawn.append(f'<polyline class="line s{number}" points="{path}"/>')
        if marks or len(points) == 1:
            drawn += [f'<circle class="dot s{number}" cx="{a:.1f}" cy="{b:.1f}" r="2.5"/>'
                      for a, b in points]  # fmt: skip
        if len(series) > 1:
            drawn.append(_name(number, name))
    return _chart(title, x, y, drawn)


def histogram(title: str, x: Axis, series: Sequence[tuple[str, Values]]) -> str:
    """Shares of values in 24 bins of `x`, as steps; the highest bin fills the height."""
    made = []
    for name, values in series:
        counts, edges = np.histogram(np.clip(values, x.low, x.high), 24, (x.low, x.high))
        made.append((name, counts / max(1, counts.sum()), edges))
    y = Axis("share", 0.0, max([float(share.max()) for _, share, _ in made] + [0.01]))
    drawn = []
    for number, (name, share, edges) in enumerate(made):
        xs, ys = np.repeat(edges, 2), np.concatenate([[0], np.repeat(share, 2), [0]])
        points = " ".join(
            f"{_across(x, a):.1f},{_down(y, b):.1f}" for a, b in zip(xs, ys, strict=True)
        )
        drawn.append(f'<polygon class="area s{number}" points="{points}"/>')
        drawn.append(_name(number, name))
    return _chart(title, x, y, drawn)


def _name(number: int, name: str) -> str:
    place = f'x="{_LEFT + 40}" y="{12 + 15 * number}"'
    return f'<text class="name s{number}" {place}>{escape(name)}</text>'


def _across(x: Axis, value: float) -> float:
    return _LEFT + (value - x.low) / ((x.high - x.low) or 1.0) * (_WIDTH - _LEFT - _RIGHT)


def _down(y: Axis, value: float) -> float:
    room = _HEIGHT - _TOP - _BOTTOM
    return _TOP + (1 - (value - y.low) / ((y.high - y.low) or 1.0)) * room


def _chart(title: str, x: Axis, y: Axis, drawn: list[str]) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title, quote=True)}">'
    ]
    for tick in x.ticks():
        at = _across(x, tick)
        parts.append(f'<text x="{at:.1f}" y="{bottom + 15}" text-anchor="middle">{tick:g}</text>')
    for tick in y.ticks(4):
        at = _down(y, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{tick:g}</text>')
    parts.append(f'<text x="4" y="12">{escape(y.label)}</text>')
    parts += drawn
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">'
        f"{escape(x.label)}</text>"
    )
    return "".join([*parts, "</svg>"])
