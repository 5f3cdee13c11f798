"""The paper's three modes on one small model: what each keeps of a model that sees whole frames.

    python -m pipelines.studies.modes --captions captions.parquet --wheels wheels/ --work modes/ \
        --out modes.json

Trains `mini` twice from nothing on the same clips, once on whole frames and once at
`--tokens-per-frame` throughout; tunes the connector of the first to VisionZip on clips of a tenth
as many photographs; and scores, on clips of photographs that none of them saw, the first on whole
frames, which is what there is to keep, and each mode at `--tokens-per-frame`; training-free also
by the plainer ways of `compare`, which the first has met as little as VisionZip. Minutes on a GPU,
most of a day on two cores; some three hours there with `--steps 240 --batch 8 --warm-epochs 2`.
The same command goes on after a kill. What the two files are, `pipelines.mini.train` says.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipelines.mini.trainer import claim
from pipelines.studies.reductions import METHODS
from vzvideo.errors import SettingsError

WHOLE, NOTHING, FREE = "whole frames", "no video", "training-free"
# A mode, the checkpoint it is measured on, the method it takes tokens by.
MODES = (
    (NOTHING, "whole", NOTHING),
    (WHOLE, "whole", "full"),
    (FREE, "whole", "VisionZip"),
    *((f"{FREE}: {method}", "whole", method) for method in METHODS if method != "VisionZip"),
    ("efficient tuning", "light", "VisionZip"),
    ("VisionZip throughout", "zipped", "VisionZip"),
)
GLANCE = 28  # photographs that tell how a training goes; what it came to is measured afterwards
Line = dict[str, Any]


def steps(args: argparse.Namespace) -> list[tuple[Path | None, list[str]]]:
    """What is to be done, in order: the last file that a command writes, and the command.

    No file where a command knows by itself what is left to do.
    """
    work: Path = args.work
    splits = pq.read_table(args.captions, columns=["split"])["split"].to_pylist()
    photographs = min(splits.count("train"), args.limit or len(splits))
    training = ["--captions", str(args.captions), "--wheels", str(args.wheels)]
    training += ["--work", str(work / "training"), "--steps", str(args.steps)]
    training += ["--batch", str(args.batch), "--eval-every", str(args.eval_every)]
    training += ["--warm-epochs", str(args.warm_epochs), "--dev", str(GLANCE)]
    if args.limit:
        training += ["--limit", str(args.limit)]
    tokens = ["--tokens-per-frame", str(args.tokens_per_frame)]
    done: list[tuple[Path | None, list[str]]] = []
    seen = min(photographs, args.steps * args.batch)  # a clip begins with each
    for split, count in (("train", max(1, seen // 10)), ("dev", args.dev)):
        clips = ["--captions", str(args.captions), "--split", split, "--limit", str(count)]
        out = work / split
        done.append((out / "questions.jsonl", ["mini.make_clips", *clips, "--out", str(out)]))
    for name, chosen in (("whole", ["--tokens-per-frame", "257"]), ("zipped", tokens)):
        out = work / name
        done.append((out / "time.json", ["mini.train", *training, *chosen, "--out", str(out)]))
    light = ["--model", str(work / "whole"), "--train", "connector", *tokens, "--frames", "2"]
    questions = str(work / "train" / "questions.jsonl")
    done.append(
        (work / "light" / "time.json", ["tune", questions, *light, "--out", str(work / "light")])
    )
    budget = ["--budgets", str(args.tokens_per_frame), "--table", "frames"]
    for name in dict.fromkeys(checkpoint for _, checkpoint, _ in MODES):
        methods = [way for mode, of, way in MODES if of == name and mode != NOTHING]
        scored = ["--model", str(work / name), *budget, "--methods", *methods]
        out = work / f"{name}.json"
        done.append((None, ["studies.compare", str(work / "dev"), *scored, "--out", str(out)]))
    return done


def table(work: Path) -> list[Line]:
    """Each mode's scores, what it keeps of the whole frames', and what its training took.

    kept: the mean, over the kinds of question that whole frames tell, of its score divided by
    theirs; what is kept without a video says how much of that is guessed. They tell a kind where
    their interval lies above the score without a video; None where there is no such kind.
    """
    found: list[Line] = []
    for mode, checkpoint, method in MODES:
        lines = json.loads((work / f"{checkpoint}.json").read_text())["lines"]
        line = next(each for each in lines if each["method"] == method)
        line = {"mode": mode, "kept": None} | {n: line[n] for n in ("tokens_per_frame", "kinds")}
        if mode != NOTHING:
            line["training"] = json.loads((work / checkpoint / "time.json").read_text())
        found.append(line)
    guessed, full = found[0]["kinds"], found[1]["kinds"]
    told = [kind for kind in full if full[kind]["low"] > guessed[kind]["score"]]
    for line in found:
        parts = [line["kinds"][kind]["score"] / full[kind]["score"] for kind in told]
        line["kept"] = sum(parts) / len(parts) if parts else None
    return found


def markdown(lines: list[Line]) -> str:
    """The table, for a README."""
    kinds = list(lines[0]["kinds"])
    rows = [["mode", "tokens a frame", *kinds, "kept"]]
    rows.append(["---"] * len(rows[0]))
    for line in lines:
        scores = [
            "{score:.3f} ({low:.2f}-{high:.2f})".format(**line["kinds"][kind]) for kind in kinds
        ]
        kept = "" if line["kept"] is None else f"{line['kept']:.1%}"
        rows.append([line["mode"], str(line["tokens_per_frame"]), *scores, kept])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--captions", type=Path, required=True, help="Parquet file")
    parser.add_argument("--wheels", type=Path, required=True, help="folder with mini's two wheels")
    parser.add_argument("--work", type=Path, required=True, help="clips, checkpoints, models")
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--steps", type=int, default=900, help="of either training")
    parser.add_argument("--batch", type=int, default=16, help="clips a step")
    parser.add_argument("--warm-epochs", type=int, default=6, help="of the connector alone, before")
    parser.add_argument("--eval-every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--tokens-per-frame", type=int, default=17)
    parser.add_argument("--dev", type=int, default=80, help="photographs to measure on")
    parser.add_argument("--limit", type=int, help="photographs trained on, for a trial run")
    args = parser.parse_args()
    args.captions, args.wheels = args.captions.resolve(), args.wheels.resolve()
    shapes = ("steps", "batch", "warm_epochs", "tokens_per_frame", "dev", "limit")
    about = {name: getattr(args, name) for name in ("captions", "wheels", *shapes)}
    try:
        claim(args.work, about)
    except SettingsError as error:
        sys.exit(f"modes: {error}")
    for mark, (module, *more) in steps(args):
        if not (mark and mark.is_file()):
            print(f"-- {module} {' '.join(more)}", flush=True)
            code = subprocess.run([sys.executable, "-m", f"pipelines.{module}", *more]).returncode
            if code:
                sys.exit(f"modes: pipelines.{module} ended with {code}")
    lines = table(args.work)
    about = {"steps": args.steps, "batch": args.batch, "dev": args.dev, "lines": lines}
    args.out.write_text(json.dumps(about, indent=1) + "\n")
    print(markdown(lines))


if __name__ == "__main__":
    main()
