"""Live video: asked while it plays.

python examples/watch_it_live.py rtsp://camera/1 [model]      (a file plays in real time)
"""

import asyncio
import sys

import vzvideo

if len(sys.argv) < 2:
    sys.exit(__doc__)
source, *model = sys.argv[1:]
qa = vzvideo.load(model[0] if model else "mini", max_new_tokens=24)


async def watch() -> None:
    with qa.stream(policy="drop_oldest") as stream:
        stream.attach(source, speed=1.0)
        async for answer in stream.every(2, "What is happening?"):
            print(f"{answer.frame_times_s[-1]:6.1f} s  {answer.text}")
        print("In all:", stream.ask("What is happening in the video?").text)
        print(stream.stats)


asyncio.run(watch())
