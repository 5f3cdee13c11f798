"""What each part of `vzvideo bench` becomes on the page: a section, its curves and its CSV files.

A section takes the part and the folder for its pictures, to which `@figures@` in it refers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipelines.report.bars import USUAL, Results
from pipelines.report.tables import MIB, format_spread, median, ratio_range, table, write_csv
from vzvideo.bench.decode import DENSE, SPARSE

WAYS = ("vzvideo", "plain", "eager")
STAGE_COLOURS = {
    "decode": "#0b5cad", "encode": "#b3400f", "prefill": "#2c7a3f", "first token": "#7a3fa0",
}  # fmt: skip


def prefill(part: Results, figures: Path) -> str:
    cells = part["cells"]
    budgets = list(dict.fromkeys(cell["tokens_per_frame"] for cell in cells))
    counts = list(dict.fromkeys(cell["frames"] for cell in cells))
    by_place = {(cell["frames"], cell["tokens_per_frame"]): cell for cell in cells}

    def rows(name: str, unit: str) -> list[list[str]]:
        made = []
        for frames in counts:
            row = [str(frames)]
            for budget in budgets:
                cell = by_place[frames, budget]
                fits = cell["fits"]
                row.append(
                    format_spread(cell.get(name), unit)
                    if fits
                    else f"{cell['tokens']:,} do not fit"
                )
            made.append(row)
        return made

    head = ["frames", *(f"{budget} a frame" for budget in budgets)]
    head[1] += ", whole"
    write_csv(
        figures / "prefill.csv",
        ("frames", "tokens_per_frame", "tokens", "prefill_s", "first_token_s", "peak_bytes"),
        (
            (cell["frames"], cell["tokens_per_frame"], cell["tokens"],
             *(median(cell.get(name)) for name in ("prefill_s", "first_token_s", "peak_bytes")))
            for cell in cells
            if cell["fits"]
        ),
    )  # fmt: skip
    most = ", ".join(
        f"{each['frames']} at {each['tokens_per_frame']}" for each in part["largest_frames"]
    )
    ran = ", ".join(
        f"{each['frames']} at {each['tokens_per_frame']} ({each['tokens']:,} tokens in "
        f"{format_spread(each.get('prefill_s'), 's')})"
        for each in part["largest_ran"]
    )
    faster = ""
    if "prefill_whole_to_zipped" in part:
        whole, zipped = (by_place[counts[0], budget]["tokens"] for budget in (budgets[0], USUAL))
        faster = (
            f"Reading {zipped} tokens instead of {whole:,} ({counts[0]} frames) is "
            f"**{format_spread(part['prefill_whole_to_zipped'], 'x')}** faster, the first token, "
            f"encoder included, **{format_spread(part.get('first_token_whole_to_zipped'), 'x')}**. "
        )
    _plot(figures / "prefill.png", lambda axes: _prefill_curves(axes, cells), (6.4, 3.2))
    return f"""
### Prefill

{faster}Frames that fit the window of {part["window"]:,} tokens beside a
question and its answer: {most}. Filled for a trial: {ran or "not this time"}.

![Prefill by tokens](@figures@/prefill.png)

{table(head, rows("prefill_s", "s"))}

The first token, from frames in memory on, encoder included:

{table(head, rows("first_token_s", "s"))}

Memory at its height beside the weights ({part["weight_bytes"] / MIB:,.0f} MiB):

{table(head, rows("peak_bytes", "MiB"))}
"""


def _prefill_curves(axes: Any, cells: Sequence[Results]) -> None:
    read = [(c["tokens"], median(c.get("prefill_s")), c["tokens_per_frame"]) for c in cells]
    for budget in dict.fromkeys(each for _, _, each in read):
        points = [(tokens, time) for tokens, time, each in read if each == budget and time]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", label=f"{budget} a frame")
    axes.set_xlabel("visual tokens")
    axes.set_ylabel("prefill, s")
    axes.legend(frameon=False)


def encoder(part: Results, figures: Path) -> str:
    good = [cell for cell in part["cells"] if "error" not in cell]
    names = list(dict.fromkeys(name for cell in good for name in cell["ways"]))
    ratios = [key for key in ("vzvideo_to_plain", "vzvideo_to_limit", "compiled_to_plain")
              if any(key in cell for cell in good)]  # fmt: skip
    rows = []
    for cell in part["cells"]:
        ways = cell.get("ways", {})
        row = [str(cell["frames"])]
        row += [format_spread(ways.get(name, cell).get("frames_per_s", ways.get(name, cell)), "/s")
                for name in names]  # fmt: skip
        row += [format_spread(cell.get(key), "x") for key in ratios]
        row += [format_spread(ways.get(name, {}).get("peak_bytes"), "MiB") for name in WAYS]
        rows.append(row)
    head = ["frames at once", *names, *(key.replace("_", " ") for key in ratios)]
    head += [f"peak: {name}" for name in WAYS]
    squares, profile = part["squares"], part.get("profile", {})
    counted = ", ".join(f"{name} {squares[name]['count']}" for name in WAYS if name in squares)
    spent = ", ".join(
        f"{each['operator'].removeprefix('aten::')} {100 * each['share']:.0f} %"
        for each in profile.get("operators", [])
        if each["share"] >= 0.01
    )
    found = [value for cell in good if (value := median(cell.get("vzvideo_to_limit"))) is not None]
    apart = f" We are at {ratio_range(found)} of it." if found else ""
    where = f" Where the time goes at {profile['frames']} frames: {spent}." if spent else ""
    return f"""
### Encoder

Frames a second through tower and VisionZip (vzvideo), through the whole tower in fused attention as
transformers runs it (plain), and with every layer's attention weights, as the method's authors ask
for them (eager). Ours stops at the feature layer, so it may be faster than plain. The limit is the
time of the same matrix multiplications alone.{apart}{where}

{table(head, rows)}

Attention matrices of {part["tokens"]} x {part["tokens"]} that came into being at
{squares["frames"]} frames: {counted}.
"""


def decode(part: Results, figures: Path) -> str:
    read = [cell for cell in part["cells"] if "readers" in cell]
    names = list(dict.fromkeys(name for cell in read for name in cell["readers"]))
    missing = {
        name: read[0]["readers"][name]["error"]
        for name in names
        if all("error" in cell["readers"][name] for cell in read)
    }
    names = [name for name in names if name not in missing]
    rows = []
    for cell in part["cells"]:
        clip = f"{cell['codec']} {cell['height']}p, {cell['seconds']} s, gop {cell['gop']}"
        if "readers" not in cell:
            rows.append([clip, cell["sampling"], f"not made: {cell['error']}", *[""] * len(names)])
            continue
        row = [clip, cell["sampling"]]
        for name in names:
            reader = cell["readers"][name]
            wrong = f", {reader['wrong']} wrong" if reader.get("wrong") else ""
            row.append(
                format_spread(reader if "error" in reader else reader["time_s"], "s") + wrong
            )
        rows.append([*row, format_spread(cell.get("vzvideo_to_best"), "x"), cell.get("best", "")])
    write_csv(
        figures / "decode.csv",
        ("codec", "height", "seconds", "gop", "sampling", "reader",
         "time_s", "cpu_s", "peak_bytes", "wrong"),
        (
            (cell["codec"], cell["height"], cell["seconds"], cell["gop"], cell["sampling"], name,
             *(median(reader.get(key)) for key in ("time_s", "cpu_s", "peak_bytes")),
             reader.get("wrong", reader.get("error")))
            for cell in read
            for name, reader in cell["readers"].items()
        ),
    )  # fmt: skip
    absent = "".join(f" {name} did not run: {why}." for name, why in missing.items())
    return f"""
### Decode

Sparse: {SPARSE} frames all over the clip. Dense: {DENSE} in a row, in its middle. Every reading in
a fresh process; gop: frames from one keyframe to the next. Each picture carries its number, so that
a wrong one is seen. Larger frames are brought down to 448 pixels, by us and by PyAV bicubic, by
torchcodec bilinear. The last columns: our time to that of the fastest other that had no frame
wrong. CPU time and memory are in [decode.csv](@figures@/decode.csv).{absent}

{table(["clip", "frames", *names, "to the best's", "best"], rows)}
"""


def ask(part: Results, figures: Path) -> str:
    names = {
        "first_s": "first question, whole answer",
        "second_s": "second question",
        "first_token_cold_s": "first token, nothing known",
        "first_token_cached_s": "first token, tokens in the cache",
        "decode_alone_s": "decode alone",
        "encode_alone_s": "encode alone",
        "prefill_alone_s": "prefill alone",
        "generate_alone_s": "generate alone",
    }
    rows = [
        [words, *(format_spread(cell.get(name), "s") for cell in part["cells"])]
        for name, words in names.items()
    ]
    for name, words in (
        ("overlap_to_slowest", "decode and encode together, to the slower one"),
        ("first_to_floor", "first question to its floor"),
    ):
        rows.append([words, *(format_spread(cell.get(name), "x") for cell in part["cells"])])
    errors = "".join(
        f"\n\n{cell['frames']} frames failed: {cell['error']}."
        for cell in part["cells"]
        if "error" in cell
    )
    picture = ""
    if part.get("spans"):
        _plot(figures / "overlap.png", lambda axes: _gantt(axes, part["spans"]), (9, 2.4))
        picture = "![When each stage worked](@figures@/overlap.png)"
    head = ["", *(f"{cell['frames']} frames" for cell in part["cells"])]
    return f"""
### A question, end to end

{part["clip"]}, greedy, {part["new_tokens"]} new tokens. The floor of a first question is what these
stages could not beat: the slower of decode and encode, then reading, then generating.

{table(head, rows)}{errors}

{picture}
"""


def _gantt(axes: Any, spans: Sequence[Results]) -> None:
    stages = list(dict.fromkeys(span["stage"] for span in spans))
    for span in spans:
        axes.barh(
            stages.index(span["stage"]), span["ended_s"] - span["begun_s"], left=span["begun_s"],
            color=STAGE_COLOURS.get(span["stage"]), edgecolor="white", linewidth=0.5,
        )  # fmt: skip
    axes.set_yticks(range(len(stages)), stages)
    axes.invert_yaxis()
    axes.set_xlabel("seconds after the question (32 frames, nothing known)")


def questions(part: Results, figures: Path) -> str:
    rows = [
        [str(cell["questions"]), *(format_spread(cell[name], "s") for name in
         ("time_s", "before_generation_s", "generation_s"))]
        for cell in part["cells"]
    ]  # fmt: skip
    head = ["questions", "in all", "before generation", "generation"]
    return f"""
### Many questions of one video

Ten in one call take **{format_spread(part["ten_to_one"], "x")}** of what one takes,
{format_spread(part["ten_to_one_before_generation"], "x")} before generation: decode, encode and
prefill are paid once.

{table(head, rows)}
"""


def growth(part: Results, figures: Path) -> str:
    curves = {
        "length": ("seconds", "first_token_cold_s", "seconds of video", "first token, s"),
        "questions": ("questions", "time_s", "questions in one call", "time, s"),
        "rows": ("rows", "time_s", "rows of a corpus", "time, s"),
    }
    made = []
    for name, (x, y, across, up) in curves.items():
        cells = part.get(name, [])
        if isinstance(cells, dict):
            made.append(f"{name}: {cells['error']}")
            continue
        good = [cell for cell in cells if "error" not in cell]
        made += [f"{name}, {cell[x]}: {cell['error']}." for cell in cells if "error" in cell]
        if not good:
            continue
        keys = [key for key in good[0] if isinstance(good[0][key], dict)]
        write_csv(
            figures / f"growth-{name}.csv",
            (x, *keys),
            ([cell[x], *(median(cell.get(key)) for key in keys)] for cell in good),
        )
        xs, ys = [cell[x] for cell in good], [median(cell[y]) for cell in good]

        def draw(axes: Any, xs: Any = xs, ys: Any = ys, names: Any = (across, up)) -> None:
            axes.plot(xs, ys, "o-", color="#0b5cad")
            axes.set_xscale("log")
            axes.set_yscale("log" if max(ys) > 20 * min(ys) else "linear")
            if axes.get_yscale() == "linear":
                axes.set_ylim(bottom=0)
            axes.set_xlabel(names[0])
            axes.set_ylabel(names[1])

        _plot(figures / f"growth-{name}.png", draw, (4.4, 3.0))
        made.append(f"![{up} by {across}](@figures@/growth-{name}.png)")
    length = [cell for cell in part.get("length", []) if "error" not in cell]
    words = ""
    if length:
        first, last = length[0], length[-1]
        soon, late = (format_spread(cell["first_token_cold_s"], "s") for cell in (first, last))
        words = (
            f"The first token of 32 frames comes after {soon} of a {first['seconds']}-second video "
            f"and {late} of one of {last['seconds'] / 3600:.2g} hours; memory of the process: "
            f"{format_spread(first['resident_peak_bytes'], 'MiB')} and "
            f"{format_spread(last['resident_peak_bytes'], 'MiB')}. "
        )
    return f"""
### Growth

{words}A corpus is measured with a tiny clip and a tiny model of random weights: what is left is
what Ray and the bookkeeping cost. The figures are in CSV files beside the pictures.

{" ".join(made)}
"""


def sizes(part: Results, figures: Path) -> str:
    ratios = list(dict.fromkeys(key for cell in part["cells"] for key in cell if "_to_" in key))
    rows = [
        [
            str(cell["model"]), str(cell["tokens"]),
            format_spread(cell.get("prefill_s", cell), "ms"),
            *(format_spread(cell.get(key), "x") for key in ratios),
            format_spread(cell.get("peak_bytes"), "MiB"),
        ]
        for cell in part["cells"]
    ]  # fmt: skip
    named = [key.replace("_", " ") for key in ratios]
    head = ["language model", "visual tokens", "prefill", *named, "memory at its height"]
    return f"""
### 13B with VisionZip beside 7B without

LLaVA-NeXT's shapes with random weights, which take the time of trained ones.

{table(head, rows)}
"""


def _plot(path: Path, draw: Callable[[Any], None], size: tuple[float, float]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


SECTIONS: dict[str, Callable[[Results, Path], str]] = {
    "prefill": prefill,
    "encoder": encoder,
    "sizes": sizes,
    "decode": decode,
    "ask": ask,
    "questions": questions,
    "growth": growth,
}
