"""Does `--evidence` point to what was asked about? On clips whose scenes are known, and real ones.

    python -m pipelines.studies.evidence --captions flickr8k.parquet --videos clips/ --out FILE.json

A clip is made of three photographs of the dev split, three frames each. Of it is asked "Is there a
dog?", of a thing that the middle one shows and, as far as captions tell, neither of the others;
and "What happens first?" and "What happens last?". It counts how often the best span, that of the
largest share, begins and ends in the right scene: one in three by chance. Wrong answers count, too.

Of the videos in `--videos` (any names a folder has) 16 frames are looked at, and three questions
asked of each: how many of the frames in spans are the first or the last one, beside their part of
all frames, one in eight.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import vzvideo
from pipelines.mini import questions
from pipelines.mini.clips import picture
from pipelines.mini.data import read_data
from pipelines.mini.mixture import captioned
from pipelines.mini.questions import Presence
from vzvideo.corpus.manifest import ENDINGS
from vzvideo.evaluation import scoring
from vzvideo.qa.evidence import Evidence
from vzvideo.types import FrameBatch

SCENES, EACH = 3, 3  # frames of a scene
LOOKED_AT = 16  # frames of a real video
ASKED = ("Is there a red car?", "Is there a person?", "What is happening in the video?")


def clips(captions: Path, count: int, seed: int) -> Iterator[tuple[str, FrameBatch, str]]:
    """Clips of three scenes: a name, the frames, and a question about the middle one."""
    data = read_data(captions)
    dev = data.split("dev")
    presence = Presence([captioned(example) for example in dev], questions.ASKED)
    rng = random.Random(seed)
    made = 0
    while made < count:
        first, middle, last = rng.sample(range(len(dev)), SCENES)
        only = [c for c in presence.yes[middle]
                if all(c in presence.no[other] for other in (first, last))]  # fmt: skip
        if not only:
            continue
        views = [dev[row].views[0] for row in (first, middle, last)]
        shown = [np.array(picture(data.images[view.row], view)) for view in views]
        frames = FrameBatch(
            np.repeat(np.stack(shown), EACH, axis=0), np.arange(SCENES * EACH * 1.0)
        )
        yield f"{middle}-{made}", frames, questions.is_there(rng.choice(only), True, rng).question
        made += 1


def best_scene(drawn: Evidence) -> int | None:
    """The scene that the best span lies in; None where it lies in several, or there is none."""
    spans = drawn.spans_s
    if not spans:
        return None
    first, last = max(spans, key=lambda span: _share(drawn, *span))
    return int(first) // EACH if first // EACH == last // EACH else None


def _share(drawn: Evidence, first_s: float, last_s: float) -> float:
    return float(drawn.frames[(drawn.pts_s >= first_s) & (drawn.pts_s <= last_s)].sum())


def made_clips(qa: vzvideo.VideoQA, captions: Path, count: int, seed: int) -> dict[str, Any]:
    """Of each kind of question, how often the best span lies in the right scene."""
    right: dict[str, list[bool]] = {"is there": [], "what happens": []}
    none: dict[str, int] = dict.fromkeys(right, 0)
    names: dict[str, list[str]] = {kind: [] for kind in right}
    for name, frames, about_middle in clips(captions, count, seed):
        tokens = qa.encode(frames)
        for kind, question, scene in (
            ("is there", about_middle, 1),
            ("what happens", "What happens first?", 0),
            ("what happens", "What happens last?", SCENES - 1),
        ):
            drawn = qa.evidence(tokens, qa.ask(tokens, question, max_new_tokens=32))
            right[kind].append(best_scene(drawn) == scene)
            none[kind] += not drawn.spans_s
            names[kind].append(name)
    found = {}
    for kind, values in right.items():
        low, high = scoring.bootstrap_interval(np.array(values, float), names[kind])
        found[kind] = {"right": float(np.mean(values)), "low": low, "high": high,
                       "questions": len(values), "nothing stands out": none[kind]}  # fmt: skip
    return found


def real_videos(qa: vzvideo.VideoQA, folder: Path) -> dict[str, Any]:
    """How often the first and the last frame are in spans, by how often all frames are."""
    inside = at_ends = asked = none = 0
    for path in sorted(folder.iterdir()):
        if path.suffix not in ENDINGS:
            continue
        tokens = qa.encode(str(path), frames=LOOKED_AT)
        for question in ASKED:
            drawn = qa.evidence(tokens, qa.ask(tokens, question, max_new_tokens=32))
            held = [any(a <= at <= b for a, b in drawn.spans_s) for at in drawn.pts_s]
            inside, at_ends = inside + sum(held), at_ends + held[0] + held[-1]
            none, asked = none + (not drawn.spans_s), asked + 1
    return {"questions": asked, "frames in spans": inside, "of them first or last": at_ends,
            "share": at_ends / max(inside, 1), "even": 2 / LOOKED_AT,
            "nothing stands out": none}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--captions", type=Path, required=True, help="Parquet of photographs")
    parser.add_argument("--videos", type=Path, help="folder of real videos")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--clips", type=int, default=100, help="clips made")
    parser.add_argument("--seed", type=int, default=0, help="of which photographs stand together")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    qa = vzvideo.load(args.model, device=args.device, cache=False)
    about: dict[str, Any] = {"model": args.model, "vzvideo": vzvideo.__version__}
    about |= {"clips": args.clips, "seed": args.seed, "device": str(qa.encoder.device)}
    about |= made_clips(qa, args.captions, args.clips, args.seed)
    if args.videos:
        about["real videos"] = real_videos(qa, args.videos)
    text = json.dumps(about, indent=1)
    print(text)
    args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
