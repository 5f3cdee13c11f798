"""The paper's three modes: commands in an order that works, and what each mode keeps."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.studies import modes
from pipelines.studies.reductions import METHODS
from tests.pipelines.made import write_parquet

SPLITS = ["dev", *["train"] * 25, "dev"]


@pytest.fixture
def args(tmp_path: Path) -> argparse.Namespace:
    return argparse.Namespace(
        captions=write_parquet(tmp_path / "captions.parquet", SPLITS),
        wheels=tmp_path / "wheels", work=tmp_path / "work", steps=7, batch=4, eval_every=3,
        warm_epochs=1, tokens_per_frame=9, dev=2, limit=None,
    )  # fmt: skip


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_a_tenth_of_the_photographs_is_for_tuning(args: argparse.Namespace) -> None:
    (_, train), (_, dev), *_ = modes.steps(args)
    assert (option(train, "--split"), option(train, "--limit")) == ("train", "2")
    assert (option(dev, "--split"), option(dev, "--limit")) == ("dev", "2")
    args.limit = 10
    (_, train), *rest = modes.steps(args)
    assert option(train, "--limit") == "1"
    assert [option(c, "--limit") for _, c in rest if c[0] == "mini.train"] == ["10", "10"]


def test_what_a_command_reads_an_earlier_one_has_written(args: argparse.Namespace) -> None:
    there = {str(args.captions), str(args.wheels), str(args.work / "training")}
    for mark, (_, *options) in modes.steps(args):
        out = option(options, "--out")
        read = {each for each in options if each.startswith(str(args.work)) and each != out}
        missing = [each for each in read if not any(Path(each).is_relative_to(t) for t in there)]
        assert missing == []
        assert mark is None or mark.parent == Path(out)
        there.add(out)


def test_every_command_takes_its_options(
    args: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Parsed(Exception):
        pass

    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser) -> None:
        parse(self)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    seen = []
    for _, (name, *options) in modes.steps(args):
        monkeypatch.setattr(sys, "argv", [name, *options])
        with pytest.raises(Parsed):
            importlib.import_module(f"pipelines.{name}").main()
        seen.append(name)
    assert seen == ["mini.make_clips"] * 2 + ["mini.train"] * 2 + ["tune"] + ["studies.compare"] * 3


def written(work: Path, checkpoint: str, scores: dict[str, tuple[int, *tuple[float, ...]]]) -> None:
    """What compare and the trainings leave: by method its tokens, presence, captions and order."""
    lines: list[dict[str, Any]] = []
    for method, (tokens, *each) in scores.items():
        kinds = {
            kind: {"score": score, "low": score - 0.1, "high": score + 0.1, "questions": 9}
            for kind, score in zip(("presence", "caption", "before"), each, strict=True)
        }
        lines.append({"method": method, "tokens_per_frame": tokens, "kinds": kinds})
    (work / checkpoint).mkdir()
    (work / checkpoint / "time.json").write_text(json.dumps({"train_s": len(checkpoint)}))
    (work / f"{checkpoint}.json").write_text(json.dumps({"lines": lines}))


def test_what_each_mode_keeps(tmp_path: Path) -> None:
    none = {"no video": (0, 0.5, 0.1, 0.5)}
    whole = {"full": (257, 0.8, 0.5, 0.59), "VisionZip": (17, 0.6, 0.25, 0.59)}
    others = [method for method in METHODS if method != "VisionZip"]
    whole |= dict.fromkeys(others, (17, 0.4, 0.25, 0.5))
    written(tmp_path, "whole", none | whole)
    written(tmp_path, "light", none | {"VisionZip": (17, 0.76, 0.4, 0.4)})
    written(tmp_path, "zipped", none | {"VisionZip": (17, 0.88, 0.5, 0.9)})
    lines = modes.table(tmp_path)
    assert [line["mode"] for line in lines] == [
        "no video", "whole frames", "training-free",
        *(f"training-free: {method}" for method in others),
        "efficient tuning", "VisionZip throughout",
    ]  # fmt: skip
    assert {line["tokens_per_frame"] for line in lines[2:]} == {17}
    assert [line["tokens_per_frame"] for line in lines[:2]] == [0, 257]
    # Which came before, whole frames only guess: it does not count.
    kept = [(0.5 / 0.8 + 0.1 / 0.5) / 2, 1.0, 0.625, *[0.5] * len(others), 0.875, 1.05]
    assert [line["kept"] for line in lines] == pytest.approx(kept)
    assert [line["training"]["train_s"] for line in lines[-2:]] == [5, 6]
    head, _, nothing, first, *_, last = modes.markdown(lines).splitlines()
    assert head == "| mode | tokens a frame | presence | caption | before | kept |"
    assert nothing.endswith("| 0.500 (0.40-0.60) | 41.2% |")
    assert first.startswith("| whole frames | 257 | 0.800 (0.70-0.90) | 0.500 (0.40-0.60) |")
    assert last.endswith("| 105.0% |")


def test_of_what_is_guessed_nothing_is_kept(tmp_path: Path) -> None:
    tokens = {"no video": 0, "full": 257, **dict.fromkeys(METHODS, 17)}
    same = {name: (each, 0.5, 0.1, 0.5) for name, each in tokens.items()}
    for checkpoint in ("whole", "light", "zipped"):
        written(tmp_path, checkpoint, same)
    assert {line["kept"] for line in modes.table(tmp_path)} == {None}
