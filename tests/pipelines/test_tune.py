"""Tuning on one's own questions, from files to a checkpoint folder that answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor

import vzvideo
from pipelines import tune
from tests.video import clips
from vzvideo.models import loader

QUESTIONS = [
    {"video": "0.mp4", "question": "What happens?", "answers": ["A man rides a bike.", "A man."]},
    {"video": "0.mp4", "question": "Is there a cat?", "answer": "Yes."},
    {"video": "1.mp4", "question": "What happens?", "answer": "Two dogs run."},
    {"video": "2.mp4", "question": "Who?", "answer": "A woman.", "options": ["A man.", "A woman."]},
]


@pytest.fixture(autouse=True)
def _own_accelerator() -> Iterator[None]:
    """accelerate keeps the first precision asked for in a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    for number, frames in enumerate((20, 30, 3)):  # the last gives fewer frames than are asked for
        kind = replace(clips.KINDS[0], frames=frames)
        kind.make(kind, folder / f"{number}.mp4")
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return path


def run(questions: Path, model: Path, out: Path, *options: str, precision: str = "no") -> Path:
    given = ["--model", str(model), "--out", str(out), "--frames", "4", "--tokens-per-frame", "5"]
    given += ["--batch", "2", "--at-once", "2", "--passes", "4", "--every", "2", "--cpu"]
    given += ["--connector-lr", "1e-2", "--lora-lr", "1e-2", "--precision", precision, *options]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tune", str(questions), *given])
        tune.main()
    return out


def weights_of(folder: Path) -> dict[str, Tensor]:
    """By the names they have in memory, whatever the file calls them."""
    _, language = loader.load(folder, device="cpu", dtype="float32")
    return language.model.state_dict()


def changed(folder: Path, model: Path) -> set[str]:
    """What of the model's parts, as the checkpoint holds them, is not as it was."""
    before, after = weights_of(model), weights_of(folder)
    assert before.keys() == after.keys()
    names = [name for name in after if not torch.equal(after[name], before[name].half().float())]
    return {name.removeprefix("model.").partition(".")[0] for name in names}


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_connector_alone(
    questions: Path, checkpoint: Path, tmp_path: Path, precision: str
) -> None:
    out = run(questions, checkpoint, tmp_path / "tuned", precision=precision)
    assert changed(out, checkpoint) == {"multi_modal_projector"}
    about = json.loads((out / "time.json").read_text())
    assert (about["step"], about["train"], about["compress"]) == (6, "connector", True)
    qa = vzvideo.load(str(out), device="cpu", dtype="float32")
    answer = qa.ask(questions.parent / "0.mp4", "What happens?", frames=4, tokens_per_frame=5)
    untrained = vzvideo.load(str(checkpoint), device="cpu", dtype="float32").ask(
        questions.parent / "0.mp4", "What happens?", frames=4, tokens_per_frame=5
    )
    assert answer.text != untrained.text


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_everything(questions: Path, checkpoint: Path, tmp_path: Path, precision: str) -> None:
    out = run(questions, checkpoint, tmp_path / "tuned", "--train", "all", precision=precision)
    assert changed(out, checkpoint) == {"multi_modal_projector", "language_model"}
    assert json.loads((out / "time.json").read_text())["train"] == "all"


def test_what_was_learned_is_likelier(questions: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = run(questions, checkpoint, tmp_path / "tuned", "--train", "all", "--passes", "15")
    scores = []
    for folder in (checkpoint, out):
        qa = vzvideo.load(str(folder), device="cpu", dtype="float32", frames=4, tokens_per_frame=5)
        prefix = qa.language.prefill(qa.encode(questions.parent / "1.mp4"))
        scores += qa.language.log_likelihoods(prefix, "What happens?", ["Two dogs run."])
    assert scores[1] > scores[0] + 1


def test_a_part_of_the_videos_on_every_token(
    questions: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[tuple[str, int]] = []
    encode = vzvideo.VideoQA.encode

    def noted(self: vzvideo.VideoQA, source: str) -> vzvideo.VisualTokens:
        tokens = encode(self, source)
        encoded.append((Path(source).name, len(tokens) // tokens.frames))
        return tokens

    monkeypatch.setattr(vzvideo.VideoQA, "encode", noted)
    out = run(questions, checkpoint, tmp_path / "tuned", "--part", "0.3", "--no-compress")
    assert len(set(encoded)) == 1
    assert encoded[0][1] == 17
    assert json.loads((out / "time.json").read_text())["compress"] is False


def test_a_killed_run_ends_as_one_left_alone(
    questions: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = run(questions, checkpoint, tmp_path / "whole", "--train", "all")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tune, "export", killed)
        with pytest.raises(KeyboardInterrupt):
            run(questions, checkpoint, tmp_path / "killed", "--train", "all")
    assert not (tmp_path / "killed").exists()
    resumed = run(questions, checkpoint, tmp_path / "killed", "--train", "all")
    assert "going on from step 2" in capsys.readouterr().out
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
