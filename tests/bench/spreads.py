"""What every measured quantity has to look like."""

from __future__ import annotations

from typing import Any


def check(value: Any, repeats: int | None = None) -> int:
    """Checks every spread within; how many there are. `repeats` is asked of times alone."""
    if isinstance(value, list):
        return sum(check(inner, repeats) for inner in value)
    if not isinstance(value, dict):
        return 0
    if "median" in value:
        assert value["low"] == min(value["each"]) <= value["median"]
        assert value["median"] <= max(value["each"]) == value["high"]
        return 1
    for key, inner in value.items():
        if key.endswith("_s") and isinstance(inner, dict) and "median" in inner:
            assert inner["low"] > 0
            assert repeats is None or len(inner["each"]) == repeats
    return sum(check(inner, repeats) for inner in value.values())
