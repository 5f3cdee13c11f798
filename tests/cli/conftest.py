"""The command line in this process, and what the library answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import vzvideo
from tests.cli.command import OTHER, QUESTION, SETTINGS, Said
from vzvideo.cli import main as cli


@pytest.fixture
def vz(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command line in this process, with a cache of its own."""
    monkeypatch.setenv("VZVIDEO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VZVIDEO_DEBUG", raising=False)

    def run(*arguments: object) -> Said:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        said = capfd.readouterr()
        return Said(int(end.value.code or 0), said.out, said.err)

    return run


@pytest.fixture(scope="module")
def answers(checkpoint: Path, clip: Path) -> dict[str, str]:
    """What the library answers."""
    qa = vzvideo.load(str(checkpoint), device="cpu", cache=False, **SETTINGS)
    return {question: qa.ask(clip, question).text for question in (QUESTION, OTHER)}
