"""Tunes a Video-LLaVA to compressed videos, on one's own questions and answers.

    python -m pipelines.tune train.jsonl --model video-llava-7b --train connector --part 0.1 \
        --out tuned/
    vzvideo ask --model tuned/ movie.mp4 "What happens?"

The three modes of the paper: nothing trained (`vzvideo eval` alone measures that); efficient
tuning, the connector alone on a tenth of the data (`--train connector --part 0.1`); training with
VisionZip throughout (`--train all`: the connector, and LoRA on every linear layer of the language
model). `--no-compress` trains on every token, for comparison; `time.json` in `--out` says what
either took: seconds of the steps alone, and the peak memory of the process during them.

The questions are a file that `vzvideo eval` reads; measure on another. Videos are encoded once,
into the token cache, and those that cannot be read are left out. The same command goes on after a
kill.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

import vzvideo
from pipelines.mini.packing import Packed, packer_for
from pipelines.mini.trainer import DECISIVE, Schedule, Trainee, claim, export, fit
from vzvideo.errors import SettingsError, VzVideoError
from vzvideo.evaluation import questions as files
from vzvideo.evaluation.questions import Question
from vzvideo.models import catalog, mini_build, weights
from vzvideo.models.preprocess import Preprocess
from vzvideo.types import VisualTokens

Place = tuple[str, float | None, float | None]  # a video, and the part of it that is meant
QUESTIONS = 6  # of one video learned in one sequence, at most


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("questions", type=Path, help="what `vzvideo eval` reads")
    parser.add_argument("--format", help="as of `vzvideo eval`")
    parser.add_argument("--videos", type=Path, help="folder with the videos")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--train", choices=("connector", "all"), default="connector")
    parser.add_argument("--part", type=float, default=1.0, help="of the videos, drawn at random")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--frames", type=int)
    parser.add_argument("--tokens-per-frame", type=int, default=17)
    parser.add_argument("--no-compress", action="store_true", help="train on every token")
    parser.add_argument("--passes", type=float, default=1.0, help="over the videos")
    parser.add_argument("--batch", type=int, default=8, help="videos a step")
    parser.add_argument("--at-once", type=int, default=4, help="videos a pass, as memory allows")
    parser.add_argument("--connector-lr", type=float, default=2e-4)
    parser.add_argument("--lora-lr", type=float, default=2e-4)
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--precision", choices=("no", "bf16"), default="bf16")
    parser.add_argument("--cpu", action="store_true", help="even where there is a GPU")
    args = parser.parse_args()
    work = args.out.with_name(args.out.name + ".training")
    try:
        train(args, work)
        write(args.model, work / "adapter.safetensors", args.out)
    except VzVideoError as error:
        sys.exit(f"tune: {error}")
    shutil.copy(work / "time.json", args.out)
    print(args.out)


def train(args: argparse.Namespace, work: Path) -> None:
    """Leaves an adapter and `time.json` in `work`, beside the checkpoints it goes on from."""
    accelerator = Accelerator(mixed_precision=args.precision, cpu=args.cpu)
    torch.manual_seed(0)

    by_video: dict[Place, list[Question]] = {}
    for question in files.read(args.questions, format=args.format, videos=args.videos):
        place = (question.video, question.start_s, question.end_s)
        by_video.setdefault(place, []).append(question)
    names = list(by_video)
    asked = hashlib.sha256(repr(sorted(by_video.items(), key=str)).encode()).hexdigest()
    shapes = ("model", "train", "part", "frames", "tokens_per_frame", "no_compress", "batch")
    claim(work, {name: getattr(args, name) for name in shapes} | {"questions": asked})
    random.Random(0).shuffle(names)
    names = names[: max(1, round(args.part * len(names)))]
    qa = vzvideo.load(
        args.model,
        device=str(accelerator.device),
        dtype="bfloat16" if args.precision == "bf16" else "float32",
        compress=not args.no_compress,
        tokens_per_frame=args.tokens_per_frame,
        frames=args.frames,
        cache_gib=1000.0,
    )
    packer = packer_for(qa.language)

    def encode(place: Place) -> VisualTokens:
        video, start_s, end_s = place
        ends: dict[str, Any] = {"start_s": start_s, "end_s": end_s}
        return qa.encode(video, **{name: at for name, at in ends.items() if at is not None})

    whole = []
    for name in names:  # before training, so that its time is training's alone
        try:
            encode(name)
            for question in by_video[name]:
                qa.language.prompts.length(question.question)
            whole.append(name)
        except VzVideoError as error:
            print(f"left out: {error}", file=sys.stderr, flush=True)
    if not whole:
        raise SettingsError(f"{args.questions}: none of its videos can be used")
    sample = torch.cat([encode(name).features.float().cpu() for name in whole[:64]])
    trainee = Trainee(qa.language.model, sample, lora=args.train == "all")
    for parameter in trainee.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    trainee.connector.unfold(trainee.connector.projector.state_dict())

    def draw(step: int) -> list[tuple[Tensor, Packed]]:
        rng = random.Random(step)
        chosen = [whole[(step * args.batch + i) % len(whole)] for i in range(args.batch)]
        parts = []
        for start in range(0, len(chosen), args.at_once):
            some = chosen[start : start + args.at_once]
            tokens = [encode(name) for name in some]
            items = []
            for name in some:
                asked = rng.sample(by_video[name], min(QUESTIONS, len(by_video[name])))
                items.append([(q.question, rng.choice(q.answers)) for q in asked])
            features = torch.cat([each.features.float().cpu() for each in tokens])
            parts.append(
                (features, packer(items, [len(each) for each in tokens], decisive=DECISIVE))
            )
        return parts

    def report(trainee: Trainee, facts: dict[str, float]) -> None:
        about = facts | {"train": args.train, "compress": not args.no_compress}
        print(json.dumps(about), flush=True)
        (work / "time.json").write_text(json.dumps(about) + "\n")
        export(trainee, work / "adapter.safetensors", about)

    steps = max(1, round(args.passes * len(whole) / args.batch))
    schedule = Schedule(steps, args.connector_lr, args.lora_lr, max(1, steps // 20), args.every)
    fit(trainee, draw, schedule, accelerator, work, report)


def write(model: str, adapter: Path, out: Path) -> None:
    """The model's checkpoint with what was learned folded in, a folder that `--model` takes."""
    from vzvideo.models import loader

    folder = weights.locate(catalog.find(model))
    if folder is None:
        raise SettingsError(f"{model}: its checkpoint is gone; `vzvideo pull {model}` gets it")
    _, language = loader.load(folder, device="cpu", dtype="float32")
    mini_build.apply_adapter(language.model, adapter)
    language.model.half().save_pretrained(out)
    language.tokenizer.save_pretrained(out)
    mini_build.write_preprocess(Preprocess.from_folder(folder), out)


if __name__ == "__main__":
    main()
