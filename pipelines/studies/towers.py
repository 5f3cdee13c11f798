"""What VisionZip costs the towers of other families, and what it saves their language models.

    python -m pipelines.studies.towers --out docs/towers-cpu.json

Random weights of published shapes, float32, on the CPU. The encoder: a family's features with
scores and compression, beside the same features unscored, by turns. The language model: reading all
of a clip's tokens, a quarter and a tenth of them; its layers share one layer's weights, so that a
7B fits. Memory is the growth at its height, of a fresh process. `--table` prints a file as rows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from vzvideo import visionzip
from vzvideo.bench.measure import (
    Numbers,
    environment,
    in_child,
    peak_bytes,
    ratio,
    spread,
    time_alternating,
)
from vzvideo.bench.models import Setup, make
from vzvideo.models.families import family_of
from vzvideo.models.families.base import Family
from vzvideo.visionzip import ZipSettings

KEEP = 0.1  # of a frame's cells, where the encoder is timed
SHARES = (1.0, 0.25, 0.1)  # of a clip's tokens, where they are read
FRAMES, EACH = 4, 196  # of a clip, and cells of each as LLaVA-OneVision has them
SMALL_TEXT = {"vocab_size": 256, "hidden_size": 64, "intermediate_size": 64,
              "num_hidden_layers": 1, "num_attention_heads": 1,
              "num_key_value_heads": 1}  # fmt: skip
QWEN3_VISION = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16,
                "out_hidden_size": 64, "deepstack_visual_indexes": [5, 11, 17]}  # fmt: skip
# Tower -> its model's configuration, as published but for the text, and (frames, edge) at a time.
TOWERS: dict[str, tuple[Callable[[], Any], tuple[int, int]]] = {
    "CLIP-L 224 (Video-LLaVA)": (lambda: _config("VideoLlava"), (4, 224)),
    "CLIP-L 336 (LLaVA-1.5)": (lambda: _config("Llava"), (2, 336)),
    "SigLIP-so400m 384 (OneVision)": (lambda: _config("LlavaOnevision"), (1, 384)),
    "InternViT-300M 448 (InternVL3)": (lambda: _config("InternVL"), (1, 448)),
    "Qwen3-VL-2B's ViT 448": (lambda: _config("Qwen3VL", vision_config=QWEN3_VISION), (2, 448)),
}
LANGUAGES: dict[str, dict[str, Any]] = {
    "0.5B (Qwen2)": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
                     "num_attention_heads": 14, "num_key_value_heads": 2},
    "1.7B (Qwen3)": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
                     "num_attention_heads": 16, "num_key_value_heads": 8},
    "7B (Qwen2)": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
                   "num_attention_heads": 28, "num_key_value_heads": 4},
}  # fmt: skip


def _config(name: str, **other: Any) -> Any:
    kind = "llama" if name in ("Llava", "VideoLlava") else "qwen2"
    text: dict[str, Any] = {"model_type": kind, **SMALL_TEXT}
    if name == "Qwen3VL":
        text = {**SMALL_TEXT, "head_dim": 64, "num_hidden_layers": 4}  # a layer a DeepStack level
    return getattr(transformers, f"{name}Config")(text_config=text, **other)


def ways(name: str) -> dict[str, Callable[[], Any]]:
    """The encoder of a tower with VisionZip, and without."""
    config, (frames, edge) = TOWERS[name]
    model = make(Setup(), AutoModelForImageTextToText, config(), torch.float32)
    family: Family = family_of(model)
    inputs = torch.randn(frames, 3, edge, edge, generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def zipped() -> Any:
        scored = family.frames(inputs)
        counts = ZipSettings.share(KEEP).counts(scored.scores.shape[1], family.has_frame_cls)
        return visionzip.compress(
            *scored, *counts, merge=family.merge, has_cls=family.has_frame_cls
        )

    @torch.inference_mode()
    def plain() -> Any:
        return family.whole_frames(inputs)

    return {"zipped": zipped, "plain": plain}


def encoder_memory(name: str, way: str) -> int:
    """Bytes, for a process of its own."""
    return peak_bytes(ways(name)[way])


def encoder(name: str, repeats: int) -> Numbers:
    """A tower's times, and peaks of memory beside its weights."""
    memory = {way: in_child(encoder_memory, name, way) for way in ("zipped", "plain")}
    taken = time_alternating(ways(name), repeats)
    _, (frames, edge) = TOWERS[name]
    return {
        "tower": name, "frames": frames, "edge": edge, "memory_bytes": memory,
        "time_s": {way: spread(each) for way, each in taken.items()},
        "zipped_to_plain": ratio(taken["zipped"], taken["plain"]),
    }  # fmt: skip


def reading(name: str) -> dict[float, Callable[[], Any]]:
    """A language model's prefill of a clip, by the share of its tokens."""
    kind = transformers.Qwen3Config if "Qwen3" in name else transformers.Qwen2Config
    config = kind(vocab_size=1024, **LANGUAGES[name])
    model = make(Setup(shared_layers=True), AutoModelForCausalLM, config, torch.float32)
    given = torch.randn(1, FRAMES * EACH, config.hidden_size)

    @torch.inference_mode()
    def read(share: float) -> Any:
        count = round(share * FRAMES * EACH)
        return model(inputs_embeds=given[:, :count], use_cache=True, logits_to_keep=1)

    return {share: partial(read, share) for share in SHARES}


def reading_memory(name: str, share: float) -> int:
    """Bytes, for a process of its own."""
    return peak_bytes(reading(name)[share])


def language(name: str, repeats: int) -> Numbers:
    """Seconds to the first token of an answer, once the tokens are there; and peaks of memory."""
    memory = {share: in_child(reading_memory, name, share) for share in SHARES}
    taken = time_alternating({str(share): run for share, run in reading(name).items()}, repeats)
    whole = taken[str(SHARES[0])]
    return {
        "model": name,
        "cells": [
            {"share": share, "tokens": round(share * FRAMES * EACH), "peak_bytes": memory[share],
             "time_s": spread(taken[str(share)]), "whole_to_this": ratio(whole, taken[str(share)])}
            for share in SHARES
        ],
    }  # fmt: skip


def table(found: Numbers) -> str:
    """Markdown."""
    lines = ["| tower | frames | plain | with VisionZip | of the time | memory |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for row in found["towers"]:
        plain, zipped = (row["time_s"][way]["median"] for way in ("plain", "zipped"))
        lines.append(
            f"| {row['tower']} | {row['frames']} | {plain:.2f} s | {zipped:.2f} s | "
            f"{_spread(row['zipped_to_plain'])} | "
            f"{_mib(row['memory_bytes']['plain'])} -> {_mib(row['memory_bytes']['zipped'])} |"
        )
    lines += ["", "| language model | tokens | first token | sooner | memory |",
              "|---|---|---|---|---|"]  # fmt: skip
    for row in found["languages"]:
        for cell in row["cells"]:
            sooner = "" if cell["share"] == 1 else f"{_spread(cell['whole_to_this'])}"
            lines.append(
                f"| {row['model']} | {cell['tokens']} ({cell['share']:.0%}) | "
                f"{cell['time_s']['median']:.2f} s | {sooner} | {_mib(cell['peak_bytes'])} |"
            )
    return "\n".join(lines)


def _spread(found: Numbers) -> str:
    return f"{found['median']:.2f}x ({found['low']:.2f}-{found['high']:.2f})"


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="JSON; written after every shape")
    parser.add_argument("--table", type=Path, help="prints such a file instead")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.table.read_text())))
        return
    if not args.out:
        parser.error("--out or --table")
    found: Numbers = environment() | {"keep": KEEP, "towers": [], "languages": []}
    for part, measure, names in (
        ("towers", encoder, list(TOWERS)), ("languages", language, list(LANGUAGES)),
    ):  # fmt: skip
        for name in names:
            # A 7B takes minutes to read everything once.
            found[part].append(measure(name, 2 if name.startswith("7B") else args.repeats))
            args.out.write_text(json.dumps(found, indent=1) + "\n")
            print(name, flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
