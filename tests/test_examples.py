"""Every example runs as it stands, on the small random model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ARGUMENTS = {
    "ask_video.py": ["{clip}", "Who is there?", "{model}"],
    "talk_about_it.py": ["{clip}", "{model}"],
    "keep_tokens.py": ["{clip}", "{out}", "{model}"],
    "watch_it_live.py": ["{clip}", "{model}"],
    "method_alone.py": [],
    "fetch_clips.py": None,  # run by `make test` itself, before the tests
}
SAYS = {
    "talk_about_it.py": "What do they wear?",
    "keep_tokens.py": "Where is this?",
    "watch_it_live.py": "In all:",
    "method_alone.py": "to (2, 64, 64)",
}


def test_none_is_forgotten() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(ARGUMENTS)


@pytest.mark.parametrize("name", [name for name, given in ARGUMENTS.items() if given is not None])
def test_example_runs(name: str, clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    places = {"clip": clip, "model": checkpoint, "out": tmp_path / "kept.vz.safetensors"}
    arguments = [text.format(**places) for text in ARGUMENTS[name] or []]
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert SAYS.get(name, "") in done.stdout
    assert done.stdout.strip()
