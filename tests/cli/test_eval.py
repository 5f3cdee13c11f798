"""`vzvideo eval` as a user meets it: a table, kept answers, and a status that tells of failures."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.cli.command import OTHER, QUESTION, SMALL, Command


def test_eval_prints_a_table_and_keeps_the_answers(
    vz: Command, checkpoint: Path, clip: Path, answers: dict[str, str], tmp_path: Path
) -> None:
    rows = [
        {"video": clip.name, "question": QUESTION, "answer": answers[QUESTION]},
        {"video": clip.name, "question": OTHER, "answer": "something else"},
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["eval", file, "--videos", clip.parent, "--model", checkpoint, *SMALL]
    said = vz(*command)
    assert said.status == 0, said.err
    assert re.search(r"all +exact +2 +0\.500", said.out)
    assert str(tmp_path / "mine.eval" / "answers.parquet") in said.err
    (score,) = vz(*command, "--json").objects
    assert (score["score"], score["questions"], score["failed"]) == (0.5, 2, 0)
    refused = vz(*command, "--frames", "2")
    assert refused.status == 1
    assert "frames 4 -> 2" in refused.line
    rows.append({"video": "missing.mp4", "question": OTHER, "answer": "x"})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = vz(*command, "--out", tmp_path / "other")
    assert said.status == 1
    assert re.search(r"all +exact +3 +0\.500.* 1$", said.out, re.MULTILINE)
    (told,) = [line for line in said.err.splitlines() if line.startswith("vzvideo: ")]
    assert "missing.mp4: no such file" in told
    nowhere = vz("eval", file, "--videos", tmp_path, "--model", checkpoint)
    assert nowhere.line.startswith("vzvideo: none of the videos is there, ")
    assert not (tmp_path / "mine.eval" / "answers.jsonl").read_text().count("missing")
    rows += [{"video": f"missing{n}.mp4", "question": OTHER, "answer": "x"} for n in range(6)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = vz(*command, "--out", tmp_path / "many")
    told = [line for line in said.err.splitlines() if line.startswith("vzvideo: ")]
    assert len(told) == 6
    assert told[-1] == "vzvideo: and 2 more, each in its row"
