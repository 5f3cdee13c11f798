"""What a model is told, token by token, against what the published processors write.

The text that shows a video comes from the processors' own methods, which need neither torchvision
nor files; the chat form around it is written down here as the published templates produce it.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.llava_next_video.processing_llava_next_video import (
    LlavaNextVideoProcessor,
)
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.smolvlm import processing_smolvlm
from transformers.models.video_llava.processing_video_llava import VideoLlavaProcessor
from transformers.video_utils import VideoMetadata

from tests.models.families import tiny
from vzvideo.models.families.smolvlm import number_in_words
from vzvideo.models.language import LanguageModel

QUESTION = "What is the man doing?"
FRAMES = (1, 2, 8, 33)
IN_WORDS = {1: "one", 2: "two", 8: "eight", 33: "thirty-three"}
FPS = 2.0


def metadata(count: int) -> VideoMetadata:
    return VideoMetadata(
        total_num_frames=count, fps=FPS, duration=None, frames_indices=list(range(count))
    )


def video_llava(count: int) -> str:
    said = SimpleNamespace(patch_size=14, num_additional_image_tokens=1, video_token="<video>")
    shown = {"pixel_values_videos": [torch.zeros(count, 3, 84, 84)]}
    return VideoLlavaProcessor.replace_video_token(said, shown, 0)  # type: ignore[arg-type]


def llava_next_video(count: int) -> str:
    said = SimpleNamespace(patch_size=14, video_token="<video>")
    shown = {"pixel_values_videos": [torch.zeros(count, 3, 84, 84)]}
    return LlavaNextVideoProcessor.replace_video_token(said, shown, 0)  # type: ignore[arg-type]


def llava_onevision(count: int) -> str:
    said = SimpleNamespace(num_image_tokens=49, video_token="<video>")
    shown = {"pixel_values_videos": [torch.zeros(count, 3, 98, 98)]}
    return LlavaOnevisionProcessor.replace_video_token(said, shown, 0)  # type: ignore[arg-type]


def smolvlm(count: int) -> str:
    said = SimpleNamespace(
        image_seq_len=16, image_token="<image>", fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
    )  # fmt: skip
    shown = {"pixel_values": torch.zeros(1, count), "video_metadata": [metadata(count)]}
    return processing_smolvlm.SmolVLMProcessor.replace_video_token(said, shown, 0)  # type: ignore[arg-type]


def internvl(count: int) -> str:
    said = SimpleNamespace(
        start_image_token="<img>", end_image_token="</img>", image_token="<IMG_CONTEXT>",
        image_seq_length=16,
    )  # fmt: skip
    shown = {"pixel_values_videos": torch.zeros(1, count)}
    return InternVLProcessor.replace_video_token(said, shown, 0)  # type: ignore[arg-type]


def qwen(kind: Any, count: int) -> str:
    said: Any = SimpleNamespace(
        video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
        video_token="<|video_pad|>", vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
    )  # fmt: skip
    said._calculate_timestamps = lambda *given: Qwen3VLProcessor._calculate_timestamps(said, *given)
    grid = torch.tensor([[-(-count // 2), 8, 12]])
    shown = {"video_grid_thw": grid, "video_metadata": [metadata(count)]}
    return kind.replace_video_token(said, shown, 0)


CHATML = "<|im_start|>user\n{}\n{}<|im_end|>\n<|im_start|>assistant\n"
PUBLISHED: dict[str, Any] = {  # the video's text and the form around it
    "llava": (lambda n: "\n".join(["<image>" * 36] * n), "USER: {}\n{} ASSISTANT:"),
    "video_llava": (video_llava, "USER: {}\n{} ASSISTANT:"),
    "llava_next": (lambda n: "\n".join(["<image>" * 37] * n), "[INST] {}\n{} [/INST]"),
    "llava_next_video": (llava_next_video, "USER: {}\n{} ASSISTANT:"),
    "llava_onevision": (llava_onevision, CHATML),
    "smolvlm": (smolvlm, "<|im_start|>User: {}{}<end_of_utterance>\nAssistant:"),
    "internvl": (internvl, CHATML),
    "qwen2_5_vl": (
        lambda n: qwen(Qwen2_5_VLProcessor, n),
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|>{}<|vision_end|>{}<|im_end|>\n<|im_start|>assistant\n",
    ),
    # Its processor of today doubles the tokens around each time; it was trained without that.
    "qwen3_vl": (
        lambda n: qwen(Qwen3VLProcessor, n),
        "<|im_start|>user\n{}{}<|im_end|>\n<|im_start|>assistant\n",
    ),
}
CELLS = {"llava": 36, "video_llava": 37, "llava_next": 36, "llava_next_video": 9,
         "llava_onevision": 16, "smolvlm": 16, "internvl": 16, "qwen2_5_vl": 24,
         "qwen3_vl": 24}  # fmt: skip


@pytest.mark.parametrize("count", FRAMES)
@pytest.mark.parametrize("name", PUBLISHED)
def test_token_ids_are_those_of_the_published_processor(
    name: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processing_smolvlm, "num2words", IN_WORDS.__getitem__)
    language = LanguageModel(tiny.model(name), tiny.tokenizer())
    video, form = PUBLISHED[name]
    expected = language.tokenizer(form.format(video(count), QUESTION)).input_ids
    times_s = [number / FPS for number in range(count)]
    if name.startswith("qwen"):
        times_s = [(a + b) / 2 for a, b in zip(times_s[::2], [*times_s[1::2], times_s[-1]],
                                               strict=False)]  # fmt: skip
    line = language.family.newline
    counts = [CELLS[name] + line] * len(times_s)
    if not language.clips.apart:
        counts = [CELLS[name] * len(times_s) + line]
    before = language.clips.reading(counts, times_s)
    after = language.prompts.opening(QUESTION)[1]
    assert [*before, *after] == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_question_is_asked_behind_the_video(name: str) -> None:
    language = LanguageModel(tiny.model(name), tiny.tokenizer())
    whole = language.tokenizer.decode(language.prompts.opening(QUESTION)[1])
    assert QUESTION in whole
    assert "<image>" not in whole
    told = language.tokenizer.decode(language.prompts.following(QUESTION))
    assert QUESTION in told


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "zero"), (7, "seven"), (19, "nineteen"), (20, "twenty"), (64, "sixty-four"),
        (100, "one hundred"), (128, "one hundred and twenty-eight"), (200, "two hundred"),
        (999, "nine hundred and ninety-nine"), (1000, "one thousand"),
        (1024, "one thousand and twenty-four"), (1100, "one thousand, one hundred"),
        (12345, "twelve thousand, three hundred and forty-five"),
    ],
)  # fmt: skip
def test_numbers_in_words_are_those_of_num2words(number: int, said: str) -> None:
    assert number_in_words(number) == said


def test_times_are_told_where_a_model_would_not_know() -> None:
    language = LanguageModel(tiny.model("video_llava"), tiny.tokenizer(), timestamps=True)
    ids = language.clips.reading([2, 2], [0.0, 83.0])
    assert language.tokenizer.decode(ids) == ("USER: 0:00: <video><video>\n1:23: <video><video>")
    told = LanguageModel(tiny.model("smolvlm"), tiny.tokenizer(), timestamps=True)
    usual = LanguageModel(tiny.model("smolvlm"), tiny.tokenizer())
    assert told.clips.reading([2, 2], [0.0, 83.0]) == usual.clips.reading([2, 2], [0.0, 83.0])
