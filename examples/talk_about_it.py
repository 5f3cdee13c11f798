"""A conversation: the second question pays neither for the video nor for the first one.

python examples/talk_about_it.py movie.mp4 [model]
"""

import sys

import vzvideo

if len(sys.argv) < 2:
    sys.exit(__doc__)
video, *model = sys.argv[1:]
qa = vzvideo.load(model[0] if model else "mini")
chat = qa.chat(video, max_new_tokens=48)

for question in ("Who is there?", "What do they wear?"):
    answer = chat.ask(question)
    print(f"{question} {answer.text}")
    print("   seconds:", answer.seconds)
