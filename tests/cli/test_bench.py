"""`vzvideo bench` as it is typed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from vzvideo.bench import encoder
from vzvideo.cli import bench as cli_bench
from vzvideo.errors import VzVideoError

app = typer.Typer()
app.command()(cli_bench.bench)


def typed(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def test_a_part_is_measured_and_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["encoder", "--quick", "--repeats", "1", "--device", "cpu"]
    arguments += ["--model", str(checkpoint), "--out", str(tmp_path / "bench.json")]
    monkeypatch.setattr(sys, "argv", ["vzvideo", "bench", *arguments])
    monkeypatch.setattr(encoder, "peaks_in_child", lambda *given: dict.fromkeys(given[3], 1))
    done = typed(*arguments)
    assert done.exit_code == 0, done.output
    assert "encoder cells, frames 8" in done.stdout
    results = json.loads((tmp_path / "bench.json").read_text())
    assert results["encoder"]["command"] == ["vzvideo", "bench", *arguments]
    assert results["encoder"]["model"] == checkpoint.name
    assert len(results["encoder"]["cells"][0]["ways"]["vzvideo"]["time_s"]["each"]) == 1


def test_a_part_that_failed_is_not_success(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(setup: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr(encoder, "measure", fails)
    done = typed("encoder", "--model", str(checkpoint), "--out", str(tmp_path / "bench.json"))
    assert done.exit_code == 1
    assert "failed: encoder" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("speed", "part 'speed' is not known: choose encoder"),
        ("sizes", "--geometry llava-next"),
        ("ask --geometry video-llava-7b", "encoder and prefill are"),
        ("encoder --layers 2", "--layers: is for --geometry"),
        ("encoder --shared-layers", "--shared-layers: is for --geometry"),
        ("encoder --device tpu --geometry video-llava-7b", "device 'tpu': choose auto or cpu"),
        ("ask --video nowhere.mp4", "nowhere.mp4"),
        ("encoder --model nonsense", "model 'nonsense' is not known"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: str, line: str) -> None:
    error = typed(*arguments.split()).exception
    assert isinstance(error, VzVideoError)
    assert line in str(error)
    assert "\n" not in str(error)
