"""Ask a video a question, and print the answer as it is generated.

python examples/ask_video.py movie.mp4 "What is happening?" [model]
"""

import sys

import vzvideo

if len(sys.argv) < 3:
    sys.exit(__doc__)
video, question, *model = sys.argv[1:]
qa = vzvideo.load(model[0] if model else "mini")

# 16 frames of 14 + 3 tokens: as many tokens as one frame and a bit would take uncompressed.
tokens = qa.encode(video, frames=16, dominant=14, contextual=3)
print(tokens, file=sys.stderr)

for piece in qa.stream_answer(tokens, question, max_new_tokens=48):
    print(piece, end="", flush=True)
print()
