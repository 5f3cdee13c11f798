"""The comparison: every method gives what it says, and the judge says what the model would."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.mini.packing import answer_losses, packer_for
from pipelines.mini.trainer import Trainee
from pipelines.studies import compare
from pipelines.studies.compare import BUDGETS, YES_NO, Clip, Judge, Plan, markdown
from pipelines.studies.reductions import METHODS
from tests.conftest import small_model, small_tokenizer
from tests.models.test_encoder import encoder_of
from tests.pipelines.made import random_features, scored, visual_tokens
from tests.tolerances import LOGITS_F32
from vzvideo.evaluation.questions import Question
from vzvideo.models.language import LanguageModel
from vzvideo.video import open_video, sampling

ASKED = [
    ("Is there a cat?", ()),
    ("What happens first?", ("A man rides a bike.", "Two dogs run.", "A woman.")),
    ("Is it?", ()),
]
CLIPS = [30 * random_features(11, 32, seed=seed) for seed in range(4)]


@pytest.fixture(scope="module")
def language() -> LanguageModel:
    return LanguageModel(small_model(), small_tokenizer())


def test_a_clip_gives_frames_at_even_distances() -> None:
    frames = scored(frames=8)
    clip = Clip(frames, [])
    assert torch.equal(clip.tokens(2, None, METHODS["random"]), frames.hidden[[2, 6]].flatten(0, 1))
    assert torch.equal(
        clip.tokens(8, 9, METHODS["VisionZip"]), METHODS["VisionZip"](frames, 9).flatten(0, 1)
    )


def test_looking_decodes_and_encodes_a_clip(clip: Path) -> None:
    encoder = encoder_of("clip")
    found = compare.look(encoder, clip, 9)
    with open_video(clip, size=112) as video:
        times = sampling.uniform(0, video.info.duration_s, 9)
        pixels = torch.from_numpy(video.frames_at(times).pixels)
    hidden = torch.cat([encoder.score(encoder.preprocess(p)).hidden for p in pixels.split(8)])
    assert torch.equal(found.hidden, hidden.half())
    assert (found.scores.dtype, found.keys.dtype) == (torch.float32, torch.float16)


# -- the judge


def likely(language: LanguageModel, features: Tensor, question: str, options: Any) -> list[float]:
    return language.log_likelihoods(
        language.prefill(visual_tokens(features)), question, list(options)
    )


def test_losses_are_the_likelihoods_of_the_model(language: LanguageModel) -> None:
    items = [(question, text) for question, options in ASKED for text in options or YES_NO]
    batch = packer_for(language)([items] * len(CLIPS), 11)
    trainee = Trainee(small_model(), None, lora=False).eval()
    with torch.no_grad():
        found = answer_losses(trainee(torch.stack(CLIPS), batch), batch)
    expected = [
        -loss
        for features in CLIPS
        for question, options in ASKED
        for loss in likely(language, features, question, options or YES_NO)
    ]
    torch.testing.assert_close(found, torch.tensor(expected), atol=LOGITS_F32, rtol=LOGITS_F32)


@pytest.mark.parametrize("batch_tokens", [100, 6000])
def test_the_option_is_chosen_that_the_video_makes_likelier(
    language: LanguageModel, batch_tokens: int
) -> None:
    questions, expected, nothing = [], {}, language.prefill_text_only()
    for row, features in enumerate(CLIPS):
        some = []
        for question, options in ASKED:
            scores = likely(language, features, question, options or YES_NO)
            if options:  # what the video adds
                blind = language.log_likelihoods(nothing, question, list(options))
                scores = [a - b for a, b in zip(scores, blind, strict=True)]
            for text, score in zip(options or YES_NO, scores, strict=True):
                name = f"{row} {question} {text}"
                some.append(Question(name, "a.mp4", question, (text,), options))
                expected[name] = float(score == max(scores))
        questions.append(some)
    assert Judge(language, batch_tokens).chosen(CLIPS, questions) == expected
    first = [expected[name] for name in expected if "first" in name]
    assert len({tuple(first[i : i + 3]) for i in range(0, 12, 3)}) > 1  # clips differ


@pytest.mark.parametrize("batch_tokens", [200, 6000])
def test_captions_are_those_of_each_clip_alone(language: LanguageModel, batch_tokens: int) -> None:
    expected = [
        language.answer(
            language.prefill(visual_tokens(features)),
            "What happens?",
            max_new_tokens=compare.CAPTION_TOKENS,
        )
        for features in CLIPS
    ]
    assert Judge(language, batch_tokens).captions(CLIPS, "What happens?") == expected
    assert len(set(expected)) > 1


def test_a_judge_in_half_precision_chooses() -> None:
    language = LanguageModel(small_model().bfloat16(), small_tokenizer())
    asked = Question("1", "a.mp4", "Is there a cat?", ("Yes.",))
    chosen = Judge(language).chosen(CLIPS[:1], [[asked]])
    assert set(chosen) == {"1"}
    assert chosen["1"] in (0.0, 1.0)


def test_a_judge_is_where_its_model_is() -> None:
    judge = Judge(LanguageModel(small_model().to("meta"), small_tokenizer()))
    assert {buffer.device.type for buffer in judge._trainee.buffers()} == {"meta"}


# -- the tables


class Counter:
    """A judge that takes note of what it is given and finds every first option right."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def chosen(self, features: list[Tensor], asked: list[list[Question]]) -> dict[str, float]:
        self.tokens.append(len(features[0]))
        return {question.id: 1.0 for some in asked for question in some}

    def captions(self, features: list[Tensor], question: str) -> list[str]:
        assert question == "Describe the video."
        return [f"a clip of {len(each)}" for each in features]


def clips_of(name: str, frames: int) -> list[Clip]:
    kind = "ever" if name == "long" else name
    made = []
    for n in range(2):
        some = [
            Question(f"{name}{n}a", f"{name}{n}", "Is it?", ("Yes.",), kind=kind),
            Question(f"{name}{n}b", f"{name}{n}", "Who?", ("A man.",), kind=kind),
            Question(f"{name}{n}c", f"{name}{n}", "Describe the video.", (f"clip {n}", "a"),
                     kind=f"caption, {name}", metric="caption"),
        ]  # fmt: skip
        made.append(Clip(scored(frames), some))
    return made


def test_the_tables_hold_every_method_and_budget() -> None:
    found = [(p.table, p.method, p.frames, p.tokens_per_frame) for p in compare.plans(257)]
    assert sorted(found) == sorted([
        ("frames", "no video", 0, 0),
        ("frames", "full", 0, 257),
        *(("frames", method, 0, tokens) for method in METHODS for tokens in BUDGETS),
        ("tokens", "no video", 1, 0),
        ("tokens", "full", 2, 257),
        ("tokens", "VisionZip", 8, 65),
        ("tokens", "VisionZip", 16, 33),
        ("tokens", "VisionZip", 32, 17),
    ])  # fmt: skip
    assert {p.tokens_per_frame for p in compare.plans(257, [12])} == {0, 12, 257, 65, 33, 17}


@pytest.mark.parametrize("plan", compare.plans(257, [12]), ids=str)
def test_a_line_scores_the_clips_of_its_table(plan: Plan) -> None:
    groups = {name: clips_of(name, frames) for name, frames in compare.FRAMES.items()}
    judge: Any = Counter()
    line = compare.line(judge, groups, plan)
    assert {name: line[name] for name in Plan.__annotations__} == asdict(plan)
    frames, kinds = [plan.frames], {"ever"}
    captions = {"caption, long"}
    if plan.table == "frames":
        frames, kinds = [1, 4, 4], {"still", "pan", "cut"}
        captions = {f"caption, {kind}" for kind in kinds}
    assert judge.tokens == [plan.tokens_per_frame * count for count in frames]
    assert line["kinds"].keys() == kinds | captions
    for kind in kinds:
        assert line["kinds"][kind] == {"score": 1.0, "low": 1.0, "high": 1.0, "questions": 2}


@pytest.fixture
def still(clip: Path, tmp_path: Path) -> Path:
    """What make_clips would have written, of one clip."""
    shutil.copy(clip, tmp_path / "still-0.mp4")
    row = {"video": "still-0.mp4", "question": "Is it?", "answers": ["Yes."], "kind": "presence"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path


def test_lines_that_stand_are_not_made_again(
    still: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = still / "table.json"

    def run(*more: str) -> list[dict[str, Any]]:
        argv = ["compare", str(still), "--model", str(checkpoint), "--table", "frames"]
        monkeypatch.setattr(sys, "argv", [*argv, "--out", str(out), *more])
        compare.main()
        lines: list[dict[str, Any]] = json.loads(out.read_text())["lines"]
        return lines

    first = run("--budgets", "5")
    assert [line["method"] for line in first] == ["no video", "full", *METHODS]
    about = json.loads(out.read_text())
    about["lines"][0]["kinds"]["presence"]["score"] = 0.123
    del about["lines"][1]
    out.write_text(json.dumps(about))
    both = run("--budgets", "5", "9")
    assert both[0]["kinds"]["presence"]["score"] == 0.123
    assert both[1] == first[1]
    assert [line["tokens_per_frame"] for line in both] == [0, 17, *[9, 5] * len(METHODS)]
    with pytest.raises(SystemExit, match=r"another comparison \(dtype differ\)"):
        run("--dtype", "float32")
    (still / "questions.jsonl").write_text(
        (still / "questions.jsonl").read_text().replace("Y", "y")
    )
    with pytest.raises(SystemExit, match="questions differ"):
        run()


def test_tables_in_markdown() -> None:
    kinds = {"caption": {"score": 0.5, "low": 0.25, "high": 0.75, "questions": 3}}
    line = {"method": "full", "frames": 2, "tokens_per_frame": 257, "kinds": kinds}
    lines = [line | {"table": "frames"}, line | {"table": "tokens", "method": "VisionZip"}]
    assert markdown(lines, "frames").splitlines() == [
        "| method | tokens a frame | caption |",
        "| --- | --- | --- |",
        "| full | 257 | 0.500 (0.25-0.75) |",
    ]
    assert markdown(lines, "tokens").splitlines() == [
        "| method | frames | tokens a frame | caption |",
        "| --- | --- | --- | --- |",
        "| VisionZip | 2 | 257 | 0.500 (0.25-0.75) |",
    ]
