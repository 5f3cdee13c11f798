"""Does `--evidence` point to the right scene? On clips of two scenes, whose order is known.

    python -m pipelines.mini.make_clips --captions captions.parquet --split dev --out clips/
    python -m pipelines.studies.evidence clips/ --model mini --out evidence.json

Of a clip that shows a dog and then a street it asks "Is there a dog?", "Is there a street?", "What
happens first?" and "What happens last?", and counts how often more than half of what the answer
drew on lies in the scene that was asked about. Chance is one half. A wrong answer counts as well.
The layers were chosen on the first 40 clips of dev: `--skip 40` measures on the others.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np

import vzvideo
from vzvideo.evaluation import questions as files
from vzvideo.evaluation import scoring

_TWO = re.compile(r"first[,:] (?:the )?(.+) or (?:the )?(.+)\?$")


def asked(clips: Path) -> dict[str, tuple[str, str]]:
    """Path of each clip of two scenes -> what is shown first, and what last."""
    found = {}
    for question in files.read(clips / "questions.jsonl"):
        both = _TWO.search(question.question) if question.kind == "which first" else None
        if both:
            first = question.answers[0].rstrip(".").lower().removeprefix("the ")
            last = next(name for name in both.groups() if name != first)
            found[question.video] = (first, last)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("clips", type=Path, help="folder that make_clips has written")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--limit", type=int, help="clips at most")
    parser.add_argument("--skip", type=int, default=0, help="clips left out at the beginning")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    qa = vzvideo.load(args.model, device=args.device)
    shares: dict[str, list[float]] = {"is there": [], "what happens": []}
    videos: list[str] = []
    for video, (first, last) in list(asked(args.clips).items())[args.skip :][: args.limit]:
        tokens = qa.encode(video)
        half = (tokens.pts_s[0] + tokens.pts_s[-1]) / 2
        videos += [video] * 2
        for kind, questions in (
            ("is there", (f"Is there a {first}?", f"Is there a {last}?")),
            ("what happens", ("What happens first?", "What happens last?")),
        ):
            for question, early in zip(questions, (True, False), strict=True):
                drawn = qa.evidence(tokens, qa.ask(tokens, question, max_new_tokens=32))
                shares[kind].append(float(drawn.frames[(tokens.pts_s < half) == early].sum()))
    about = {"model": args.model, "vzvideo": vzvideo.__version__, "clips": len(videos) // 2}
    about |= {"skipped": args.skip, "device": str(qa.encoder.device)}
    for kind, values in shares.items():
        right = np.array(values) > 0.5
        low, high = scoring.bootstrap_interval(right.astype(float), videos)
        about[kind] = {
            "right": float(right.mean()), "low": low, "high": high,
            "share": float(np.mean(values)), "questions": len(values),
        }  # fmt: skip
        print(f"{kind}: {right.mean():.2f} ({low:.2f}-{high:.2f}) of {len(values)} point to the "
              f"right scene; {np.mean(values):.2f} of the attention lies there")  # fmt: skip
    args.out.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
