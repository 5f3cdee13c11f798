"""Tiny random models of every family, their inputs as their processors make them, and checkpoint
folders of them in the layout of the hub."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers as T
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

from vzvideo.models.quiet import quiet

WORDS = [
    "USER: What is the man doing? ASSISTANT: A man rides a bike on a dirt track.",
    "Describe the video. You are provided the following series of frames from a video.",
    "Frame from 00:01: <0.2 seconds> user assistant system You are a helpful assistant.",
]
SPECIAL = [
    *("<unk>", "<s>", "</s>", "<image>", "<video>", "<pad>", "<|im_start|>", "<|im_end|>"),
    *("<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<img>", "</img>"),
    *("<IMG_CONTEXT>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>", "<|image_pad|>"),
]
ID = {word: number for number, word in enumerate(SPECIAL)}
VOCABULARY = 320
TEXT = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 5,
}  # fmt: skip
LLAMA, QWEN2 = {"model_type": "llama", **TEXT}, {"model_type": "qwen2", **TEXT}
VISION = {"hidden_size": 48, "intermediate_size": 72, "num_attention_heads": 4}
CLIP = {
    "model_type": "clip_vision_model", **VISION, "num_hidden_layers": 4, "image_size": 84,
    "patch_size": 14, "projection_dim": 32,
}  # fmt: skip
SIGLIP = {  # 7 x 7 patches, of a frame 4 x 4 cells
    "model_type": "siglip_vision_model", **VISION, "num_hidden_layers": 4, "image_size": 98,
    "patch_size": 14, "vision_use_head": False,
}  # fmt: skip
TILES = [[84, 168], [168, 84], [168, 168], [252, 84], [84, 252]]
MANY_TILES = [[98 * rows, 98 * columns] for rows in range(1, 5) for columns in range(1, 5)]
ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
QWEN_IDS = {
    "image_token_id": ID["<|image_pad|>"], "video_token_id": ID["<|video_pad|>"],
    "vision_start_token_id": ID["<|vision_start|>"], "vision_end_token_id": ID["<|vision_end|>"],
}  # fmt: skip
QWEN_VISION = {
    "depth": 4, **VISION, "num_heads": 4, "spatial_merge_size": 2, "temporal_patch_size": 2,
    "out_hidden_size": 64,
}  # fmt: skip
SQUARE = {"vision_config": {**VISION, "num_hidden_layers": 3, "patch_size": 14, "image_size": 112}}
INTERN = {**VISION, "num_hidden_layers": 3, "image_size": (112, 112), "patch_size": (14, 14)}
IMAGE = {"image_token_index": ID["<image>"]}
BOTH = {**IMAGE, "video_token_index": ID["<video>"]}


def _intern(norm: bool) -> Any:
    vision = {**INTERN, "use_qk_norm": norm, "attention_bias": not norm}
    return T.InternVLForConditionalGeneration(
        T.InternVLConfig(
            vision_config=vision, text_config=QWEN2, image_token_id=ID["<IMG_CONTEXT>"],
            image_seq_length=16,
        )
    )  # fmt: skip


MODELS: dict[str, Callable[[], Any]] = {
    "llava": lambda: T.LlavaForConditionalGeneration(
        T.LlavaConfig(vision_config=CLIP, text_config=LLAMA, image_seq_length=36, **IMAGE)
    ),
    "video_llava": lambda: T.VideoLlavaForConditionalGeneration(
        T.VideoLlavaConfig(vision_config=CLIP, text_config=LLAMA, **BOTH)
    ),
    "llava_next": lambda: T.LlavaNextForConditionalGeneration(
        T.LlavaNextConfig(
            vision_config=CLIP, text_config=LLAMA, image_grid_pinpoints=TILES, **IMAGE
        )
    ),
    "llava_next_video": lambda: T.LlavaNextVideoForConditionalGeneration(
        T.LlavaNextVideoConfig(
            vision_config=CLIP, text_config=LLAMA, image_grid_pinpoints=TILES, **BOTH
        )
    ),
    "llava_onevision": lambda: T.LlavaOnevisionForConditionalGeneration(
        T.LlavaOnevisionConfig(
            vision_config=SIGLIP, text_config=QWEN2, image_grid_pinpoints=MANY_TILES, **BOTH
        )
    ),
    "smolvlm": lambda: T.SmolVLMForConditionalGeneration(
        T.SmolVLMConfig(**SQUARE, text_config=LLAMA, image_token_id=ID["<image>"], scale_factor=2)
    ),
    "idefics3": lambda: T.Idefics3ForConditionalGeneration(
        T.Idefics3Config(**SQUARE, text_config=LLAMA, image_token_id=ID["<image>"], scale_factor=2)
    ),
    "internvl": lambda: _intern(norm=False),
    "internvl_norm": lambda: _intern(norm=True),
    "qwen2_5_vl": lambda: T.Qwen2_5_VLForConditionalGeneration(
        T.Qwen2_5_VLConfig(
            vision_config={**QWEN_VISION, "patch_size": 14, "window_size": 56,
                           "fullatt_block_indexes": [1, 3], "tokens_per_second": 2},
            text_config={**TEXT, "rope_parameters": ROPE}, **QWEN_IDS,
        )
    ),
    "qwen3_vl": lambda: T.Qwen3VLForConditionalGeneration(
        T.Qwen3VLConfig(
            vision_config={**QWEN_VISION, "patch_size": 16, "num_position_embeddings": 64,
                           "deepstack_visual_indexes": [0, 1, 2]},
            text_config={**TEXT, "head_dim": 16,
                         "rope_parameters": {**ROPE, "mrope_interleaved": True}}, **QWEN_IDS,
        )
    ),
}  # fmt: skip


@cache
def model(name: str) -> Any:
    """A model of random weights as large as those of a trained one, or nothing would be seen."""
    torch.manual_seed(0)
    made = MODELS[name]().eval()
    with torch.no_grad():
        for where, weight in made.named_parameters():
            if weight.ndim > 1:
                scale = 0.7 if "embed" in where else 1.5 / math.sqrt(weight.shape[-1])
                nn.init.normal_(weight, std=scale)
    made.generation_config.eos_token_id = 2
    return made


# -- what processors make


def text(count: int, seed: int = 0) -> list[int]:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(30, 300, (count,), generator=random).tolist()


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows(*ids: list[int]) -> dict[str, Any]:
    longest = max(map(len, ids))
    return {
        "input_ids": torch.tensor([[5] * (longest - len(row)) + row for row in ids]),
        "attention_mask": torch.tensor(
            [[0] * (longest - len(row)) + [1] * len(row) for row in ids]
        ),
    }


def clip(word: str, count: int, seed: int = 0) -> list[int]:
    """A prompt with one run of placeholders."""
    return [1, *text(5, seed), *[ID[word]] * count, *text(7, seed + 1)]


def tiled(name: str, sizes: Sequence[Sequence[tuple[int, int]]], edge: int) -> dict[str, Any]:
    """Pictures of sizes (height, width), row by row, cut into tiles."""
    core = model(name).model
    flat = torch.tensor([size for row in sizes for size in row])
    count = T.models.llava_next.modeling_llava_next.image_size_to_num_patches
    tiles = [count(size, core.config.image_grid_pinpoints, edge) for size in flat]
    empty = [torch.zeros(n, (edge // 14) ** 2, 1) for n in tiles]
    kind = {"vision_aspect_ratio": "anyres_max_9"}
    if name != "llava_onevision":
        kind = {"vision_feature_select_strategy": "default"}
    packed, _ = core.pack_image_features(empty, flat, image_newline=torch.zeros(1), **kind)
    lengths = iter(map(len, packed))
    ids = [
        [1, *text(4), *(t for n in row for t in [ID["<image>"]] * next(lengths) + text(3, n[0]))]
        for row in sizes
    ]
    shape = (len(flat), max(tiles), 3, edge, edge)
    return {**rows(*ids), "pixel_values": pixels(*shape), "image_sizes": flat}


def qwen(name: str) -> dict[str, dict[str, Any]]:
    patch = 14 if name == "qwen2_5_vl" else 16
    width, (t, h, w) = 3 * 2 * patch**2, (3, 8, 12)
    video, image = ID["<|video_pad|>"], ID["<|image_pad|>"]
    begin, end = ID["<|vision_start|>"], ID["<|vision_end|>"]
    each = h * w // 4
    if name == "qwen2_5_vl":
        ids = [1, *text(4), begin, *[video] * t * each, end, *text(6, 9)]
        extra = {"second_per_grid_ts": torch.tensor([1.0])}
    else:  # the time before each frame
        frames = [[*text(5, n), begin, *[video] * each, end] for n in range(t)]
        ids, extra = [1, *text(4), *(token for frame in frames for token in frame), *text(6, 9)], {}
    shown = {**rows(ids), "pixel_values_videos": pixels(t * h * w, width), **extra}
    shown["video_grid_thw"] = torch.tensor([[t, h, w]])
    grids = torch.tensor([[1, 8, 8], [1, 4, 12], [1, 6, 6]])
    counts = [int(grid.prod()) // 4 for grid in grids]
    runs = [[begin, *[image] * count, end] for count in counts]
    two = [1, *text(2), *runs[1], *text(2, 9), *runs[2], *text(3, 4)]
    pictures = {
        **rows([1, *text(4), *runs[0], *text(6, 9)], two),
        "pixel_values": pixels(4 * sum(counts), width),
        "image_grid_thw": grids,
    }
    for given in (shown, pictures):
        found = given["input_ids"]
        given["mm_token_type_ids"] = (found == image).long() + 2 * (found == video).long()
    return {"video": shown, "pictures in rows": pictures}


def _frames(name: str, count: int, *, padded: bool) -> dict[str, dict[str, Any]]:
    """Frames as pictures, text between them; and in a second row fewer of them."""
    word = "<IMG_CONTEXT>" if name.startswith("internvl") else "<image>"
    frame = [*text(4), ID["<img>"], *[ID[word]] * 16, ID["</img>"]]
    one, two = [1, *frame * count, *text(5, 9)], [1, *frame, *text(4)]
    if not padded:
        return {"frames": {**rows(one), "pixel_values": pixels(count, 3, 112, 112)},
                "frames in rows": {**rows(one, two), "pixel_values": pixels(count + 1, 3, 112, 112)}
                }  # fmt: skip
    both = pixels(2, count, 3, 112, 112)
    both[1, 1:] = 0
    mask = torch.ones(2, count, 112, 112, dtype=torch.bool)
    return {
        "frames": {**rows(one), "pixel_values": pixels(1, count, 3, 112, 112)},
        "frames in rows": {**rows(one, two), "pixel_values": both, "pixel_attention_mask": mask},
    }


@cache
def inputs(name: str) -> dict[str, dict[str, Any]]:
    """What its processor would give the model, by what it shows."""
    if name.startswith("qwen"):
        return qwen(name)
    if name == "llava":
        two = [*clip("<image>", 36, 3), *[ID["<image>"]] * 36, *text(3, 2)]
        return {
            "picture": {**rows(clip("<image>", 36)), "pixel_values": pixels(1, 3, 84, 84)},
            "pictures in rows": {
                **rows(clip("<image>", 36), two), "pixel_values": pixels(3, 3, 84, 84)
            },
        }  # fmt: skip
    if name in ("smolvlm", "idefics3"):
        return _frames(name, 5, padded=True)
    if name.startswith("internvl"):
        return _frames(name, 5, padded=False)
    found = {}
    per_frame = {"video_llava": 37, "llava_next_video": 9, "llava_onevision": 16}
    edge = 98 if name == "llava_onevision" else 84
    if name in per_frame:
        count = per_frame[name] * 4 + (name == "llava_onevision")
        shape = (4, 3, edge, edge)
        found["video"] = {
            **rows(clip("<video>", count)), "pixel_values_videos": pixels(1, *shape)
        }  # fmt: skip
        found["videos in rows"] = {
            **rows(clip("<video>", count), clip("<video>", count, 5)[2:]),
            "pixel_values_videos": pixels(2, *shape),
        }
    if name == "video_llava":
        found["picture"] = {**rows(clip("<image>", 36)), "pixel_values": pixels(1, 3, 84, 84)}
        return found
    found["picture in tiles"] = tiled(name, [[(190, 130)]], edge)
    found["pictures in rows"] = tiled(name, [[(150, 110)], [(60, 200), (100, 100)]], edge)
    if name == "llava_onevision":
        found["picture in many tiles"] = tiled(name, [[(390, 390)]], edge)
    return found


CASES = [(name, what) for name in MODELS for what in inputs(name)]


# -- checkpoint folders


def tokenizer() -> T.PreTrainedTokenizerFast:
    """Byte-level BPE over a few sentences, with everybody's special tokens."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet
    )
    words.train_from_iterator(WORDS, trainer)
    return T.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        pad_token="<pad>", additional_special_tokens=SPECIAL[3:],
    )  # fmt: skip


HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
PREPROCESSING: dict[str, dict[str, Any]] = {
    "llava": {"size": {"shortest_edge": 84}, "crop_size": {"height": 84, "width": 84}},
    "llava_onevision": {"size": {"height": 98, "width": 98}, **HALVES},
    "smolvlm": {
        "size": {"longest_edge": 448}, "max_image_size": {"longest_edge": 112}, "resample": 1,
        "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 112}},
        **HALVES,
    },
    "internvl": {"size": {"height": 112, "width": 112}},
    "qwen2_5_vl": {"min_pixels": 8 * 28**2, "max_pixels": 24 * 28**2},
    "qwen3_vl": {"size": {"shortest_edge": 8 * 32**2, "longest_edge": 24 * 32**2}, **HALVES},
}  # fmt: skip


def write(name: str, folder: Path) -> Path:
    """A checkpoint as the hub would hold it, key names of its time included."""
    with quiet():
        model(name).save_pretrained(folder)
    weights = folder / "model.safetensors"
    if "llava" in name:
        state = {
            key.replace("_tower.", "_tower.vision_model.", 1): value
            for key, value in load_file(weights).items()
        }
        assert any(".vision_model." in key for key in state)
        save_file(state, weights, {"format": "pt"})
    tokenizer().save_pretrained(folder)
    kind = {"idefics3": "smolvlm", "internvl_norm": "internvl"}.get(name, name)
    about = PREPROCESSING.get(kind, PREPROCESSING["llava"])
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    return folder
