"""Compress a video once, keep the tokens in a file, and ask it many questions in one batch.

python examples/keep_tokens.py movie.mp4 movie.vz.safetensors [model]
"""

import sys
from pathlib import Path

import vzvideo

if len(sys.argv) < 3:
    sys.exit(__doc__)
video, kept, *model = sys.argv[1:]
qa = vzvideo.load(model[0] if model else "mini")

if not Path(kept).exists():
    qa.encode(video, frames=8, tokens_per_frame=17).save(kept)
tokens = vzvideo.VisualTokens.load(kept)

questions = ["Describe the video.", "Who is there?", "Where is this?"]
for answer in qa.ask_many(tokens, questions, max_new_tokens=48):
    print(f"{answer.question} {answer.text}")
