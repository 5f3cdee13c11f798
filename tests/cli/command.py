"""The command line as the tests run it, and what it said."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

QUESTION, OTHER = "What is the man doing?", "Is there a cat?"
SMALL = ["--frames", "4", "--tokens-per-frame", "5", "--max-new-tokens", "6", "--device", "cpu"]
SETTINGS: dict[str, Any] = {"frames": 4, "tokens_per_frame": 5, "max_new_tokens": 6}


@dataclass
class Said:
    status: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line on stderr that tells what went wrong."""
        told = [line for line in self.err.splitlines() if not line.startswith("model: ")]
        assert len(told) == 1, self.err
        assert "Traceback" not in self.err
        return told[0]

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Command = Callable[..., Said]


def process(*arguments: object, stdin: str = "", **options: Any) -> Said:
    """Runs the command line as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", "vzvideo", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def imported_by(code: str) -> set[str]:
    code = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}
