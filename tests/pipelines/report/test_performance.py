"""The page says what is in the JSON: also what failed, what was missed, and whose figure it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.report import bars, performance
from vzvideo.bench.measure import ratio, spread


def facts(**changes: Any) -> dict[str, Any]:
    about = {"command": ["vzvideo", "bench"], "commit": "abc1234def", "date": "2026-01-02"}
    about |= {"load_average": 0.5, "model": "mini", "device": "cpu", "repeats": 2, "quick": False}
    return about | changes


def prefill(faster: float = 10.0, **changes: Any) -> dict[str, Any]:
    def cell(frames: int, each: int, whole: bool, time_s: float) -> dict[str, Any]:
        about = {"frames": frames, "tokens_per_frame": each, "whole": whole}
        return about | {"tokens": frames * each, "fits": True, "prefill_s": spread([time_s] * 2)}

    cells = [cell(8, 257, True, faster), cell(8, 17, False, 1.0), cell(64, 17, False, 4.0)]
    cells.append({"frames": 64, "tokens_per_frame": 257, "whole": True, "tokens": 16448,
                  "fits": False})  # fmt: skip
    return facts(**changes) | {
        "window": 8192, "weight_bytes": 2**20, "cells": cells, "largest_ran": [],
        "largest_frames": [{"tokens_per_frame": 17, "frames": 473}],
        "prefill_whole_to_zipped": ratio([faster, faster], [1.0, 1.0]),
        "first_token_whole_to_zipped": ratio([4.0, 4.0], [1.0, 1.0]),
    }  # fmt: skip


def decode(**readers: Any) -> dict[str, Any]:
    cell = {"codec": "h264", "gop": 250, "height": 360, "seconds": 20, "sampling": "sparse"}
    good = {key: spread([1.0, 1.2]) for key in ("time_s", "cpu_s", "peak_bytes")}
    found = {name: good | {"wrong": 0, "wrong_frames": []} for name in ("vzvideo", "decord")}
    cell |= {"clip_bytes": 1, "readers": found | readers, "best": "decord"}
    return facts() | {"cells": [cell]}


def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *parts: dict[str, Any]) -> str:
    files = []
    for number, each in enumerate(parts):
        hardware = {"cpu": "a CPU", "cores": 2, "usable_cores": 2, "gpu": each.pop("gpu", None)}
        path = tmp_path / f"results{number}.json"
        path.write_text(json.dumps({"hardware": hardware, "versions": {"torch": "2"}} | each))
        files.append(str(path))
    out = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["performance", *files, "--out", str(out)])
    performance.main()
    return out.read_text()


def test_figures_come_from_the_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page(tmp_path, monkeypatch, {"prefill": prefill(12.5)})
    assert "Reading 136 tokens instead of 2,056 (8 frames) is **12.5x** faster" in text
    assert "| 64 | 16,448 do not fit | 4.00 s |" in text
    assert f"| {bars.MINI} | 12.5x, 4.0x | reached |" in text
    assert (tmp_path / "page" / "results0" / "prefill.png").stat().st_size > 1000
    assert len((tmp_path / "page" / "results0" / "prefill.csv").read_text().splitlines()) == 4


def test_a_bar_is_missed_by_what_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = page(tmp_path, monkeypatch, {"prefill": prefill(7.9)})
    assert f"| {bars.MINI} | 7.9x, 4.0x | missed |" in text


@pytest.mark.parametrize(
    ("about", "judged"),
    [
        ({"model": "video-llava-7b", "device": "cuda"}, True),
        ({"model": "video-llava-7b", "device": "cuda", "layers": 2}, False),
        ({"model": "video-llava-7b", "device": "cuda", "shared_layers": True}, False),
        ({"model": "video-llava-7b", "device": "cuda", "quick": True}, False),
        ({"model": "video-llava-7b", "device": "cpu"}, False),
        ({"model": "video-llava-7b", "device": "cpu", "quick": True}, False),
        ({"model": "mini", "device": "cuda"}, False),
    ],
)
def test_only_the_whole_7b_on_a_gpu_answers_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, about: dict[str, Any], judged: bool
) -> None:
    text = page(tmp_path, monkeypatch, {"prefill": prefill(**about), "gpu": "a GPU"})
    assert (f"| {bars.BIG} | 10.0x, 4.0x | reached |" in text) is judged
    assert (f"| {bars.BIG} | not measured" in text) is not judged
    here = about["model"] == "video-llava-7b" and about["device"] == "cpu"
    assert (f"| {bars.BIG_HERE} | 10.0x, 4.0x | reached |" in text) is here
    assert bars.MINI not in text or about["model"] == "mini"


def test_the_two_sizes_stand_beside_the_paper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [
        {"model": "vicuna-7b", "tokens": count, "prefill_s": spread([time_s])}
        for count, time_s in ((2880, 12.0), (160, 1.5))
    ]
    about = facts() | {"model": "llava-next", "shared_layers": True, "cells": cells}
    text = page(tmp_path, monkeypatch, {"sizes": about})
    assert "tokens to 160 (CPU) | 12,000 ms to 1,500 ms |  | 8.0x |" in text
    assert "| all, shared |" in text
    assert "Shared layers all read the weights of one" in text


def test_a_cell_that_was_lost_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = decode(vzvideo={"error": "it died"})
    won = decode()["cells"][0] | {"vzvideo_to_best": ratio([0.5, 0.5], [1.0, 1.0])}
    results["cells"].append(won)
    text = page(tmp_path, monkeypatch, {"decode": results})
    assert "in 1 of 2 cells" in text
    assert "| missed |" in text


def test_what_failed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = decode(torchcodec={"error": "ImportError: none here"})
    growth = facts() | {
        "length": {"error": "no room"}, "rows": [{"rows": 10, "error": "no ray"}], "questions": [],
    }  # fmt: skip
    parts = {"decode": results, "ask": facts() | {"error": "OSError: full"}, "growth": growth}
    text = page(tmp_path, monkeypatch, parts)
    for line in ("torchcodec did not run: ImportError: none here.", "Failed: OSError: full",
                 "length: no room", "rows, 10: no ray."):  # fmt: skip
        assert line in text


def test_two_files_keep_their_figures_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = page(tmp_path, monkeypatch, {"prefill": prefill(9)}, {"prefill": prefill(11)})
    for number, time_s in ((0, "9"), (1, "11")):
        assert f"](page/results{number}/prefill.png)" in text
        table = (tmp_path / "page" / f"results{number}" / "prefill.csv").read_text()
        assert f"8,257,2056,{time_s}" in table
