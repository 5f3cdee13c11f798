"""An evaluation on a small random model and real files: asked, kept, and gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import vzvideo
from vzvideo.errors import SettingsError
from vzvideo.evaluation import run as evaluation
from vzvideo.evaluation.questions import Question
from vzvideo.qa.video_qa import VideoQA

OPTIONS = ("A man rides a bike.", "Two dogs run.", "A cat.")


@pytest.fixture
def qa(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VideoQA:
    monkeypatch.setenv("VZVIDEO_CACHE", str(tmp_path / "cache"))
    return vzvideo.load(str(checkpoint), tokens_per_frame=5, max_new_tokens=5, frames=4)


@pytest.fixture
def videos(clip: Path, tmp_path: Path) -> list[Path]:
    """Three files with the same frames under different names."""
    paths = [tmp_path / f"{name}.mp4" for name in "abc"]
    for path in paths:
        path.write_bytes(clip.read_bytes())
    return paths


def ask(video: Path, number: int, **more: Any) -> Question:
    about: dict[str, Any] = {"answers": ("yes",), **more}
    return Question(f"{video.stem}{number}", str(video), "Is there a cat?", **about)


@pytest.fixture
def questions(videos: list[Path]) -> list[Question]:
    return [
        question
        for video in videos
        for question in (
            ask(video, 0),
            ask(video, 1, answers=(OPTIONS[1],), options=OPTIONS, metric="choice", kind="pick"),
            ask(video, 2, answers=OPTIONS[:2], metric="caption", kind="tell"),
        )
    ]


def test_rows_table_and_files(qa: VideoQA, questions: list[Question], tmp_path: Path) -> None:
    out = tmp_path / "out"
    scores = {(s.kind, s.metric): s for s in evaluation.run(qa, questions, out)}
    assert list(scores) == [
        ("all", "exact"), ("pick", "choice"), ("tell", "CIDEr"), ("tell", "BLEU-4"),
        ("overall", "right"),
    ]  # fmt: skip
    assert [score.questions for score in scores.values()] == [3, 3, 3, 3, 6]
    rows = pq.read_table(out / "answers.parquet").to_pylist()
    assert [row["id"] for row in rows] == [question.id for question in questions]
    for row, question in zip(rows, questions, strict=True):
        assert (row["video"], row["frames"], row["tokens"]) == (question.video, 4, 20)
        assert row["answer"]
        assert row["no_video"]
        assert row["wrong"] not in (None, question.video)
        assert row["error"] is None
    kept = json.loads((out / "scores.json").read_text())
    assert kept["tokens_per_frame"] == 5
    assert [s["metric"] for s in kept["scores"]] == [metric for _, metric in scores]


def test_answers_are_those_of_ask(qa: VideoQA, questions: list[Question], tmp_path: Path) -> None:
    spoken = [question for question in questions if question.metric != "choice"]
    evaluation.run(qa, spoken, tmp_path / "out", baselines=False)
    for row in pq.read_table(tmp_path / "out" / "answers.parquet").to_pylist():
        assert row["answer"] == qa.ask(row["video"], row["question"]).text
        assert row["no_video"] is row["wrong_video"] is None


def test_the_likeliest_option_is_chosen(
    qa: VideoQA, questions: list[Question], videos: list[Path], tmp_path: Path
) -> None:
    evaluation.run(qa, questions, tmp_path / "out")
    prefix = qa.language.prefill(qa.encode(videos[0]))
    likely = qa.language.log_likelihoods(prefix, "Is there a cat?", list(OPTIONS))
    assert len(set(likely)) == 3
    row = pq.read_table(tmp_path / "out" / "answers.parquet").to_pylist()[1]
    assert row["answer"] == OPTIONS[likely.index(max(likely))]
    assert row["answer_score"] == (row["answer"] == OPTIONS[1])
    assert row["probability"] == pytest.approx(float(torch.tensor(likely).softmax(0).max()))


def test_what_the_video_adds_may_decide(
    qa: VideoQA, questions: list[Question], videos: list[Path], tmp_path: Path
) -> None:
    evaluation.run(qa, questions, tmp_path / "out", choose="pmi")
    language = qa.language
    said = list(OPTIONS)
    seen = language.log_likelihoods(language.prefill(qa.encode(videos[0])), "Is there a cat?", said)
    blind = language.log_likelihoods(language.prefill_text_only(), "Is there a cat?", said)
    gained = [a - b for a, b in zip(seen, blind, strict=True)]
    row = pq.read_table(tmp_path / "out" / "answers.parquet").to_pylist()[1]
    assert row["answer"] == OPTIONS[gained.index(max(gained))]
    assert row["no_video"] == OPTIONS[blind.index(max(blind))]  # nothing is added to nothing


def test_letters_are_asked_for_where_wanted(
    qa: VideoQA, questions: list[Question], videos: list[Path], tmp_path: Path
) -> None:
    evaluation.run(qa, questions[1:2], tmp_path / "out", choose="letter", prompt="So: {question}")
    asked = (
        "So: Is there a cat?\n(A) A man rides a bike.\n(B) Two dogs run.\n(C) A cat.\n"
        "Answer with the option's letter."
    )
    prefix = qa.language.prefill(qa.encode(videos[0]))
    likely = qa.language.log_likelihoods(prefix, asked, ["A", "B", "C"])
    row = pq.read_table(tmp_path / "out" / "answers.parquet").to_pylist()[0]
    assert row["answer"] == OPTIONS[likely.index(max(likely))]


def test_a_stopped_run_goes_on(
    qa: VideoQA, questions: list[Question], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluation.run(qa, questions, tmp_path / "whole")
    read: list[int] = []
    language_prefill = qa.language.prefill

    def counting(stop: int) -> Callable[..., Any]:
        def reading(tokens: Any) -> Any:
            if len(read) == stop:
                raise KeyboardInterrupt
            read.append(1)
            return language_prefill(tokens)

        return reading

    monkeypatch.setattr(qa.language, "prefill", counting(3))  # a video and its wrong one are two
    with pytest.raises(KeyboardInterrupt):
        evaluation.run(qa, questions, tmp_path / "out")
    ledger = tmp_path / "out" / "answers.jsonl"
    assert len(ledger.read_text().splitlines()) == 1 + 3
    with ledger.open("a") as file:
        file.write('{"id": "half a li')
    read.clear()
    monkeypatch.setattr(qa.language, "prefill", counting(100))
    assert evaluation.run(qa, questions, tmp_path / "out") == whole
    assert len(read) == 4
    rows = [pq.read_table(tmp_path / name / "answers.parquet") for name in ("whole", "out")]
    assert rows[0].equals(rows[1])


def test_answers_are_found_as_the_settings_say(
    qa: VideoQA, questions: list[Question], tmp_path: Path
) -> None:
    qa.settings = qa.settings.replace(num_beams=8, max_new_tokens=30)
    evaluation.run(qa, questions[:1], tmp_path / "out", baselines=False)
    [row] = pq.read_table(tmp_path / "out" / "answers.parquet").to_pylist()
    assert row["answer"] == qa.ask(row["video"], row["question"]).text
    assert row["answer"] != qa.ask(row["video"], row["question"], num_beams=1).text


def test_another_run_is_not_mixed_in(
    qa: VideoQA, questions: list[Question], tmp_path: Path
) -> None:
    evaluation.run(qa, questions[:1], tmp_path / "out")
    with pytest.raises(SettingsError, match=r"prompt '\{question\}' -> 'Say: \{question\}'"):
        evaluation.run(qa, questions[:1], tmp_path / "out", prompt="Say: {question}")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "answers.jsonl").write_text("my own\n")
    with pytest.raises(SettingsError, match="no file of answers"):
        evaluation.run(qa, questions[:1], tmp_path / "mine")
    assert (tmp_path / "mine" / "answers.jsonl").read_text() == "my own\n"


def test_questions_may_be_added_and_changed(
    qa: VideoQA, questions: list[Question], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation.run(qa, questions[:4], tmp_path / "out", baselines=False)
    said: list[str] = []
    answer_many = qa.language.answer_many

    def listening(prefix: Any, asked: list[str], **options: Any) -> list[str]:
        said.extend(asked)
        return answer_many(prefix, asked, **options)

    monkeypatch.setattr(qa.language, "answer_many", listening)
    changed = replace(questions[0], question="Is there a dog?")
    odd = replace(questions[3], id="odd", question="Is there\u2028a cat?")
    now = [changed, *questions[1:4], odd]
    evaluation.run(qa, now, tmp_path / "out", baselines=False)
    assert sorted(said) == ["Is there a dog?", "Is there\u2028a cat?"]
    said.clear()
    evaluation.run(qa, now, tmp_path / "out", baselines=False)
    assert said == []


def test_one_bad_question_fails_alone(
    qa: VideoQA, questions: list[Question], tmp_path: Path
) -> None:
    bad = [replace(q, id=f"bad {q.id}", question="What is <video>?") for q in questions[::3]]
    evaluation.run(qa, [*bad, *questions], tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "answers.parquet").to_pylist()
    assert all(row["error"].startswith("answer:") for row in rows[:3])
    assert all(row["error"] is None and row["wrong_video"] for row in rows[3:])


def test_baselines_are_means_over_what_was_asked(
    qa: VideoQA, videos: list[Path], tmp_path: Path
) -> None:
    blind = qa.language.answer(qa.language.prefill_text_only(), "Is there a cat?", max_new_tokens=5)
    paths = [videos[0], tmp_path / "missing.mp4"]
    asked = [ask(path, 0, answers=(blind,)) for path in paths]
    score = evaluation.run(qa, asked, tmp_path / "out")[0]
    assert score.no_video == 1.0
    assert (score.failed, score.low) == (1, None)


def test_a_failed_video_is_told_and_tried_again(
    qa: VideoQA, videos: list[Path], tmp_path: Path
) -> None:
    missing = tmp_path / "later.mp4"
    yes = qa.ask(videos[0], "Is there a cat?").text
    questions = [ask(path, 0, answers=(yes,)) for path in (videos[0], missing)]
    score = evaluation.run(qa, questions, tmp_path / "out")[0]
    assert (score.score, score.failed, score.questions) == (1.0, 1, 2)
    row = pq.read_table(tmp_path / "out" / "answers.parquet").to_pylist()[1]
    assert row["error"] == "decode:not_found"
    assert "later.mp4" in row["message"]
    missing.write_bytes(videos[0].read_bytes())
    score = evaluation.run(qa, questions, tmp_path / "out")[0]
    assert (score.score, score.failed) == (1.0, 0)


def test_one_video_alone_has_no_wrong_one(qa: VideoQA, videos: list[Path], tmp_path: Path) -> None:
    score = evaluation.run(qa, [ask(videos[0], 0)], tmp_path / "out")[0]
    assert score.no_video is not None
    assert score.wrong_video is None


def test_a_sample_is_always_the_same(questions: list[Question]) -> None:
    some = evaluation.sample(questions, 4)
    assert some == evaluation.sample(questions, 4)
    assert len(some) == 4
    assert [q for q in questions if q in some] == some
    assert evaluation.sample(questions, None) == evaluation.sample(questions, 99) == questions


def test_wrong_options_of_a_run(qa: VideoQA, questions: list[Question], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="question"):
        evaluation.run(qa, questions, tmp_path / "out", prompt="What?")
    with pytest.raises(SettingsError, match="likelihood, pmi, letter"):
        evaluation.run(qa, questions, tmp_path / "out", choose="dice")  # type: ignore[arg-type]
