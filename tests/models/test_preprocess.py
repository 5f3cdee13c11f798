"""Preprocessing against the published one, written out with Pillow step by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from tests.tolerances import PILLOW_LEVELS
from vzvideo.config import Fit
from vzvideo.errors import ModelError, SettingsError
from vzvideo.models.preprocess import CLIP_MEAN, CLIP_STD, Preprocess, SmartResize

SIGLIP = Preprocess(224, 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), fit="squash")
DINOV2 = Preprocess(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
WITHIN = PILLOW_LEVELS + 0.01  # what float32 makes of a level

# height, width
SHAPES = [
    (360, 640),
    (640, 360),
    (480, 480),
    (144, 176),  # scaled up
    (90, 51),
    (241, 427),  # odd
    (225, 301),
    (721, 1279),
    (224, 224),  # nothing to resize
    (224, 399),
]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Soft colours, hard edges and grain: what a resize may get wrong; uint8 (H, W, 3)."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    pixels = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    for _ in range(6):
        top, left = random.integers(0, height), random.integers(0, width)
        pixels[top : top + height // 4, left : left + width // 5] = random.integers(0, 256, 3)
    grainy = pixels + random.normal(0, 8, pixels.shape)
    return grainy.clip(0, 255).astype(np.uint8)


def published(pixels: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """uint8 (H, W, 3) -> (1, 3, crop, crop)."""
    image = Image.fromarray(pixels)
    if preprocess.fit == "squash":
        size = (preprocess.size, preprocess.size)
    elif preprocess.fit == "pad":
        long = max(image.size)
        size = tuple(round(preprocess.size * edge / long) for edge in image.size)
    else:
        short = min(image.size)
        size = tuple(int(preprocess.size * edge / short) for edge in image.size)
    # Across, then down: the order of every Pillow before 13, which goes down first in tall images.
    for step in ((size[0], image.height), size):
        image = image.resize(step, Image.Resampling.BICUBIC)
    if preprocess.fit == "crop":
        crop = preprocess.crop
        left, top = (image.width - crop) // 2, (image.height - crop) // 2
        image = image.crop((left, top, left + crop, top + crop))
    if preprocess.fit == "pad":
        colour = tuple(int(255 * each) for each in preprocess.mean)
        whole = Image.new("RGB", (preprocess.crop, preprocess.crop), colour)
        whole.paste(image, ((whole.width - image.width) // 2, (whole.height - image.height) // 2))
        image = whole
    normalised = (np.array(image) / 255 - preprocess.mean) / preprocess.std
    return normalised.transpose(2, 0, 1)[None]


def levels_apart(inputs: torch.Tensor, expected: np.ndarray, preprocess: Preprocess) -> float:
    """The largest difference of a pixel, of 255."""
    apart = np.moveaxis(abs(inputs.numpy() - expected), 1, -1)
    return float((apart * preprocess.std).max() * 255)


@pytest.mark.parametrize(
    "preprocess",
    [Preprocess(), DINOV2, SIGLIP, Preprocess(fit="pad"), DINOV2.fitted("squash")],
    ids=["clip", "dino", "sig", "padded", "squashed"],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_published_preprocessing(shape: tuple[int, int], preprocess: Preprocess) -> None:
    pixels = picture(*shape)
    inputs = preprocess(torch.from_numpy(pixels)[None])
    assert inputs.shape == (1, 3, 224, 224)
    assert inputs.dtype == torch.float32
    assert levels_apart(inputs, published(pixels, preprocess), preprocess) < WITHIN


def test_frames_are_prepared_each_for_itself() -> None:
    frames = torch.from_numpy(np.stack([picture(60, 80, seed) for seed in range(3)]))
    preprocess = Preprocess(56, 56)
    together = preprocess(frames)
    for frame, prepared in zip(frames, together, strict=True):
        assert torch.equal(preprocess(frame[None])[0], prepared)


@pytest.mark.parametrize("preprocess", [Preprocess(), Preprocess(56, 42), DINOV2, SIGLIP])
def test_a_config_written_is_read_back_the_same(preprocess: Preprocess) -> None:
    assert Preprocess.from_config(json.loads(json.dumps(preprocess.to_config()))) == preprocess


@pytest.mark.parametrize("preprocess", [Preprocess(56, 42), SIGLIP], ids=["clip", "sig"])
def test_transformers_reads_what_is_written_as_it_is_meant(preprocess: Preprocess) -> None:
    config = preprocess.to_config()
    del config["image_processor_type"], config["processor_class"]
    pixels = picture(360, 640)
    theirs = CLIPImageProcessorPil(**config)(images=pixels, return_tensors="np")["pixel_values"]
    assert levels_apart(preprocess(torch.from_numpy(pixels)[None]), theirs, preprocess) < WITHIN


HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
CROP = {"height": 224, "width": 224}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # As Video-LLaVA, CLIP's first, DINOv2 and SigLIP are published, and where nothing is said.
        ({"size": {"shortest_edge": 224}, "crop_size": CROP}, Preprocess()),
        ({"size": 336, "crop_size": 336}, Preprocess(336, 336)),
        ({"size": {"shortest_edge": 256}, "crop_size": CROP}, Preprocess(256, 224)),
        ({"size": {"height": 224, "width": 224}, **HALVES}, SIGLIP),
        (
            {"size": {"height": 96, "width": 96}, "crop_size": CROP},
            Preprocess(96, 96, fit="squash"),
        ),
        ({"size": 336, "crop_size": None, "image_mean": None}, Preprocess(336, 336)),
        ({}, Preprocess(224, 224, CLIP_MEAN, CLIP_STD)),
    ],
)
def test_published_configs_are_understood(config: dict[str, Any], expected: Preprocess) -> None:
    assert Preprocess.from_config(config) == expected


@pytest.mark.parametrize("name", ["preprocessor_config.json", "video_preprocessor_config.json"])
def test_a_folder_may_hold_its_config_under_either_name(tmp_path: Path, name: str) -> None:
    assert Preprocess.from_folder(tmp_path) == Preprocess()
    (tmp_path / name).write_text(json.dumps({"size": 96, "crop_size": 84}))
    assert Preprocess.from_folder(tmp_path) == Preprocess(96, 84)


@pytest.mark.parametrize(
    ("size", "crop", "fit"), [(224, 256, "crop"), (384, 224, "squash"), (384, 224, "pad")]
)
def test_a_crop_that_cannot_be_is_named(size: int, crop: int, fit: Fit) -> None:
    with pytest.raises(ModelError, match=f"crop {crop} .*{size}"):
        Preprocess(size, crop, fit=fit)


@pytest.mark.parametrize(
    ("preprocess", "shape", "share"),
    [
        (Preprocess(), (360, 640), 7 / 16),
        (Preprocess(), (640, 360), 7 / 16),
        (Preprocess(), (480, 480), 0.0),
        (DINOV2, (480, 480), 1 - 0.875**2),
        (Preprocess(fit="pad"), (360, 640), 0.0),
        (SIGLIP, (360, 640), 0.0),
        (SIGLIP.fitted("crop"), (480, 640), 0.25),
        (SmartResize(28, 28**2, 768 * 28**2), (360, 640), 0.0),
    ],
)
def test_what_is_left_out_of_a_frame(
    preprocess: Preprocess | SmartResize, shape: tuple[int, int], share: float
) -> None:
    assert preprocess.cropped(*shape) == pytest.approx(share)


def test_another_fit_starts_from_the_square_that_comes_out() -> None:
    assert DINOV2.fitted(None) is DINOV2.fitted("crop") is DINOV2
    assert DINOV2.fitted("pad").size == DINOV2.fitted("pad").crop == DINOV2.crop
    # What SmolVLM's longest edge would leave of a wide frame's height would be scaled up again.
    in_two_steps = Preprocess(112, 112, fit="squash", longest=112)
    assert in_two_steps.fitted("crop") == Preprocess(112, 112)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_frames_that_keep_their_shape_are_not_fitted(fit: Fit) -> None:
    resize = SmartResize(28, 28**2, 768 * 28**2)
    assert resize.fitted(None) is resize
    with pytest.raises(SettingsError, match=f"{fit} given.*own shape"):
        resize.fitted(fit)


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1)])
def test_a_sliver_is_padded_to_a_line(shape: tuple[int, int]) -> None:
    pixels = torch.full((1, *shape, 3), 255, dtype=torch.uint8)
    square = Preprocess(56, 56, fit="pad").square(pixels)
    assert square.shape == (1, 3, 56, 56)
    assert int((square == 255).all(1).sum()) == 56


# -- families with ways of their own


@pytest.mark.parametrize("shape", SHAPES)
def test_in_two_steps_as_smolvlm_does(shape: tuple[int, int]) -> None:
    """To the longest edge, the other one even, then squashed: with Pillow, step by step."""
    pixels = picture(*shape)
    halves = (0.5, 0.5, 0.5)
    found = Preprocess(112, 112, halves, halves, fit="squash", longest=224, resample="lanczos")(
        torch.from_numpy(pixels)[None]
    )
    height, width = shape
    if width >= height:
        size = (224, int(224 * height / width) + int(224 * height / width) % 2)
    else:
        size = (int(224 * width / height) + int(224 * width / height) % 2, 224)
    image = Image.fromarray(pixels)
    for step in ((size[0], image.height), size, (112, size[1]), (112, 112)):
        image = image.resize(step, Image.Resampling.LANCZOS)
    expected = ((np.array(image) / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None]
    assert levels_apart(found, expected, Preprocess(112, 112, halves, halves)) < 2 * WITHIN


@pytest.mark.parametrize("factor", [28, 32])
def test_qwens_size_is_that_of_the_published_code(factor: int) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    resize = SmartResize(factor, 16 * factor**2, 200 * factor**2)
    random = np.random.default_rng(0)
    for height, width in random.integers(factor, 1500, (200, 2)).tolist():
        expected = smart_resize(height, width, factor, resize.min_pixels, resize.max_pixels)
        assert resize.target(height, width) == expected
        assert expected[0] * expected[1] <= resize.max_pixels


def test_qwens_patches_are_those_of_the_published_processor() -> None:
    """Its picture processor on Pillow, for a video of two equal frames is a picture there."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from tests.models.families import tiny
    from vzvideo.models.families import family_of

    size = {"shortest_edge": 8 * 28**2, "longest_edge": 24 * 28**2}
    processor = Qwen2VLImageProcessorPil(size=size)
    family = family_of(tiny.model("qwen2_5_vl"))
    for shape in ((160, 90), (360, 640), (200, 200)):
        pixels = picture(*shape)
        theirs = processor(images=Image.fromarray(pixels), return_tensors="pt")
        frames = SmartResize(28, 8 * 28**2, 24 * 28**2)(torch.from_numpy(np.stack([pixels] * 2)))
        found, grid = family.patches(frames)  # type: ignore[attr-defined]
        assert grid.tolist() == theirs["image_grid_thw"].tolist()
        apart = (found - theirs["pixel_values"]).abs().max() * max(CLIP_STD) * 255
        assert float(apart) < WITHIN


@pytest.mark.parametrize(
    ("config", "least", "most"),
    [
        ({"min_pixels": 3136, "max_pixels": 12845056}, 3136, 768 * 28**2),  # as Qwen2.5-VL's
        ({"size": {"shortest_edge": 4096, "longest_edge": 200_000}}, 4096, 200_000),
        ({}, 128 * 28**2, 768 * 28**2),
    ],
)
def test_qwens_published_configs_are_understood(
    tmp_path: Path, config: dict[str, Any], least: int, most: int
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    found = SmartResize.from_folder(tmp_path, 28)
    assert (found.min_pixels, found.max_pixels) == (least, most)
    height, width = found.largest
    assert height * width <= most
