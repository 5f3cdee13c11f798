"""Looks and evidence made by hand, for what is drawn of them and needs no model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vzvideo.qa.evidence import Evidence, evidence
from vzvideo.show.look import BUDGETS, BudgetView, Inspection
from vzvideo.types import Answer
from vzvideo.visionzip import compress, split_tokens

HOSTILE = {
    "script": "</script><script>window.hacked = 1</script>.mp4",
    "end of a script": "</script x> <!--<script y> </script\t><b>.mp4",
    "image": '"><img src=x onerror="window.hacked = 1">.mp4',
    "attribute": "' autofocus onfocus='window.hacked = 1' \" onmouseover=window.hacked=1 .mp4",
    "template": "@data@ @title@ @asked@ ${window.hacked=1} {{7*7}} $& \\1 \\g<0>.mp4",
    "comment": "<!-- --!> ]]> </title></style></noscript><svg onload=window.hacked=1>.mp4",
    "entity": "&lt;b&gt; &amp; &#x3c;script&#x3e;.mp4",
    "right to left": "\u202egnp.exe \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd.mp4",
    "unicode": "\U0001f3ac \u00e9\u4e2d\u6587 \u2028 \u2029 \ufeff.mp4",
    "lines": "one\ntwo\r\nthree\tfour.mp4",
    "long": "a" * 400 + ".mp4",
}


def look(
    frames: int = 4,
    *,
    edge: int = 4,
    budgets: Sequence[int] = BUDGETS,
    chosen: int = 9,
    contextual: int | None = None,
    source: str = "clip.mp4",
    model: str = "small",
    every_s: float = 0.4,
    pixels: int = 64,
    seed: int = 0,
) -> Inspection:
    """Noise, compressed by the method itself; `contextual` of the chosen budget may be given."""
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    patches = edge * edge
    scores = torch.rand(frames, patches + 1) ** 4
    hidden, keys = torch.randn(frames, patches + 1, 8), torch.randn(frames, patches + 1, 8)
    cuts = {}
    for tokens in sorted({*budgets, chosen}):
        if tokens > patches + 1:
            continue
        dominant, merged = split_tokens(tokens)
        if tokens == chosen and contextual is not None:
            dominant, merged = tokens - contextual, contextual
        zipped = compress(hidden, scores, keys, dominant, merged)
        left = frames * int((zipped.assignment[0] >= dominant).sum())
        cuts[tokens] = BudgetView(
            dominant,
            zipped.patch.numpy() - 1,
            zipped.assignment[:, 1:].numpy(),
            random.uniform(0, 1, frames * (patches + 1 - dominant)).astype(np.float32),
            random.uniform(0.3, 1, left).astype(np.float32),
        )
    attention = scores[:, 1:].numpy()
    layers = -np.sort(-(random.uniform(0, 1, (3, patches)) ** [[1], [3], [9]]))
    return Inspection(
        source=source,
        model=model,
        pictures=random.integers(0, 256, (frames, pixels, pixels, 3), np.uint8),
        pts_s=0.2 + every_s * np.arange(frames),
        grid=(edge, edge),
        tokens=patches + 1,
        attention=attention / attention.sum(1, keepdims=True),
        by_layer=(layers / layers.sum(1, keepdims=True)).astype(np.float32),
        neighbours=random.uniform(0.4, 0.9, frames - 1).astype(np.float32),
        chance=0.3,
        cuts=cuts,
        chosen=chosen,
    )


def drawn(seen: Inspection, seed: int = 0) -> Evidence:
    """An answer drawn from the second frame (or the only one) most of all."""
    frame = np.repeat(np.arange(seen.frames), seen.chosen)
    attended = np.random.default_rng(seed).uniform(0.5, 1, len(frame))
    nats = np.zeros(seen.frames)
    nats[min(1, seen.frames - 1)] = 1.4
    covers = frame == np.arange(seen.frames)[:, None]
    return evidence(nats.tolist(), 1, attended, covers, seen.pts_s)


def answer(question: str = "What is the man doing?", text: str = "A man rides a bike.") -> Answer:
    return Answer(text, question, "clip.mp4", "small", [0.2], 68, 20, {})
