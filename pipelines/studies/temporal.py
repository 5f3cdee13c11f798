"""Across frames or frame by frame? What is told, what is covered, what stands still, what it costs.

    python -m pipelines.mini.make_clips --captions captions.parquet --split dev --out clips/
    python -m pipelines.studies.temporal --clips clips/ --videos videos/ --out FILE.json

Four parts, each written as soon as it is there. *judged*: questions about long made clips, whose
scenes are known, answered from equally many tokens: VisionZip frame by frame, across frames, fewer
frames of 65 tokens each, and pooled. *covered*: of real videos, 32 frames each, the mean over all
cells of the greatest cosine to a token that is kept. *static*: the share of cells that are merged,
by tau. *cost*: seconds of zipping 32 frames of `mini`, beside the tower's, and of larger shapes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import vzvideo
from pipelines.studies.compare import Clip, Judge, closed, look, summarize
from pipelines.studies.reductions import by_pooling
from vzvideo import visionzip
from vzvideo.bench.measure import environment, spread
from vzvideo.corpus.manifest import ENDINGS
from vzvideo.evaluation import questions as files
from vzvideo.evaluation.questions import Question
from vzvideo.models.encoder import Encoder, Scored
from vzvideo.qa.video_qa import VideoQA

FRAMES, SHARES = (8, 32, 64), (0.10, 0.05)  # of a clip; of its tokens
FEWER = 65  # tokens of a frame, where there are fewer frames
LOOKED_AT = 32
TAUS = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
# Cells of a frame, their width, whether the first is a CLS.
SHAPES = {"CLIP-L 224": (257, 1024, True), "LLaVA-OneVision-0.5B": (196, 896, False)}
# Cells of a clip, tokens a frame -> what is kept of them (V, D).
Way = Callable[[Scored, int], Tensor]


def frame_by_frame(scored: Scored, each: int) -> Tensor:
    found = visionzip.compress(*scored, *visionzip.split_tokens(each)).features
    return found.flatten(0, 1)


def across(scored: Scored, each: int) -> Tensor:
    return visionzip.zip_clip(*scored, each * len(scored.hidden)).features


def across_by_attention(scored: Scored, each: int) -> Tensor:
    return visionzip.zip_clip(*scored, each * len(scored.hidden), static="attention").features


def fewer_frames(scored: Scored, each: int) -> Tensor:
    """The budget goes into frames of 65 tokens and, what is left of it, one of fewer."""
    frames, left = divmod(each * len(scored.hidden), FEWER)
    count = min(frames + (left > 0), len(scored.hidden))
    at = ((np.arange(count) + 0.5) * len(scored.hidden) / count).astype(int)
    sizes = [FEWER] * frames + [left] * (left > 0)
    parts = [frame_by_frame(Scored(*(v[i : i + 1] for v in scored)), size)
             for i, size in zip(at.tolist(), sizes, strict=False)]  # fmt: skip
    return torch.cat(parts)


def pooled(scored: Scored, each: int) -> Tensor:
    return by_pooling(scored, each).flatten(0, 1)


WAYS: dict[str, Way] = {
    "frame by frame": frame_by_frame, "across frames": across,
    "across, by attention": across_by_attention, "fewer frames": fewer_frames, "pooling": pooled,
}  # fmt: skip


def judged(
    qa: VideoQA, clips: Sequence[Clip], cells: Sequence[tuple[int, float]], standing: Any, note: Any
) -> None:
    """A line for each number of frames, share and way; those of `standing` are not made again."""
    judge = Judge(qa.language)
    made = {(row["frames"], row["share"], row["way"]) for row in standing}
    for frames, share in cells:
        each = round(share * qa.encoder.tokens)
        for name, way in WAYS.items():
            if (frames, share, name) not in made:
                features = [_kept(clip.scored, frames, each, way) for clip in clips]
                asked = [clip.questions for clip in clips]
                values = judge.chosen(features, asked)
                kinds: dict[str, Any] = {}
                for kind in sorted({q.kind for some in asked for q in some}):
                    own = [q for some in asked for q in some if q.kind == kind]
                    kinds[kind] = summarize([values[q.id] for q in own], [q.video for q in own])
                note({"frames": frames, "share": share, "tokens": len(features[0]), "way": name,
                      "kinds": kinds})  # fmt: skip


def _kept(scored: Scored, frames: int, each: int, way: Way) -> Tensor:
    at = ((np.arange(frames) + 0.5) * len(scored.hidden) / frames).astype(int)
    return way(Scored(*(values[at].float() for values in scored)), each)


def covered(scored: Scored) -> list[dict[str, Any]]:
    """By share and way, the mean over cells of the greatest cosine to a kept token."""
    cells = F.normalize(scored.hidden.float(), dim=-1).flatten(0, 1)
    rows = []
    for share in SHARES:
        each = round(share * scored.hidden.shape[1])
        for name, way in WAYS.items():
            kept = F.normalize(way(scored, each).float(), dim=-1)
            best = torch.cat([(some @ kept.T).amax(1) for some in cells.split(2048)])
            rows.append({"share": share, "way": name, "covered": float(best.mean())})
    return rows


def static(scored: Scored) -> dict[str, float]:
    """The share of cells that are merged across frames, by tau."""
    total = scored.scores.numel()
    return {str(tau): visionzip.zip_clip(*scored, total // 10, tau=tau).static for tau in TAUS}


def cost(encoder: Encoder, path: Path, repeats: int = 5) -> dict[str, Any]:
    """Seconds of the tower and of zipping, both of 32 frames."""
    tower, zipping = [], []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        scored = look(encoder, path, LOOKED_AT)
        looked = time.perf_counter()
        across(Scored(*(values.float() for values in scored)), round(0.1 * encoder.tokens))
        tower.append(looked - begun)
        zipping.append(time.perf_counter() - looked)
    return {"decode_and_tower_s": spread(tower[1:]), "zip_s": spread(zipping[1:])}


def cost_of_shape(cells: int, width: int, has_cls: bool, repeats: int = 5) -> dict[str, Any]:
    """Seconds of zipping 32 frames of noise of which four in five cells stay, to a tenth."""
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(LOOKED_AT, cells, width, generator=draw)
    for at in range(1, LOOKED_AT):
        stays = torch.rand(cells, 1, generator=draw) < 0.8
        near = features[at - 1] + 0.2 * torch.randn(cells, width, generator=draw)
        features[at] = torch.where(stays, near, features[at])
    scores = torch.rand(LOOKED_AT, cells, generator=draw)
    keys = torch.randn(LOOKED_AT, cells, 64, generator=draw)
    taken = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        visionzip.zip_clip(features, scores, keys, 0.1, has_cls=has_cls)
        taken.append(time.perf_counter() - begun)
    return spread(taken[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clips", type=Path, help="folder that make_clips has written")
    parser.add_argument("--videos", type=Path, help="folder of real ones")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--limit", type=int, default=40, help="long clips asked of")
    parser.add_argument(
        "--cells", nargs="+", help="what is judged: frames@share",
        default=[f"{frames}@{share}" for frames in FRAMES for share in SHARES],
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="goes on with what it holds")
    args = parser.parse_args()
    qa = vzvideo.load(args.model, dtype="float32")
    found: dict[str, Any] = {"model": qa.name, "clips": args.limit, "judged": [], "real": []}
    found |= json.loads(args.out.read_text()) if args.out.exists() else {}
    found |= environment()

    def write() -> None:
        args.out.write_text(json.dumps(found, indent=1) + "\n")

    def note(row: dict[str, Any]) -> None:
        found["judged"].append(row)
        brief = {kind: round(part["score"], 3) for kind, part in row["kinds"].items()}
        print(row["frames"], row["share"], row["way"], row["tokens"], brief, flush=True)
        write()

    videos = sorted(p for p in args.videos.iterdir() if p.suffix in ENDINGS) if args.videos else []
    for path in [path for path in videos if path.name not in {r["video"] for r in found["real"]}]:
        scored = Scored(*(values.float() for values in look(qa.encoder, path, LOOKED_AT)))
        row = {"video": path.name, "covered": covered(scored), "static": static(scored)}
        found["real"].append(row)
        print(path.name, [round(each["covered"], 3) for each in row["covered"]], flush=True)
        write()
    if videos and "cost" not in found:
        found["cost"] = cost(qa.encoder, videos[0])
        write()
    found["cost_of_shapes_s"] = {name: cost_of_shape(*shape) for name, shape in SHAPES.items()}
    write()
    if args.clips:
        asked: dict[str, list[Question]] = {}
        for question in files.read(args.clips / "questions.jsonl"):
            if Path(question.video).name.startswith("long") and closed(question):
                asked.setdefault(question.video, []).append(question)
        some = list(asked.items())[: args.limit]
        clips: list[Clip] = [Clip(look(qa.encoder, Path(v), max(FRAMES)), q) for v, q in some]
        cells = [(int(cell.split("@")[0]), float(cell.split("@")[1])) for cell in args.cells]
        judged(qa, clips, cells, found["judged"], note)


if __name__ == "__main__":
    main()
