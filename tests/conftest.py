"""Parts the tests share: a small random Video-LLaVA in the published layout, and real clips."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)

import vzvideo
from tests.video import clips
from tests.waiting import until
from vzvideo.models.preprocess import Preprocess
from vzvideo.qa.video_qa import VideoQA

pytest_plugins = ["tests.skips"]
TEXT = [
    "USER: <video>\nWhat is the man doing? ASSISTANT: A man rides a bike on a dirt track.",
    "Describe the video. Who is there? What do they wear? Two dogs run across a green meadow.",
    "What happens first? Is there a cat? Where is this? A woman signs with her hands.",
]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny models run fastest, and to the same bit, on one thread of torch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small_model(seed: int = 0) -> VideoLlavaForConditionalGeneration:
    """A random Video-LLaVA with CLIP tower and Llama, some 100,000 weights, float32."""
    torch.manual_seed(seed)
    return VideoLlavaForConditionalGeneration(
        VideoLlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=4,
                num_attention_heads=4,
                image_size=56,
                patch_size=14,
                projection_dim=32,
            ).to_dict(),
            text_config=LlamaConfig(
                vocab_size=320,
                hidden_size=48,
                intermediate_size=96,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=512,
                initializer_range=0.2,
            ).to_dict(),
            image_token_index=3,
            video_token_index=4,
            image_seq_length=16,
            video_seq_length=17 * 8,
        )
    ).eval()


def small_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over a few sentences, with Llama's special tokens."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<image>", "<video>", "<pad>"]
    words.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<image>", "<video>"],
    )


def published_name(name: str) -> str:
    """A parameter's name today -> its name in the published 2024 checkpoints."""
    if name.startswith("lm_head"):
        return f"language_model.{name}"
    name = name.removeprefix("model.")
    for tower in ("image_tower.", "video_tower."):
        if name.startswith(tower):
            return name.replace(tower, f"{tower}vision_model.", 1)
    return name.replace("language_model.", "language_model.model.", 1)


def write_checkpoint(folder: Path, model: Any, drop: str | None = None) -> Path:
    """Writes the hub layout of Video-LLaVA-7B, old key names included, leaving out `drop`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        published_name(name): value.detach().clone().contiguous()
        for name, value in model.state_dict().items()
        if drop is None or drop not in name
    }
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    model.config.save_pretrained(folder)
    model.generation_config.eos_token_id = 2
    model.generation_config.save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    preprocess = Preprocess(size=56, crop=56)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocess.to_config()))
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of a small random model, as the hub would hold it."""
    return write_checkpoint(tmp_path_factory.mktemp("model"), small_model())


@pytest.fixture
def qa(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VideoQA:
    """The small model with a token cache of its own."""
    monkeypatch.setenv("VZVIDEO_CACHE", str(tmp_path / "cache"))
    return vzvideo.load(str(checkpoint), tokens_per_frame=5, max_new_tokens=6)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small clip of H.264 with 40 numbered frames at 25 a second."""
    path = tmp_path_factory.mktemp("clip") / "numbers.mp4"
    kind = replace(clips.KINDS[0], frames=40, fps=25.0)
    kind.make(kind, path)
    return path


@pytest.fixture(scope="session")
def real_clips() -> list[Path]:
    """Real clips, from the folder that VZVIDEO_CLIPS names, as `make test` has it."""
    folder = os.environ.get("VZVIDEO_CLIPS")
    found = sorted(Path(folder).glob("*.mp4")) if folder else []
    if not found:
        pytest.skip("VZVIDEO_CLIPS names no folder with clips; examples/fetch_clips.py makes one")
    return found


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """What a shell starts in its background ignores Ctrl-C, which some tests are about."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Keeps the tests away from the user's own token cache, but lets them use a pulled mini."""
    from vzvideo.models import weights

    models_folder = weights.cache_root() / "models"
    root = tmp_path_factory.mktemp("cache")
    if models_folder.is_dir():
        (root / "models").symlink_to(models_folder)
    before = os.environ.get("VZVIDEO_CACHE")
    os.environ["VZVIDEO_CACHE"] = str(root)
    yield
    if before is None:
        del os.environ["VZVIDEO_CACHE"]
    else:
        os.environ["VZVIDEO_CACHE"] = before


@pytest.fixture
def no_thread_stays() -> Iterator[None]:
    """Whatever a test opens, it closes."""
    before = set(threading.enumerate())
    yield
    until(lambda: not [t for t in set(threading.enumerate()) - before if "vzvideo" in t.name])
