"""Parts are chosen, run, kept and added to. Never a time."""

from __future__ import annotations

import json
import sys
import types
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from vzvideo.bench import run
from vzvideo.bench.models import Setup
from vzvideo.errors import SettingsError


def part(monkeypatch: pytest.MonkeyPatch, name: str, measure: Any) -> None:
    """In place of a part that measures."""
    module = types.ModuleType(f"vzvideo.bench.{name}")
    module.measure = measure  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


def fails(setup: Setup) -> Any:
    raise ImportError("no ray\nhere")


def test_every_part_is_where_it_is_said_to_be() -> None:
    for place in run.PARTS.values():
        module, function = place.split(".")
        assert f"def {function}(" in (Path(run.__file__).parent / f"{module}.py").read_text()


def test_parts_are_added_to_what_was_measured_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    part(monkeypatch, "encoder", lambda setup: {"time": setup.repeats})
    part(monkeypatch, "prefill", lambda setup: {"time": setup.repeats})
    run.run(["encoder", "prefill"], Setup("some/mini", repeats=2), out, ["one"])
    run.run(["prefill"], Setup("some/mini", repeats=5), out, ["other"])
    results = json.loads(out.read_text())
    assert list(results) == ["seed", "hardware", "versions", "encoder", "prefill"]
    assert results["encoder"]["command"] == ["one"]
    assert results["prefill"]["command"] == ["other"]
    assert (results["encoder"]["time"], results["prefill"]["time"]) == (2, 5)
    assert {"commit", "date", "load_average"} <= results["encoder"].keys()
    assert results["encoder"]["model"] == "mini"
    assert "prefill time" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


def test_a_part_that_fails_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part(monkeypatch, "encoder", fails)
    part(monkeypatch, "prefill", lambda setup: {"time": 1})
    results = run.run(["encoder", "prefill"], Setup(), tmp_path / "bench.json", [])
    assert results["encoder"]["error"] == "ImportError: no ray here"
    assert results["prefill"]["time"] == 1


def test_a_run_that_breaks_off_leaves_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(setup: Setup) -> Any:
        raise KeyboardInterrupt

    out = tmp_path / "bench.json"
    part(monkeypatch, "encoder", lambda setup: {"time": 1})
    part(monkeypatch, "prefill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.run(["encoder", "prefill"], Setup(), out, [])
    results = json.loads(out.read_text())
    assert results["encoder"]["time"] == 1
    assert "prefill" not in results


def test_the_same_machine_started_anew_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bench.json"
    part(monkeypatch, "encoder", lambda setup: {"time": 1})
    results = run.run(["encoder"], Setup(), out, [])
    for factor, same in ((0.999, True), (0.98, False)):
        memory = round(factor * results["hardware"]["memory_bytes"])
        changed = results | {"hardware": results["hardware"] | {"memory_bytes": memory}}
        out.write_text(json.dumps(changed))
        with nullcontext() if same else pytest.raises(SettingsError, match="memory_bytes was"):
            run.run(["encoder"], Setup(), out, [])


def test_results_of_another_machine_are_not_mixed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bench.json"
    part(monkeypatch, "encoder", lambda setup: {"time": 1})
    run.run(["encoder"], Setup(), out, [])
    before = json.loads(out.read_text())
    before["versions"]["torch"] = "0.1"
    out.write_text(json.dumps(before))
    with pytest.raises(SettingsError, match=r"measured elsewhere \(torch was 0.1, is .*another"):
        run.run(["encoder"], Setup(), out, [])
    assert json.loads(out.read_text()) == before


@pytest.mark.parametrize("text", ["", "[]", "{}", "no json"])
def test_another_file_is_not_written_over(tmp_path: Path, text: str) -> None:
    out = tmp_path / "bench.json"
    out.write_text(text)
    with pytest.raises(SettingsError, match="is no result of this benchmark"):
        run.run(["encoder"], Setup(), out, [])
    assert out.read_text() == text


def test_a_place_that_cannot_be_written_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part(monkeypatch, "encoder", lambda setup: pytest.fail("measured"))
    with pytest.raises(SettingsError, match="No such file or directory; choose another file"):
        run.run(["encoder"], Setup(), tmp_path / "nowhere" / "bench.json", [])


def test_all_parts_are_those_that_are_possible() -> None:
    everything = ["encoder", "prefill", "decode", "ask", "questions", "growth"]
    assert run.choose([], None) == run.choose(["all"], None) == everything
    assert run.choose([], "video-llava-7b") == ["encoder", "prefill"]
    assert run.choose([], "llava-next") == ["sizes"]
    assert run.choose(["ask", "encoder", "ask"], None) == ["ask", "encoder"]


@pytest.mark.parametrize(
    ("parts", "geometry", "line"),
    [
        (["speed"], None, "part 'speed' is not known: choose encoder, prefill, sizes"),
        (["sizes"], None, "sizes: is measured with --geometry llava-next"),
        (["ask"], "video-llava-7b", "ask: with --geometry video-llava-7b, encoder and prefill are"),
        ([], "7b", "geometry '7b': choose video-llava-7b or llava-next"),
    ],
)
def test_what_is_not_possible_names_what_is(
    parts: list[str], geometry: str | None, line: str
) -> None:
    with pytest.raises(SettingsError) as error:
        run.choose(parts, geometry)
    assert line in str(error.value)
