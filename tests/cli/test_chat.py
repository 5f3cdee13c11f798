"""`vzvideo chat` as a user meets it: line by line, typed or piped in."""

from __future__ import annotations

import io
import json
import signal
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import LlamaModel

import vzvideo
from tests.cli.command import OTHER, QUESTION, SETTINGS, SMALL, Command, process


def test_chat_answers_each_line_and_knows_what_was_said(checkpoint: Path, clip: Path) -> None:
    qa = vzvideo.load(str(checkpoint), device="cpu", cache=False, **SETTINGS)
    talk = qa.chat(clip)
    expected = [talk.ask(question).text for question in (QUESTION, OTHER, QUESTION)]
    lines = f"{QUESTION}\n\n  {OTHER}  \n{QUESTION}"  # empty lines pass, the last has no end
    said = process("chat", clip, "--model", checkpoint, *SMALL, stdin=lines)
    assert (said.status, said.out.splitlines()) == (0, expected), said.err
    assert len(said.err.splitlines()) == 3


def test_ctrl_c_ends_an_answer_and_not_the_conversation(
    vz: Command, checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal, where a person has heard enough."""
    lines = [QUESTION, OTHER]
    asked: list[str] = []

    def typed(prompt: str) -> str:
        if not lines:
            raise EOFError
        asked.append(lines.pop(0))
        return asked[-1]

    def interrupt(module: torch.nn.Module, _: object) -> None:
        nonlocal steps
        steps += isinstance(module, LlamaModel) and len(asked) == 1
        if steps == 9:
            steps += 1
            signal.pthread_kill(main, signal.SIGINT)

    steps, main = 0, threading.get_ident()
    monkeypatch.setattr("builtins.input", typed)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    options = (*SMALL[:4], "--device", "cpu", "--max-new-tokens", "300")
    hook = register_module_forward_pre_hook(interrupt)
    try:
        said = vz("chat", clip, "--model", checkpoint, *options)
    finally:
        hook.remove()
    assert (said.status, asked) == (0, [QUESTION, OTHER]), said.err
    assert 9 < steps < 100
    # Of the first answer there are no facts, for it has not come to its end.
    assert len([line for line in said.err.splitlines() if line.startswith("[")]) == 1


def test_one_bad_question_ends_no_conversation(
    vz: Command, checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = ("chat", clip, "--json", "--model", checkpoint, *SMALL)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{QUESTION}\n{OTHER}\n"))
    expected = vz(*chat)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{QUESTION}\nWhat is <video>?\n{OTHER}\n"))
    said = vz(*chat)
    assert (expected.status, said.status) == (0, 1)
    first, failure, last = said.objects
    assert [first["answer"], last["answer"]] == [about["answer"] for about in expected.objects]
    assert (failure["question"], failure["stage"]) == ("What is <video>?", "generate")
    assert failure["message"] in said.err


def test_a_slash_is_a_command_where_a_person_types(
    vz: Command, checkpoint: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "talk.jsonl"
    lines = iter(["/help", QUESTION, f"/save {kept}", "/reset", QUESTION, "/exit", OTHER])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    said = vz("chat", clip, "--model", checkpoint, *SMALL)
    first, again = said.out.splitlines()
    assert said.status == 0
    assert first == again  # what was said before is forgotten
    assert "/save FILE" in said.err
    assert json.loads(kept.read_text()) == {"question": QUESTION, "answer": first.strip()}
    assert next(lines) == OTHER  # nobody asked for more
