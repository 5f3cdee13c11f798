"""`vzvideo encode` as a user meets it, and what becomes of the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import QUESTION, SMALL, Command
from tests.conftest import small_model, write_checkpoint
from vzvideo.types import VisualTokens


def test_encoded_tokens_take_the_videos_place(
    vz: Command,
    checkpoint: Path,
    clip: Path,
    answers: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    encode = ("encode", clip, "--model", checkpoint, *SMALL[:4])
    for arguments, target in (((), "numbers.vz.safetensors"), (("-o", "kept"), "kept")):
        said = vz(*encode, *arguments)
        assert (said.status, said.out) == (0, f"{target}\n")
        assert said.line.startswith("4 frames, 68 -> 20 tokens, ")
        assert len(VisualTokens.load(tmp_path / target)) == 20
        said = vz("ask", target, QUESTION, "--json", "--model", checkpoint, *SMALL[4:])
        (about,) = said.objects
        assert (about["answer"], about["source"]) == (answers[QUESTION], str(clip))
    assert vz(*encode, "-o", "kept").status == 0  # tokens may replace tokens
    said = vz("ask", "kept", QUESTION, "--frames", "2", "--start", "1", "--no-compress")
    assert "--frames, --start, --no-compress: the tokens in kept are encoded already" in said.line
    said = vz("encode", "kept", "-o", "again")
    assert said.line == "vzvideo: kept: holds visual tokens already; `ask` and `chat` take it"


def test_tokens_of_another_model_are_refused(
    vz: Command, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    another = write_checkpoint(tmp_path / "another", small_model(seed=1))
    kept = tmp_path / "kept.safetensors"
    assert vz("encode", clip, "-o", kept, "--model", another).status == 0
    said = vz("ask", kept, QUESTION, "--json", "--model", checkpoint)
    assert said.status == 1
    assert f"encoded for model '{another}', not for '{checkpoint}'" in said.line
    assert said.objects[0]["error"] == "other_model"


def test_nothing_else_is_overwritten(
    vz: Command, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(clip.read_bytes())
    for target, told in (
        (film, "is there, and no file of visual tokens"),
        (tmp_path, "is there, and no file of visual tokens"),
        (tmp_path / "new.mkv", "is a video's name"),
        (tmp_path / "missing" / "kept", f"there is no folder {tmp_path / 'missing'}"),
    ):
        said = vz("encode", film, "-o", target, "--model", checkpoint)
        assert (said.status, said.out) == (1, "")
        assert said.line.startswith(f"vzvideo: {target}: {told}")
    assert film.read_bytes() == clip.read_bytes()
