"""What a stream does on this machine: its memory, its speed, and what it still knows.

    python -m pipelines.report.benchmark_stream --captions captions.parquet \
        --clips clips/ --out s.json

Parts (`--parts`): `day`, 86,400 frames at one a second, pushed as fast as they go, with questions
on the way; `burst`, ten times as many frames as this machine encodes, under each policy; `needle`,
whether a scene of five seconds is found an hour later, against a sliding window and against frames
at even distances, at the same number of tokens; `joined`, the clips of a folder as one long stream:
what was skipped, what it saved, which answers stayed.

`--captions` is a Parquet file as `pipelines.mini.make_clips` takes it; rows of `--split` are used.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import psutil
import pyarrow.parquet as pq
import torch

import vzvideo
from pipelines.mini import questions
from pipelines.mini.clips import draw_move, picture
from pipelines.mini.concepts import CONCEPTS, Concept
from pipelines.mini.questions import Captioned
from vzvideo.corpus.manifest import ENDINGS
from vzvideo.live.moments import moments_to_tokens, tokens_to_moments
from vzvideo.live.sources import LiveSource
from vzvideo.live.stream import Stream
from vzvideo.models.encoder import Encoder, ZipSettings
from vzvideo.qa.video_qa import VideoQA
from vzvideo.types import FrameBatch, Policy
from vzvideo.visionzip.memory import Memory, Moment

PARTS = ("day", "burst", "needle", "joined")
SCENE_S = 30  # how long a scene of the needle's stream lasts, at one frame a second
VIEWS = 10  # different pictures of a scene: the camera moves on every third second
NEEDLE_S = 5
BEFORE_S, AFTER_S = 300, 3600


# -- needle


@dataclasses.dataclass(frozen=True)
class Album:
    """Photographs, what is said of them, and the moments that a camera move over each becomes."""

    said: list[Captioned]
    moments: list[list[Moment]]


def album(qa: VideoQA, captions: Path, split: str | None, limit: int | None) -> Album:
    """Every photograph under a slow camera, encoded as a stream does."""
    filters = [("split", "=", split)] if split else None
    table = pq.read_table(captions, filters=filters).slice(0, limit).to_pydict()
    said = [Captioned([questions.tidy(t) for t in some if t.strip()]) for some in table["captions"]]
    moments = []
    for row in range(len(said)):
        move = draw_move(row, random.Random(row), flips=False)
        views = [move.at(n / (VIEWS - 1)) for n in range(VIEWS)]
        pixels = np.stack([np.asarray(picture(table["webp"][row], view)) for view in views])
        frames = FrameBatch(pixels, np.arange(VIEWS, dtype=np.float64))
        moments.append(list(tokens_to_moments(qa.encoder.encode(frames, ZipSettings()))))
    return Album(said, moments)


@dataclasses.dataclass(frozen=True)
class Trial:
    """A stream's frames, with the needle or with its neighbours going on, and what is asked."""

    concept: Concept
    question: str
    rows: list[tuple[int, int]]  # photograph and frame of its move, a second each

    def frames(self, photographs: Album) -> Iterator[Moment]:
        for second, (row, place) in enumerate(self.rows):
            seen = photographs.moments[row][place * VIEWS // SCENE_S]
            yield dataclasses.replace(
                seen,
                pts_s=torch.full_like(seen.pts_s, float(second)),
                start_s=float(second),
                end_s=float(second),
            )


def trials(photographs: Album, count: int, busy: bool, seed: int) -> list[tuple[Trial, Trial]]:
    """Streams with the needle and the same without it; the concept is shown nowhere else.

    busy: another scene every half minute; else one scene all the time.
    """
    rng = random.Random(seed)
    shown = {
        concept: (
            [row for row, said in enumerate(photographs.said) if said.shows(concept)],
            [row for row, said in enumerate(photographs.said) if said.shows(concept) is False],
        )
        for concept in CONCEPTS
    }
    usable = [concept for concept, (yes, no) in shown.items() if yes and len(no) >= 40]
    made = []
    for number in range(count):
        concept = usable[number % len(usable)]
        yes, no = shown[concept]
        before = rng.randint(0, BEFORE_S)
        length = before + NEEDLE_S + AFTER_S
        scenes = length // SCENE_S + 1
        order = [row for _ in range(-(-scenes // len(no))) for row in rng.sample(no, len(no))]
        if not busy:
            order = order[:1] * scenes
        around = [(row, place) for row in order[:scenes] for place in range(SCENE_S)][:length]
        row = rng.choice(yes)
        # In the middle of a scene, which goes on behind it.
        with_it = [*around]
        with_it[before : before + NEEDLE_S] = [(row, place) for place in range(NEEDLE_S)]
        question = questions.is_there(concept, True, random.Random(0)).question
        made.append((Trial(concept, question, with_it), Trial(concept, question, around)))
    return made


def by_memory(frames: list[Moment], budget: int) -> tuple[Moment, ...]:
    memory = Memory(budget)
    for frame in frames:
        memory = memory.add(frame)
    return memory.moments


def by_window(frames: list[Moment], budget: int) -> tuple[Moment, ...]:
    return tuple(frames[-(budget // len(frames[0])) :])


def by_steps(frames: list[Moment], budget: int) -> tuple[Moment, ...]:
    count = budget // len(frames[0])
    index = (np.arange(count) + 0.5) * len(frames) / count
    return tuple(frames[int(i)] for i in index)


Way = Callable[[list[Moment], int], tuple[Moment, ...]]
WAYS: dict[str, Way] = {
    "token memory": by_memory,
    "sliding window": by_window,
    "even subsampling": by_steps,
}


def needle(qa: VideoQA, photographs: Album, count: int, budget: int) -> dict[str, Any]:
    """Yes-or-no questions, balanced; the likelier of the two is the answer."""
    found: dict[str, Any] = {"budget": budget, "after_s": AFTER_S, "needle_s": NEEDLE_S}
    for around, busy in (("one scene", False), ("a scene every half minute", True)):
        leaning: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
        for pair in trials(photographs, count, busy, 0):
            for name, way in WAYS.items():
                with_it, without = (_leaning(qa, photographs, t, way, budget) for t in pair)
                leaning[name].append((with_it, without))
        found[around] = {name: _told(np.array(pairs)) for name, pairs in leaning.items()}
    return found


def _leaning(qa: VideoQA, photographs: Album, trial: Trial, way: Way, budget: int) -> float:
    """How much likelier yes is than no, nats a token."""
    moments = way(list(trial.frames(photographs)), budget)
    prefix = qa.language.prefill(moments_to_tokens(moments, "", {}))
    yes, no = qa.language.log_likelihoods(prefix, trial.question, ["Yes.", "No."])
    return yes - no


def _told(pairs: np.ndarray[Any, Any]) -> dict[str, float]:
    """pairs (N, 2): how much likelier yes is than no, with the needle and without.

    likelier_with_it: how often the needle makes yes likelier; chance is a half.
    """
    seen, blind = pairs[:, 0], pairs[:, 1]
    auc = float(((seen[:, None] > blind) + 0.5 * (seen[:, None] == blind)).mean())
    return {
        "questions": 2 * len(pairs),
        "accuracy": float(np.concatenate([seen > 0, blind <= 0]).mean()),
        "yes_with_it": float((seen > 0).mean()),
        "yes_without": float((blind > 0).mean()),
        "likelier_with_it": float((seen > blind).mean() + 0.5 * (seen == blind).mean()),
        "auc": auc,
    }


# -- day


def day(qa: VideoQA, hours: float) -> dict[str, Any]:
    """A frame a second for so many hours, none like the one before, and questions on the way.

    The tower is run up to its first layer only, which makes a day pass in minutes; the language
    model is whole, and what it says of such tokens is of no concern here.
    """
    shallow = VideoQA(
        qa.card, Encoder(qa.encoder.tower, qa.encoder.preprocess, 1), qa.language, qa.tower,
        qa.settings,
    )  # fmt: skip
    edge, seconds = qa.encoder.preprocess.size, round(hours * 3600)
    rng = np.random.default_rng(0)
    process, resident, first_token, most = psutil.Process(), {}, {}, 0
    begun = time.perf_counter()
    with shallow.stream(batch=16) as stream:
        for second in range(seconds):
            cells = rng.integers(0, 256, (8, 8, 3), np.uint8)
            stream.push(cells.repeat(edge // 8 + 1, 0).repeat(edge // 8 + 1, 1), float(second))
            if second % 300 == 299:
                stream.wait()
                most = max(most, stream.stats.tokens)
            if second + 1 in (300, 3600, 6 * 3600, 12 * 3600, 18 * 3600, seconds):
                first_token[second + 1] = [_first_token(stream) for _ in range(5)]
                resident[second + 1] = process.memory_info().rss / (1 << 20)
        stats = stream.stats
    early, late = (statistics.median(first_token[at]) for at in (300, seconds))
    return {
        "seconds": time.perf_counter() - begun,
        "stats": dataclasses.asdict(stats),
        "most_tokens": most,
        "resident_mib": resident,
        "growth_after_first_hour": resident[seconds] / resident[min(3600, seconds)] - 1,
        "first_token_s": first_token,
        "first_token_late_to_early": late / early,
    }


def _first_token(stream: Stream) -> float:
    """Of a question about everything, nothing read before."""
    stream.forget()
    begun = time.perf_counter()
    answer = iter(stream.start("What is happening in the video?"))
    next(answer, None)
    taken = time.perf_counter() - begun
    answer.close()  # type: ignore[attr-defined]
    return taken


# -- burst


def burst(qa: VideoQA, seconds: float) -> dict[str, Any]:
    """Ten times as many frames as this machine encodes, under each policy, with questions."""
    edge = qa.encoder.preprocess.size
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (64, edge, edge, 3), np.uint8)
    times = np.arange(8, dtype=np.float64)
    qa.encoder.encode(FrameBatch(pictures[:8], times))  # the first is slower
    begun = time.perf_counter()
    qa.encoder.encode(FrameBatch(pictures[:8], times))
    rate = 8 / (time.perf_counter() - begun)
    found: dict[str, Any] = {"encodes_per_s": rate, "pushed_per_s": 10 * rate}
    for policy in get_args(Policy):
        asked: list[float] = []
        with qa.stream(policy=policy, max_new_tokens=8, budget=512) as stream:
            begun, number = time.perf_counter(), 0
            while time.perf_counter() - begun < seconds:
                stream.push(pictures[number % 64], number / (10 * rate))
                number += 1
                ahead_s = number / (10 * rate) - (time.perf_counter() - begun)
                time.sleep(max(0.0, ahead_s))
                if number % max(1, round(10 * rate * seconds / 4)) == 0:
                    at = time.perf_counter()
                    stream.ask("What is shown?")
                    asked.append(time.perf_counter() - at)
            lag_s = stream.stats.lag_s
            stream.wait()
            stats = stream.stats
        parts = (stats.skipped, stats.encoded, stats.dropped, stats.waiting)
        found[policy] = dataclasses.asdict(stats) | {
            "pushed": number, "adds_up": number == stats.frames_in == sum(parts),
            "lag_at_the_end_s": lag_s, "answers_s": asked,
        }  # fmt: skip
    return found


# -- joined

ASKED = ("What is happening in the video?", "Who is there?", "Where is this?")


def joined(qa: VideoQA, clips: Sequence[Path], fps: float) -> dict[str, Any]:
    """The clips one after the other: what is skipped at each tolerance, and what that changes."""
    frames: list[tuple[np.ndarray[Any, Any], float]] = []
    spans: list[tuple[float, float]] = []
    for clip in clips:
        start_s = frames[-1][1] + 1.0 if frames else 0.0
        frames += list(LiveSource(str(clip), fps=fps, size=2 * qa.encoder.preprocess.size,
                            start_s=start_s))  # fmt: skip
        spans.append((start_s, frames[-1][1]))
    found: dict[str, Any] = {"frames": len(frames), "seconds": frames[-1][1], "clips": len(clips)}
    texts: dict[float, list[str]] = {}
    for tolerance in (0.0, 0.02, 0.04, 0.08, 0.16):
        begun = time.perf_counter()
        with qa.stream(budget=6000, tolerance=tolerance, max_new_tokens=24) as stream:
            for pixels, pts_s in frames:
                stream.push(pixels, pts_s)
            stream.wait()
            taken = time.perf_counter() - begun
            texts[tolerance] = [
                stream.ask(question, since_s=start_s, until_s=end_s).text
                for start_s, end_s in spans
                for question in ASKED
            ]
            stats = stream.stats
        same = [a == b for a, b in zip(texts[tolerance], texts[0.0], strict=True)]
        found[str(tolerance)] = {
            "skipped": stats.skipped / stats.frames_in, "seconds": taken,
            "answers": len(same), "answers_the_same": sum(same), "texts": texts[tolerance],
        }  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--captions", type=Path, help="Parquet file, for `needle`")
    parser.add_argument("--split", default=None, help="its rows, by the column `split`")
    parser.add_argument("--clips", type=Path, help="folder of videos, for `joined`")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--hours", type=float, default=24.0, help="of `day`")
    parser.add_argument("--trials", type=int, default=20, help="of `needle`, of each surrounding")
    parser.add_argument("--budget", type=int, default=544, help="tokens, of `needle`")
    parser.add_argument("--burst", type=float, default=10.0, help="seconds of each policy")
    args = parser.parse_args()
    if "needle" in args.parts and args.captions is None:
        parser.error("`needle` needs --captions")
    if "joined" in args.parts and args.clips is None:
        parser.error("`joined` needs --clips")
    qa = vzvideo.load(args.model, device=args.device, cache=False)

    def find() -> dict[str, Any]:
        photographs = album(qa, args.captions, args.split, None)
        return needle(qa, photographs, args.trials, args.budget)

    def join() -> dict[str, Any]:
        return joined(qa, sorted(p for p in args.clips.iterdir() if p.suffix in ENDINGS), 4.0)

    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "day": lambda: day(qa, args.hours),
        "burst": lambda: burst(qa, args.burst),
        "needle": find,
        "joined": join,
    }
    measured: dict[str, Any] = {
        "vzvideo": vzvideo.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "device": str(qa.encoder.device),
        "model": args.model,
    }
    for name in args.parts:
        measured[name] = parts[name]()
        args.out.write_text(json.dumps(measured, indent=1) + "\n")
        print(name, json.dumps(measured[name]), flush=True)


if __name__ == "__main__":
    main()
