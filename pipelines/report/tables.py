"""Measured numbers as words, tables and CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

MIB = 2**20


def median(value: Any) -> float | None:
    """The median of a spread; None where there is none."""
    return float(value["median"]) if isinstance(value, dict) and "median" in value else None


def format_spread(value: Any, unit: str) -> str:
    """A spread as a cell of a table: its median, and from where to where where that matters."""
    if isinstance(value, dict) and "error" in value:
        return "failed"
    found = median(value)
    if found is None:
        return ""
    scale = {"ms": 1e3, "s": 1.0, "MiB": 1 / MIB, "x": 1.0, "/s": 1.0}[unit]
    words = f"{_short(found * scale)}{'x' if unit == 'x' else f' {unit}'}"
    low, high = value["low"], value["high"]
    if len(value["each"]) > 1 and high - low > 0.1 * abs(found):
        words += f" ({_short(low * scale)}-{_short(high * scale)})"
    return words


def ratio_range(ratios: Sequence[float]) -> str:
    """From the lowest to the highest; of one, that one."""
    return " to ".join(dict.fromkeys(f"{end:.2f}x" for end in (min(ratios), max(ratios))))


def _short(value: float) -> str:
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)
