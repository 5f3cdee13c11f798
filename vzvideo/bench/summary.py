"""The results in one small table: what a stage takes here, and what else does the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vzvideo.bench.measure import Numbers
from vzvideo.words import pluralize

Line = tuple[str, str, str, str]  # what, ours, the other's, how they compare


def summary(results: Numbers) -> list[Line]:
    """A line for each thing that `results` hold, in the order of the stages."""
    lines: list[Line] = []
    for part, rows in (
        ("decode", _decode), ("encoder", _encoder), ("prefill", _prefill), ("ask", _ask),
        ("questions", _questions), ("growth", _growth),
    ):  # fmt: skip
        found = results.get(part)
        if found is None:
            continue
        if "error" in found:
            lines.append((part, "failed", "", str(found["error"])))
        else:
            lines += rows(found)
    return lines


def _decode(part: Numbers) -> Iterator[Line]:
    for cell in part["cells"]:
        if "vzvideo_to_best" in cell:
            best = cell["best"]
            ours, other = (cell["readers"][name]["time_s"] for name in ("vzvideo", best))
            how = {"sparse": "32 frames all over", "dense": "64 frames in a row of"}
            clip = f"{cell['seconds']} s of {cell['height']}p {cell['codec']}, GOP {cell['gop']}"
            what = f"{how[cell['sampling']]} {clip}"
            yield what, _s(ours), f"{_s(other)} {best}", _times(cell["vzvideo_to_best"])


def _encoder(part: Numbers) -> Iterator[Line]:
    for cell in part["cells"]:
        if "vzvideo_to_plain" in cell:
            what = f"encode {_frames(cell)}, VisionZip included"
            plain = f"{_s(cell['ways']['plain']['time_s'])} plain tower"
            ours = _s(cell["ways"]["vzvideo"]["time_s"])
            yield what, ours, plain, _times(cell["vzvideo_to_plain"])


def _prefill(part: Numbers) -> Iterator[Line]:
    if "prefill_whole_to_zipped" not in part:
        return
    for name, what in (("prefill", "read"), ("first_token", "first word of")):
        cells = [cell for cell in part["cells"] if cell.get("fits") and f"{name}_s" in cell]
        whole = next(cell for cell in cells if cell["whole"])
        few = {"frames": whole["frames"], "tokens_per_frame": 17}
        zipped = next(cell for cell in cells if few.items() <= cell.items())
        ratio = part[f"{name}_whole_to_zipped"]["median"]
        yield (
            f"{what} {_frames(zipped)} at {zipped['tokens_per_frame']} tokens each",
            _s(zipped[f"{name}_s"]),
            f"{_s(whole[f'{name}_s'])} at {whole['tokens_per_frame']}",
            f"{ratio:.1f}x sooner",
        )


def _ask(part: Numbers) -> Iterator[Line]:
    for cell in part["cells"]:
        if "first_s" in cell:
            again = f"{_s(cell['second_s'])} asked again"
            yield f"ask {_frames(cell)} of {part['clip']}", _s(cell["first_s"]), again, ""


def _questions(part: Numbers) -> Iterator[Line]:
    if "ten_to_one" in part:
        yield "ten questions in one call", f"{part['ten_to_one']['median']:.1f}x one", "10x", ""


def _growth(part: Numbers) -> Iterator[Line]:
    length = [cell for cell in part.get("length", []) if "first_token_cold_s" in cell]
    if len(length) > 1:
        first, last = length[0], length[-1]
        what = f"first word, {last['seconds']} s of video"
        other = f"{_s(first['first_token_cold_s'])} of {first['seconds']} s"
        yield what, _s(last["first_token_cold_s"]), other, ""


def _frames(cell: Numbers) -> str:
    return pluralize(cell["frames"], "frame")


def _s(spread: Any) -> str:
    return f"{spread['median']:.2g} s"


def _times(spread: Any) -> str:
    return f"{spread['median']:.2f}x of the time"
