"""Every example runs as it stands, on the small random model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil, LlavaProcessor

from tests.models.families import tiny

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ARGUMENTS = {
    "ask_video.py": ["{clip}", "Who is there?", "{model}"],
    "talk_about_it.py": ["{clip}", "{model}"],
    "keep_tokens.py": ["{clip}", "{out}", "{model}"],
    "watch_it_live.py": ["{clip}", "{model}"],
    "method_alone.py": [],
    "hf_pictures.py": ["{picture}", "Who is there?", "{llava}"],
    "hf_video.py": ["{clip}", "Who is there?", "{onevision}"],
    "fetch_clips.py": None,  # run by `make test` itself, before the tests
}
SAYS = {
    "talk_about_it.py": "What do they wear?",
    "keep_tokens.py": "Where is this?",
    "watch_it_live.py": "In all:",
    "method_alone.py": "to (2, 64, 64)",
    "hf_pictures.py": "Answer:",
    "hf_video.py": "Answer:",
}


def test_none_is_forgotten() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(ARGUMENTS)


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory, clip: Path, checkpoint: Path
) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("examples")
    picture = root / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)).save(picture)
    llava, onevision = (tiny.write(name, root / name) for name in ("llava", "llava_onevision"))
    size = {"size": {"shortest_edge": 84}, "crop_size": {"height": 84, "width": 84}}
    LlavaProcessor(
        CLIPImageProcessorPil(**size), tiny.tokenizer(), patch_size=14, image_token="<image>",
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    ).save_pretrained(llava)  # fmt: skip
    return {
        "clip": clip, "model": checkpoint, "out": root / "kept.vz.safetensors", "picture": picture,
        "llava": llava, "onevision": onevision,
    }  # fmt: skip


@pytest.mark.parametrize("name", [name for name, given in ARGUMENTS.items() if given is not None])
def test_example_runs(name: str, places: dict[str, Path]) -> None:
    arguments = [text.format(**places) for text in ARGUMENTS[name] or []]
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert SAYS.get(name, "") in done.stdout
    assert done.stdout.strip()
