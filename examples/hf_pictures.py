"""LLaVA-1.5 (or another model that is shown pictures) as Hugging Face has it, with a tenth of the
tokens.

python examples/hf_pictures.py picture.jpg "What does the sign say?" [llava-hf/llava-1.5-7b-hf]
"""

import sys
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from vzvideo.hf import visionzip

if len(sys.argv) < 3:
    sys.exit(__doc__)
path, question, *given = sys.argv[1:]
name = given[0] if given else "llava-hf/llava-1.5-7b-hf"
processor = AutoProcessor.from_pretrained(name)
model: Any = AutoModelForImageTextToText.from_pretrained(name, dtype="auto")

picture = Image.open(path).convert("RGB")
prompt = f"USER: <image>\n{question} ASSISTANT:"
inputs = processor(images=picture, text=prompt, return_tensors="pt").to(model.device, model.dtype)

model = visionzip(model, dominant=54, contextual=10)  # 64 of LLaVA's 576
with torch.inference_mode():
    said = model.generate(**inputs, max_new_tokens=64, do_sample=False)
answer = said[0, inputs["input_ids"].shape[1] :]  # as ever: the caller's own prompt comes first
print("Answer:", processor.tokenizer.decode(answer, skip_special_tokens=True).strip())
