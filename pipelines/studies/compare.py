"""What VisionZip keeps, beside the plain ways to the same number of tokens.

    python -m pipelines.mini.make_clips --captions captions.parquet --split dev --out clips/
    python -m pipelines.studies.compare clips/ --model mini --out table.json

Two tables. At equal frames: accuracy and caption quality at 257, 65, 33, 17 and 9 tokens a frame,
for VisionZip, for either half of it alone, and for patches taken evenly, pooled, and drawn at
random. At equal tokens: as many as two frames have uncompressed, spent on 2, 8, 16 or 32 frames of
long clips. Options are chosen by what the video adds to their likelihood; yes or no by likelihood
alone. Lines that stand in `--out` already are not made again.

Both begin with what the model scores without any video. A model that was trained with VisionZip, as
`mini` was, has never met the other reductions, and seldom a whole frame: what those lose here is
more than what they leave out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

import vzvideo
from pipelines.mini.packing import answer_losses, packer_for
from pipelines.mini.trainer import Trainee
from pipelines.studies.reductions import METHODS, Reduce
from vzvideo.errors import SettingsError
from vzvideo.evaluation import questions as files
from vzvideo.evaluation import scoring
from vzvideo.evaluation.questions import Question
from vzvideo.models import weights
from vzvideo.models.encoder import Encoder, Scored
from vzvideo.models.language import LanguageModel
from vzvideo.video import open_video, sampling

BUDGETS = (65, 33, 17, 9)
FRAMES = {"still": 1, "pan": 4, "cut": 4, "long": 32}  # by the beginning of a clip's name
TRADES = ((8, 65), (16, 33), (32, 17))  # frames and tokens of each, as many as of two whole ones
NOTHING, WHOLE = "no video", "full"  # the lines that are no way to fewer tokens
YES_NO = ("Yes.", "No.")
CAPTION_TOKENS = 40


# -- the model


@dataclass(frozen=True)
class Clip:
    """A clip's questions and its frames, whole."""

    scored: Scored
    questions: list[Question]

    def tokens(self, frames: int, tokens: int | None, reduce: Reduce) -> Tensor:
        """`frames` of its frames at even distances, reduced -> (V, D)."""
        count = len(self.scored.hidden)
        if tokens == 0:
            return self.scored.hidden[:0].float().flatten(0, 1)
        index = (np.arange(frames) + 0.5) * count / frames
        part = Scored(*(values[index.astype(int)].float() for values in self.scored))
        return (part.hidden if tokens is None else reduce(part, tokens)).flatten(0, 1)


def look(encoder: Encoder, path: Path, frames: int) -> Scored:
    """Decodes and encodes a clip; kept in half precision, scores whole."""
    with open_video(str(path), size=2 * encoder.preprocess.size) as video:
        times = sampling.uniform(0.0, video.info.duration_s or 0.0, frames)
        parts = [
            encoder.score(encoder.preprocess(torch.from_numpy(batch.pixels), encoder.device))
            for batch in video.stream(times, 8)
        ]
    hidden, scores, keys = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    return Scored(hidden.half(), scores.float(), keys.half())


class Judge:
    """Scores clips of equally many tokens, many at a time."""

    def __init__(self, language: LanguageModel, batch_tokens: int = 6000) -> None:
        self._language = language
        trainee = Trainee(language.model, None, lora=False)
        self._trainee = trainee.to(language.device, language.model.dtype).eval()
        self._packer = packer_for(language)
        self._batch_tokens = batch_tokens

    @torch.inference_mode()
    def chosen(self, features: list[Tensor], questions: list[list[Question]]) -> dict[str, float]:
        """Clips (V, D) and their questions with options -> 1 or 0 by the question's id.

        Texts are taken by what the video adds to their likelihood, for some are likely of anything;
        Yes and No as they are.
        """
        scores: dict[str, float] = {}
        each = len(features[0]) + 24 * max(sum(len(options(q)) for q in some) for some in questions)
        for part in self._parts(len(features), each):
            items = [
                [(q.question, text) for q in some for text in options(q)]
                for some in questions[part]
            ]
            seen = self._losses(features[part], items)
            blind = self._losses([each[:0] for each in features[part]], items)
            by_answer = zip(seen, blind, strict=True)
            for question in (q for some in questions[part] for q in some):
                both = [next(by_answer) for _ in options(question)]
                gain = question.options and len(features[0])
                found = [seen - blind if gain else seen for seen, blind in both]
                best = options(question)[int(np.argmin(found))]
                scores[question.id] = scoring.exact_match(best, question.answers)
        return scores

    @torch.inference_mode()
    def captions(self, features: list[Tensor], question: str) -> list[str]:
        """Clips (V, D) -> what the model says of each, greedily."""
        language = self._language
        before, after = language.prompts.opening(question)
        row = [*before, *[language.video_token] * len(features[0]), *after]
        said: list[str] = []
        for part in self._parts(len(features), len(row) + CAPTION_TOKENS):
            ids = torch.tensor([row] * len(features[part]), device=language.device)
            projector: Any = language.model.model.multi_modal_projector
            video = projector(self._stack(features[part])).flatten(0, 1).unsqueeze(0)
            seen = {"video": BaseModelOutputWithPooling(pooler_output=video)}
            output = language.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                **({"mm_encoder_outputs": seen} if video.numel() else {}),
                do_sample=False,
                max_new_tokens=CAPTION_TOKENS,
                eos_token_id=sorted(language.ends),
                pad_token_id=language.pad,
            )
            texts = language.tokenizer.batch_decode(output[:, len(row) :], skip_special_tokens=True)
            said += [text.strip() for text in texts]
        return said

    def _losses(self, features: list[Tensor], items: list[list[tuple[str, str]]]) -> list[float]:
        batch = self._packer(items, len(features[0])).to(self._language.device)
        return answer_losses(self._trainee(self._stack(features), batch), batch).tolist()

    def _stack(self, features: list[Tensor]) -> Tensor:
        return torch.stack(features).to(self._language.device, self._language.model.dtype)

    def _parts(self, count: int, each: int) -> list[slice]:
        size = max(1, self._batch_tokens // each)
        return [slice(start, start + size) for start in range(0, count, size)]


def options(question: Question) -> tuple[str, ...]:
    """What is to choose from; of a yes-or-no question, the two."""
    return question.options or YES_NO


# -- the tables


def score(
    judge: Judge, clips: Sequence[Clip], frames: int, tokens: int | None, reduce: Reduce
) -> dict[str, tuple[list[float], list[str]]]:
    """Scores and videos by kind of question."""
    features = [clip.tokens(frames, tokens, reduce) for clip in clips]
    choices = [[q for q in clip.questions if closed(q)] for clip in clips]
    by_kind: dict[str, tuple[list[float], list[str]]] = {}

    def note(question: Question, value: float) -> None:
        values, videos = by_kind.setdefault(question.kind, ([], []))
        values.append(value)
        videos.append(question.video)

    asked = [i for i, some in enumerate(choices) if some]
    if asked:
        chosen = judge.chosen([features[i] for i in asked], [choices[i] for i in asked])
        for question in (q for some in choices for q in some):
            note(question, chosen[question.id])
    told = [(i, q) for i, clip in enumerate(clips) for q in clip.questions if q.metric == "caption"]
    if told:
        texts = judge.captions([features[i] for i, _ in told], told[0][1].question)
        values = scoring.cider(texts, [q.answers for _, q in told])
        for (_, question), value in zip(told, values, strict=True):
            note(question, float(value))
    return by_kind


def closed(question: Question) -> bool:
    """Whether there is something to choose from."""
    return question.metric == "choice" or set(question.answers) <= set(YES_NO)


@dataclass(frozen=True)
class Plan:
    """A line to be made. frames: 0 in the first table, where each sort of clip has its own."""

    table: str
    method: str
    frames: int
    tokens_per_frame: int


def plans(
    whole: int, budgets: Sequence[int] = BUDGETS, methods: Sequence[str] = (*METHODS, WHOLE)
) -> list[Plan]:
    """The lines of both tables; whole: tokens of a frame that keeps them all."""
    made = [
        Plan("tokens", NOTHING, 1, 0),
        Plan("tokens", WHOLE, 2, whole),
        *(Plan("tokens", "VisionZip", frames, tokens) for frames, tokens in TRADES),
        Plan("frames", NOTHING, 0, 0),
        *(Plan("frames", method, 0, tokens) for method in METHODS for tokens in budgets),
        Plan("frames", WHOLE, 0, whole),  # last, for it takes longest
    ]
    return [plan for plan in made if plan.method in (NOTHING, *methods)]


def line(judge: Judge, groups: dict[str, list[Clip]], plan: Plan) -> dict[str, Any]:
    """What became of a plan: its fields, and score, interval and number by kind of question."""
    scores: dict[str, Any] = {}
    tokens = None if plan.method == WHOLE else plan.tokens_per_frame
    for name, clips in groups.items():
        if clips and _table(name) == plan.table:
            reduce = METHODS.get(plan.method, METHODS["VisionZip"])
            scores |= score(judge, clips, plan.frames or FRAMES[name], tokens, reduce)
    kinds = {}
    for kind, (values, videos) in sorted(scores.items()):
        kinds[kind] = summarize(values, videos)
    return asdict(plan) | {"kinds": kinds}


def summarize(values: Sequence[float], videos: Sequence[str]) -> dict[str, Any]:
    """Scores of questions of one kind: mean, bootstrap interval by video, how many."""
    low, high = scoring.bootstrap_interval(np.array(values), videos)
    score = float(np.mean(values))
    return {"score": score, "low": low, "high": high, "questions": len(values)}


def _table(name: str) -> str:
    """Which table a sort of clip is for."""
    return "tokens" if name == "long" else "frames"


def standing(out: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines that `out` holds already. Raises SettingsError where they are of something else."""
    if not out.exists():
        return []
    before: dict[str, Any] = json.loads(out.read_text())
    about = json.loads(json.dumps(about))
    changed = [name for name, value in about.items() if before.get(name) != value]
    if changed:
        raise SettingsError(
            f"{out} holds another comparison ({', '.join(changed)} differ): give another --out, or "
            "delete it"
        )
    lines: list[dict[str, Any]] = before["lines"]
    return lines


def _place(line: dict[str, Any]) -> tuple[Any, ...]:
    """Where a line stands: no video and whole frames first, then one way after the other."""
    method = (NOTHING, WHOLE, *METHODS).index(line["method"])
    return line["table"], line["frames"], method, -line["tokens_per_frame"]


def markdown(lines: Sequence[dict[str, Any]], table: str) -> str:
    """One of the tables, for a README."""
    lines = [line for line in lines if line["table"] == table]
    kinds = list(lines[0]["kinds"])
    head = ["method", "frames", "tokens a frame", *kinds]
    if table == "frames":
        head.remove("frames")
    rows = [head, ["---"] * len(head)]
    for line in lines:
        cells = [line["method"], str(line["frames"]), str(line["tokens_per_frame"])]
        if table == "frames":
            cells.pop(1)
        for kind in kinds:
            part = line["kinds"][kind]
            cells.append(f"{part['score']:.3f} ({part['low']:.2f}-{part['high']:.2f})")
        rows.append(cells)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("clips", type=Path, help="folder that make_clips has written")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--limit", type=int, help="clips of each sort")
    parser.add_argument("--table", choices=("frames", "tokens"), help="only one of the two")
    parser.add_argument(
        "--budgets", type=int, nargs="+", default=BUDGETS, help="tokens a frame, of the first table"
    )
    parser.add_argument(
        "--methods", nargs="+", choices=(*METHODS, WHOLE), default=(*METHODS, WHOLE),
        help="beside no video, which is always there",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    scoring.check_captions()
    qa = vzvideo.load(args.model, dtype=args.dtype, device=args.device)
    asked: dict[str, list[Question]] = {}
    for question in files.read(args.clips / "questions.jsonl"):
        if closed(question) or question.metric == "caption":
            asked.setdefault(question.video, []).append(question)
    texts = [(Path(q.video).name, q.question, q.answers) for some in asked.values() for q in some]
    folder = weights.locate(qa.card)
    about = {
        "model": args.model,
        "weights": weights.fingerprint(folder, "") if folder else None,
        "dtype": args.dtype,
        "device": str(qa.encoder.device),
        "vzvideo": vzvideo.__version__,
        "torch": torch.__version__,
        "frames": FRAMES,
        "questions": hashlib.sha256(repr(texts).encode()).hexdigest()[:16],
        "limit": args.limit,
    }
    try:
        lines = standing(args.out, about)
    except SettingsError as error:
        sys.exit(f"compare: {error}")
    made = [Plan(**{name: each[name] for name in Plan.__annotations__}) for each in lines]
    todo = [
        plan
        for plan in plans(qa.encoder.tokens, args.budgets, args.methods)
        if args.table in (None, plan.table) and plan not in made
    ]
    groups: dict[str, list[Clip]] = {name: [] for name in FRAMES}
    for video, some in asked.items():
        name = Path(video).name.split("-")[0]
        wanted = any(plan.table == _table(name) for plan in todo)
        if wanted and (args.limit is None or len(groups[name]) < args.limit):
            groups[name].append(Clip(look(qa.encoder, Path(video), FRAMES[name]), some))
    print(f"{sum(map(len, groups.values()))} clips encoded", file=sys.stderr, flush=True)
    judge = Judge(qa.language)
    for plan in todo:
        found = line(judge, groups, plan)
        lines = sorted([*lines, found], key=_place)
        args.out.write_text(json.dumps(about | {"lines": lines}, indent=1) + "\n")
        brief = {kind: round(part["score"], 3) for kind, part in found["kinds"].items()}
        print(plan.method, plan.frames, plan.tokens_per_frame, brief, flush=True)
    for table in ("frames", "tokens"):
        if any(line["table"] == table for line in lines):
            print(markdown(lines, table))


if __name__ == "__main__":
    main()
