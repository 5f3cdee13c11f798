"""LLaVA-OneVision as Hugging Face has it, asked of a video with a tenth of the tokens.

python examples/hf_video.py movie.mp4 "What happens?" [llava-hf/llava-onevision-qwen2-0.5b-ov-hf]

Frames are decoded and prepared here, for its own video processor wants torchvision.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from transformers import AutoModelForImageTextToText, AutoTokenizer

import vzvideo
from vzvideo.hf import visionzip
from vzvideo.models.preprocess import Preprocess

if len(sys.argv) < 3:
    sys.exit(__doc__)
path, question, *given = sys.argv[1:]
name = given[0] if given else "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"
folder = name if Path(name).is_dir() else snapshot_download(name)
tokenizer = AutoTokenizer.from_pretrained(folder)
model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")

with vzvideo.open_video(path) as video:
    times_s = np.linspace(0, video.info.duration_s or 0, 8, endpoint=False)
    frames = video.frames_at(times_s.tolist())
pixels = Preprocess.from_folder(Path(folder))(torch.from_numpy(frames.pixels))
vision = model.config.vision_config
edge = (vision.image_size // vision.patch_size + 1) // 2  # of a frame: its patches, halved
shown = "<video>" * (len(frames) * edge**2 + 1)  # and a newline
prompt = f"<|im_start|>user\n{shown}\n{question}<|im_end|>\n<|im_start|>assistant\n"
inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
inputs["pixel_values_videos"] = pixels[None].to(model.device, model.dtype)

model = visionzip(model, keep=0.1)
with torch.inference_mode():
    said = model.generate(**inputs, max_new_tokens=64, do_sample=False)
answer = said[0, inputs["input_ids"].shape[1] :]
print("Answer:", tokenizer.decode(answer, skip_special_tokens=True))
