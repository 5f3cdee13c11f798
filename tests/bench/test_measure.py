"""What is measured is measured right: turns, spreads, peaks, errors. Never a time."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from vzvideo.bench import measure


def peaks() -> tuple[int, int]:
    """Of filling 256 MiB, and then 64."""
    fill = partial(torch.ones, dtype=torch.uint8)
    return measure.peak_bytes(partial(fill, 256 << 20)), measure.peak_bytes(partial(fill, 64 << 20))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="a peak cannot be reset")
def test_a_peak_counts_what_was_held_since_and_freed_again() -> None:
    large, small = measure.in_child(peaks)
    assert 250 << 20 < large < 270 << 20
    assert 60 << 20 < small < 80 << 20


def test_a_child_that_fails_or_hangs_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no answer within 1 s"):
        measure.in_child(time.sleep, 600, deadline_s=1)
    with pytest.raises(RuntimeError, match="ValueError: invalid literal"):
        measure.in_child(int, "three")


def too_large(_setup: None, name: str, sizes: Sequence[int]) -> dict[int, int | str]:
    if max(sizes) > 2:
        os._exit(9)
    return dict.fromkeys(sizes, 5)


def test_a_size_that_kills_its_process_leaves_the_others() -> None:
    found = measure.peaks_in_child(too_large, None, "any", [1, 3])
    assert found == {1: 5, 3: "the process died"}


def test_a_size_that_fails_says_why() -> None:
    def run(size: int) -> None:
        if size > 1:
            raise MemoryError("too\nmuch")

    # A child's part of the work, which is allowed anywhere where nothing is timed.
    found = measure.peak_bytes_by_size(run, [1, 2])
    assert isinstance(found[1], int)
    assert found[2] == "MemoryError: too much"


def test_what_does_not_run_is_left_out_and_says_why() -> None:
    able, errors = measure.runnable({"good": lambda: 1, "bad": partial(int, "x")})
    assert list(able) == ["good"]
    assert errors["bad"]["error"].startswith("ValueError: invalid literal")


def test_variants_take_turns_and_the_first_turn_does_not_count() -> None:
    order: list[str] = []
    variants = {name: partial(order.append, name) for name in "abc"}
    taken = measure.time_alternating(variants, 2)
    assert order == list("abcbcacab")
    assert [len(each) for each in taken.values()] == [2, 2, 2]


def test_a_ratio_is_taken_repetition_by_repetition() -> None:
    found = measure.ratio([1, 4, 9], [1, 2, 3])
    assert found == {"median": 2, "low": 1, "high": 3, "each": [1, 2, 3]}


def test_every_number_is_shown_in_its_unit(capsys: pytest.CaptureFixture[str]) -> None:
    cell = {"frames": 8, "fits": True, "time_s": measure.spread([0.5]), "skipped": None}
    cell |= {"ways": {"ours": {"frames_per_s": measure.spread([16.0])}}}
    found = {"weight_bytes": 3 << 20, "dtype": "float32", "cells": [cell], "a_to_b": 2.0}
    measure.show("part", found | {"numbers": [1, 2]})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["part", "weight", "3.00", "MiB"],
        ["part", "dtype", "float32"],
        ["part", "cells,", "frames", "8,", "fits", "True"],
        ["time", "500.00", "ms", "(500.00..500.00)"],
        ["ways", "ours", "frames", "16.00", "/s", "(16.00..16.00)"],
        ["part", "a_to_b", "2.00", "x"],
    ]


def test_the_surroundings_name_hardware_and_versions() -> None:
    found = measure.environment()
    assert {"commit", "load_average", "date"} <= found.keys()
    assert {"cpu", "cores", "memory_bytes", "gpu"} <= found["hardware"].keys()
    assert found["hardware"]["memory_bytes"] > 2**28
    assert {"python", "torch", "transformers", "av"} <= found["versions"].keys()
