"""`vzvideo cache` as a user meets it."""

from __future__ import annotations

from pathlib import Path

from tests.cli.command import QUESTION, SMALL, Command


def test_what_is_kept_is_counted_listed_and_cleared(
    vz: Command, checkpoint: Path, clip: Path
) -> None:
    assert vz("ask", clip, QUESTION, "--model", checkpoint, *SMALL).status == 0
    (size,) = vz("cache", "--json").objects
    assert (size["files"], size["bytes"] > 0) == (1, True)
    (kept,) = vz("cache", "list", "--json").objects
    assert (kept["source"], kept["model"], kept["frames"]) == (str(clip), str(checkpoint), 4)
    assert vz("cache", "list").out.startswith(f"{clip}  {checkpoint}, ")
    assert "cleared of 1 video" in vz("cache", "clear").out
    assert vz("cache", "list").out == ""


def test_an_unknown_action_is_told(vz: Command) -> None:
    assert vz("cache", "burn").line == "vzvideo: cache 'burn': choose size, list or clear"
