"""An `Inspection` as one HTML page that needs nothing beside it: no network, no other file."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from html import escape
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vzvideo.qa.evidence import Evidence, needs_tenths
from vzvideo.show import charts, redundancy
from vzvideo.show.look import Inspection
from vzvideo.types import Answer
from vzvideo.video.base import short_name
from vzvideo.words import describe_cropped

_PICTURES_BYTES = 3_300_000  # base64 adds a third; with the numbers it stays under 5 MB
_QUALITIES = ((448, 82), (336, 78), (256, 72), (192, 62), (128, 50), (96, 40))  # edge, JPEG's

_LASTING = (
    ". Green ones last: each stands for a place in several frames; the bars under the timeline "
    "are the stretches"
)


def page(look: Inspection, answer: Answer | None = None, evidence: Evidence | None = None) -> str:
    """The page as text; with an answer, which frames it drew on."""
    template = resources.files("vzvideo.show").joinpath("page.html").read_text(encoding="utf-8")
    facts = (
        f"{_frames(look)}; {look.frames * look.tokens:,} tokens → @after@ (@split@ a frame); "
        f"model {look.model}"
    )
    if look.across:
        facts += f"; across frames {100 * look.across.static:.0f} % of the places static"
    if cropped := describe_cropped(look.cropped):
        facts += f"; {cropped}"
    parts = {
        "title": escape(short_name(look.source)),
        "facts": "",
        "asked": _asked(look, answer, evidence) if answer else "",
        "timeline": escape(_timeline_says(look, evidence), quote=True),
        "density": _timeline(look, evidence),
        "times": _times(look),
        "bars": "Lower bars, blue: tokens a second."
        + (" Upper bars, orange: how much the answer drew on." if evidence is not None else ""),
        "strips": "" if evidence is None else "; the yellow in it is what the answer drew on",
        "lasting": _LASTING if look.across else "",
        "charts": "".join(_charts(look)),
        "data": _data(look, facts, evidence),
    }
    # In one pass: what has been put in is not looked through again, whatever a file is called.
    return re.sub("|".join(f"@{name}@" for name in parts), lambda m: parts[m[0][1:-1]], template)


def _asked(look: Inspection, answer: Answer, evidence: Evidence | None) -> str:
    drawn = ""
    if evidence is not None:
        drawn = f"{escape(_told(evidence))}, at {look.asked.tokens} tokens a frame"
        drawn = f'<p class="soft">{drawn}</p>'
    return (
        f'<div class="asked"><p class="soft">{escape(answer.question)}</p>'
        f'<p class="answer">{escape(answer.text)}</p>{drawn}</div>'
    )


def _data(look: Inspection, facts: str, evidence: Evidence | None) -> str:
    highest = look.attention.max(1, keepdims=True)
    attention = np.rint(255 * look.attention / np.maximum(highest, 1e-12)).astype(int)
    frames = [
        {"time": look.when(time_s), "jpeg": jpeg, "attention": each.tolist()}
        for time_s, jpeg, each in zip(look.pts_s, _jpegs(look.pictures), attention, strict=True)
    ]
    cuts: dict[Any, Any] = {
        tokens: {
            "dominant": cut.dominant,
            "patch": cut.patch.tolist(),
            "assignment": cut.assignment.tolist(),
        }
        for tokens, cut in look.cuts.items()
    }
    if across := look.across:
        cuts["across"] = {
            "dominant": across.dominant,
            "patch": [each.tolist() for each in across.patch],
            "assignment": across.assignment.tolist(),
            "token": [each.tolist() for each in across.token],
            "frame": across.frame.tolist(),
            "until": across.until.tolist(),
        }
    about = {
        "grid": look.grid,
        "tokens": look.tokens,
        "facts": facts,
        "chosen": "across" if look.across else look.chosen,
        "frames": frames,
        "cuts": cuts,
        "drawn": None if evidence is None else _by_token(look, evidence),
        "evidence": None if evidence is None else [round(float(s), 5) for s in evidence.frames],
    }
    text = json.dumps(about, separators=(",", ":"), ensure_ascii=False)
    # Nothing that could end the element it stands in, or begin another.
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _by_token(look: Inspection, evidence: Evidence) -> list[list[float]]:
    """Shares (T, M) of the tokens of the budget that was asked with."""
    if look.across:
        shares = [evidence.tokens[own] for own in look.across.token]
    else:
        shares = list(evidence.tokens.reshape(look.frames, look.chosen))
    return [[round(float(share), 5) for share in frame] for frame in shares]


def _jpegs(pictures: NDArray[np.uint8]) -> list[str]:
    """Base64 of each, as large and as good as all of them together have room for."""
    made: list[bytes] = []
    for edge, quality in _QUALITIES:
        made = [_jpeg(picture, edge, quality) for picture in pictures]
        if sum(map(len, made)) <= _PICTURES_BYTES:
            break
    return [base64.b64encode(data).decode() for data in made]


def _jpeg(picture: NDArray[np.uint8], edge: int, quality: int) -> bytes:
    image = Image.fromarray(picture).resize((edge, edge), Image.Resampling.LANCZOS)
    held = io.BytesIO()
    image.save(held, "JPEG", quality=quality)
    return held.getvalue()


# -- the timeline


def _timeline(look: Inspection, evidence: Evidence | None) -> str:
    """Tokens a second along the video as bars from frame to frame, and what an answer drew on.

    Every frame has as many tokens: how dense they are follows from the time it stands for.
    """
    borders = _borders(look.pts_s)
    spans_s = np.diff(borders)
    drawn = []
    for frame, span_s in enumerate(spans_s):
        left, right = (_along(borders[at], look) for at in (frame, frame + 1))
        place = f'x="{left + 0.5:.2f}" width="{max(right - left - 1, 0.5):.2f}"'
        high = 24 * spans_s.min() / span_s
        drawn.append(
            f'<rect class="density" {place} y="{52 - high:.2f}" height="{high:.2f}" '
            f'data-span="{span_s:.6g}"><title></title></rect>'
        )
        if evidence is not None:
            share = float(evidence.frames[frame])
            tall = 24 * share / max(float(evidence.frames.max()), 1e-12)
            drawn.append(
                f'<rect class="evidence" {place} y="{26 - tall:.2f}" height="{tall:.2f}">'
                f"<title>{100 * share:.0f} % of what the answer drew on</title></rect>"
            )
        at = _along(look.pts_s[frame], look)
        drawn.append(f'<line x1="{at:.2f}" x2="{at:.2f}" y1="52" y2="57"/>')
    return "".join(drawn)


def _times(look: Inspection) -> str:
    """Round times under the timeline, no closer than they can be told apart."""
    first, last = _ends(look)
    ticks = charts.Axis("", first, last).ticks(6, least=0.1 if needs_tenths(look.pts_s) else 1.0)
    words = [(tick, look.when(tick)) for tick in ticks]
    if look.frames == 1:
        words = [(look.pts_s[0], look.when(look.pts_s[0]))]
    return "".join(
        f'<span style="left:{_along(tick, look) / 10:.2f}%">{escape(word)}</span>'
        for tick, word in words
    )


def _along(time_s: float, look: Inspection) -> float:
    """Where a time stands on the timeline, 0..1000."""
    first, last = _ends(look)
    return float(np.clip(1000 * (time_s - first) / (last - first), 0, 1000))


def _ends(look: Inspection) -> tuple[float, float]:
    borders = _borders(look.pts_s)
    return max(0.0, float(borders[0])), float(borders[-1])


def _borders(pts_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """(T,) -> (T + 1,): a frame stands for the time half way to its neighbours; the first and the
    last for as much on both sides, though a video has nothing before 0."""
    if len(pts_s) == 1:
        return np.array([pts_s[0] - 0.5, pts_s[0] + 0.5])
    between = (pts_s[1:] + pts_s[:-1]) / 2
    return np.concatenate([[2 * pts_s[0] - between[0]], between, [2 * pts_s[-1] - between[-1]]])


def _timeline_says(look: Inspection, evidence: Evidence | None) -> str:
    words = f"Timeline of {_frames(look)}"
    return words if evidence is None else f"{words}; answer: {_told(evidence).lower()}"


def _told(evidence: Evidence) -> str:
    return f"Drawn from {evidence}" if evidence.spans_s else str(evidence).capitalize()


def _frames(look: Inspection) -> str:
    first, last = look.when(look.pts_s[0]), look.when(look.pts_s[-1])
    return f"1 frame at {first}" if look.frames == 1 else f"{look.frames} frames, {first} to {last}"


# -- the charts


def _charts(look: Inspection) -> list[str]:
    made = [_concentration(look), _merged(look)]
    return [*made, _neighbours(look)] if look.frames > 2 else made


def _figure(chart: Callable[[str], str], says: str) -> str:
    return f"<figure>{chart(says)}<figcaption>{escape(says)}</figcaption></figure>"


def _concentration(look: Inspection) -> str:
    half, tenth = (
        redundancy.patches_holding_half(look.by_layer),
        redundancy.attention_of_top_tenth(look.by_layer),
    )
    layers = np.arange(1, len(half) + 1)
    says = (
        f"Attention by layer: at layer {len(half)}, where patches are chosen, half of it lies on "
        f"{100 * half[-1]:.0f} % of them, and a tenth of them hold {100 * tenth[-1]:.0f} %; "
        f"at the first layer {100 * half[0]:.0f} % and {100 * tenth[0]:.0f} %."
    )
    series = [("half of it: share of patches", layers, half),
              ("on a tenth of the patches", layers, tenth)]  # fmt: skip
    x, y = charts.Axis("layer", 1, max(2, len(half))), charts.Axis("share", 0, 1)
    return _figure(lambda title: charts.lines(title, x, y, series), says)


def _merged(look: Inspection) -> str:
    cut = look.cuts[look.chosen]
    series = [
        (name, values)
        for name, values in (
            ("nearest kept patch", cut.to_kept),
            ("token it went into", cut.to_merged),
        )
        if len(values)
    ]
    if not series:
        return ""
    near = " and ".join(f"{np.median(values):.2f} with the {name}" for name, values in series)
    says = (
        f"What is not kept, at {look.chosen} tokens a frame: a patch's features have a cosine of "
        f"{near} (medians). Two patches drawn at random have {look.chance:.2f}."
    )
    low = min(0.0, *(float(values.min()) for _, values in series))
    x = charts.Axis("cosine", low, 1.0)
    return _figure(lambda title: charts.histogram(title, x, series), says)


def _neighbours(look: Inspection) -> str:
    says = (
        f"From one frame to the next, patches at the same place have a cosine of "
        f"{np.median(look.neighbours):.2f} (median; {look.neighbours.min():.2f} to "
        f"{look.neighbours.max():.2f}); at random {look.chance:.2f}. What is far above that, a "
        "method that merges over time could still save."
    )
    x = charts.Axis("seconds", float(look.pts_s[1]), float(look.pts_s[-1]))
    y = charts.Axis("cosine", min(0.0, float(look.neighbours.min())), 1.0)
    series = [("", look.pts_s[1:].tolist(), look.neighbours.tolist())]
    return _figure(lambda title: charts.lines(title, x, y, series), says)
