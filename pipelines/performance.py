"""docs/performance.md, made of what `vzvideo bench` has measured.

    vzvideo bench -o docs/benchmark-cpu.json
    python -m pipelines.performance docs/benchmark-cpu.json --out docs/performance.md

Another JSON file (of a GPU) may follow the first. Every figure on the page is taken from these
files; curves are drawn beside it, as PNG and CSV. Wants `pip install 'vzvideo[bench]'`.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Results = dict[str, Any]
MIB = 2**20
STAGE_COLOURS = {
    "decode": "#0b5cad", "encode": "#b3400f", "prefill": "#2c7a3f", "first token": "#7a3fa0",
}  # fmt: skip
PAPER = (  # arXiv 2412.04467
    ("prefill, LLaVA-NeXT-7B, 2880 tokens to 160", "218 ms", "27.8 ms", "7.8x"),
    ("tokens a frame, Video-LLaVA, 8 frames", "257", "17", "15.1x"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("results", type=Path, nargs="+", help="JSON files of `vzvideo bench`")
    parser.add_argument("--out", type=Path, required=True, help="page to write")
    args = parser.parse_args()
    figures = args.out.with_suffix("")
    figures.mkdir(parents=True, exist_ok=True)
    files = [(path, json.loads(path.read_text())) for path in args.results]
    sections = [_HEAD, bars(files)]
    for path, results in files:
        sections += [_about(path, results)]
        for part, section in SECTIONS.items():
            if part in results and "error" not in results[part]:
                sections.append(section(results[part], figures))
    sections += [beside_the_paper(files), _TRIED]
    args.out.write_text("\n\n".join(section.strip() for section in sections if section) + "\n")


# -- numbers into words


def middle(value: Any) -> float | None:
    """The median of a spread; None where there is none."""
    return float(value["median"]) if isinstance(value, dict) and "median" in value else None


def told(value: Any, unit: str) -> str:
    """A spread as a cell of a table: its median, and from where to where where that matters."""
    if isinstance(value, dict) and "error" in value:
        return "failed"
    found = middle(value)
    if found is None:
        return ""
    scale = {"ms": 1e3, "s": 1.0, "MiB": 1 / MIB, "x": 1.0, "/s": 1.0}[unit]
    words = f"{_short(found * scale)}{'x' if unit == 'x' else f' {unit}'}"
    low, high = value["low"], value["high"]
    if len(value["each"]) > 1 and high - low > 0.1 * abs(found):
        words += f" ({_short(low * scale)}-{_short(high * scale)})"
    return words


def _short(value: float) -> str:
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)


def _plot(path: Path, draw: Callable[[Any], None], size: tuple[float, float]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


# -- the sections


def _about(path: Path, results: Results) -> str:
    hardware, versions = results["hardware"], results["versions"]
    place = hardware["gpu"] or f"{hardware['usable_cores']} cores of {hardware['cpu']}"
    parts = [part for part in results.values() if isinstance(part, dict) and "command" in part]
    commits = sorted({str(part["commit"])[:7] for part in parts})
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    model = ", ".join(sorted({str(part["model"]) for part in parts}))
    return (
        f"# On {place}\n\n{path.name}: {model}; {named}; commit {', '.join(commits)}. "
        "Medians; in brackets from the lowest to the highest where they are a tenth apart."
    )


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
                row.append(told(cell.get(name), unit) if fits else f"{cell['tokens']:,} do not fit")
            made.append(row)
        return made

    head = ["frames", *(f"{budget} a frame" for budget in budgets)]
    head[1] += ", whole"
    write_csv(
        figures / "prefill.csv",
        ("frames", "tokens_per_frame", "tokens", "prefill_s", "first_token_s", "peak_bytes"),
        (
            (cell["frames"], cell["tokens_per_frame"], cell["tokens"],
             *(middle(cell.get(name)) for name in ("prefill_s", "first_token_s", "peak_bytes")))
            for cell in cells
            if cell["fits"]
        ),
    )  # fmt: skip
    most = ", ".join(
        f"{each['frames']} at {each['tokens_per_frame']}" for each in part["largest_frames"]
    )
    ran = ", ".join(
        f"{each['frames']} at {each['tokens_per_frame']} ({each['tokens']:,} tokens in "
        f"{told(each.get('prefill_s'), 's')})"
        for each in part["largest_ran"]
    )
    eight = by_place[counts[0], budgets[0]]["tokens"], by_place[counts[0], 17]["tokens"]
    return f"""
## Prefill

Reading {eight[1]} tokens instead of {eight[0]:,} ({counts[0]} frames) is
**{told(part["prefill_whole_to_zipped"], "x")}** faster, the first token, encoder included,
**{told(part["first_token_whole_to_zipped"], "x")}**. Frames that fit the window of
{part["window"]:,} tokens beside a question and its answer: {most}. Filled for a trial: {ran}.

{table(head, rows("prefill_s", "s"))}

The first token, from frames in memory on, encoder included:

{table(head, rows("first_token_s", "s"))}

Memory at its height beside the weights ({part["weight_bytes"] / MIB:,.0f} MiB):

{table(head, rows("peak_bytes", "MiB"))}
"""


def encoder(part: Results, figures: Path) -> str:
    rows = []
    for cell in part["cells"]:
        ways, names = cell["ways"], ("vzvideo", "plain", "eager")
        rows.append(
            [
                str(cell["frames"]),
                *(told(ways[name].get("frames_per_s"), "/s") for name in names),
                told(cell.get("vzvideo_to_plain"), "x"),
                told(cell.get("vzvideo_to_limit"), "x"),
                *(told(ways[name].get("peak_bytes"), "MiB") for name in names),
            ]
        )  # fmt: skip
    head = ["frames at once", "vzvideo", "plain", "eager", "time to plain's", "to the limit's",
            "peak: vzvideo", "plain", "eager"]  # fmt: skip
    squares = part["squares"]
    slowest = max(middle(cell["vzvideo_to_limit"]) or 0 for cell in part["cells"])
    return f"""
## Encoder

Frames a second through tower and VisionZip (vzvideo), through the whole tower in fused attention as
transformers runs it (plain), and with every layer's attention weights, as the method's authors ask
for them (eager). Ours stops at the feature layer, so it may be faster than plain. The limit is the
time of the same matrix multiplications alone.

{table(head, rows)}

Attention matrices of {part["tokens"]} x {part["tokens"]} that came into being at
{squares["frames"]} frames: vzvideo {squares["vzvideo"]["count"]}, plain
{squares["plain"]["count"]}, eager {squares["eager"]["count"]}. What keeps us from the limit, at
most {slowest:.2f}x of it here: softmax, GELU, norms and additions pass over memory that the
multiplications alone would not touch.
"""


def decode(part: Results, figures: Path) -> str:
    names = list(dict.fromkeys(name for cell in part["cells"] for name in cell.get("readers", {})))
    rows = []
    for cell in part["cells"]:
        clip = (
            f"{cell['codec']} {cell['height']}p, {cell['seconds']} s, keyframe each {cell['gop']}"
        )
        row = [clip, cell["sampling"]]
        for name in names:
            reader = cell.get("readers", {}).get(name, {"error": ""})
            wrong = f", {reader['wrong']} wrong" if reader.get("wrong") else ""
            row.append(told(reader.get("time_s", {"error": ""}), "s") + wrong)
        rows.append([*row, told(cell.get("vzvideo_to_best"), "x"), cell.get("best", "")])
    write_csv(
        figures / "decode.csv",
        ("codec", "height", "seconds", "gop", "sampling", "reader",
         "time_s", "cpu_s", "peak_bytes", "wrong"),
        (
            (cell["codec"], cell["height"], cell["seconds"], cell["gop"], cell["sampling"], name,
             *(middle(reader.get(key)) for key in ("time_s", "cpu_s", "peak_bytes")),
             reader.get("wrong", reader.get("error")))
            for cell in part["cells"]
            for name, reader in cell.get("readers", {}).items()
        ),
    )  # fmt: skip
    read = [cell["readers"] for cell in part["cells"] if "readers" in cell]
    missing = {
        name: read[0][name]["error"]
        for name in names
        if all("error" in each[name] for each in read)
    }
    absent = "".join(f" {name} did not run: {why}." for name, why in missing.items())
    return f"""
## Decode

Sparse: 32 frames all over the clip. Dense: 64 in a row. Every reading in a fresh process; each
picture carries its frame's number, so that a wrong one is seen. The last columns: our time to that
of the fastest other that had no frame wrong. CPU time and memory are in
[decode.csv]({figures.name}/decode.csv).{absent}

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
        [words, *(told(cell.get(name), "s") for cell in part["cells"])]
        for name, words in names.items()
    ]
    for name, words in (
        ("overlap_to_slowest", "decode and encode together, to the slower one"),
        ("first_to_floor", "first question to its floor"),
    ):
        rows.append([words, *(told(cell.get(name), "x") for cell in part["cells"])])
    picture = ""
    if part.get("spans"):
        _plot(figures / "overlap.png", lambda axes: _gantt(axes, part["spans"]), (9, 2.4))
        picture = f"![When each stage worked]({figures.name}/overlap.png)"
    head = ["", *(f"{cell['frames']} frames" for cell in part["cells"])]
    return f"""
## A question, end to end

{part["clip"]}, greedy, {part["new_tokens"]} new tokens. The floor of a first question is what these
stages could not beat: the slower of decode and encode, then reading, then generating.

{table(head, rows)}

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
        [str(cell["questions"]), *(told(cell[name], "s") for name in
         ("time_s", "before_generation_s", "generation_s"))]
        for cell in part["cells"]
    ]  # fmt: skip
    head = ["questions", "in all", "before generation", "generation"]
    return f"""
## Many questions of one video

Ten in one call take **{told(part["ten_to_one"], "x")}** of what one takes,
{told(part["ten_to_one_before_generation"], "x")} before generation: decode, encode and prefill are
paid once.

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
        keys = [key for key in good[0] if isinstance(good[0][key], dict)] if good else []
        write_csv(
            figures / f"growth-{name}.csv",
            (x, *keys),
            ([cell[x], *(middle(cell.get(key)) for key in keys)] for cell in good),
        )
        xs, ys = [cell[x] for cell in good], [middle(cell[y]) for cell in good]

        def draw(axes: Any, xs: Any = xs, ys: Any = ys, names: Any = (across, up)) -> None:
            axes.plot(xs, ys, "o-", color="#0b5cad")
            axes.set_xscale("log")
            axes.set_yscale("log" if max(ys) > 20 * min(ys) else "linear")
            if axes.get_yscale() == "linear":
                axes.set_ylim(bottom=0)
            axes.set_xlabel(names[0])
            axes.set_ylabel(names[1])

        _plot(figures / f"growth-{name}.png", draw, (4.4, 3.0))
        made.append(f"![{up} by {across}]({figures.name}/growth-{name}.png)")
    length = [cell for cell in part.get("length", []) if "error" not in cell]
    words = ""
    if length:
        first, last = length[0], length[-1]
        words = (
            f"The first token of 32 frames comes after {told(first['first_token_cold_s'], 's')} of "
            f"a {first['seconds']}-second video and {told(last['first_token_cold_s'], 's')} of one "
            f"of {last['seconds'] / 3600:.2g} hours; memory of the process: "
            f"{told(first['resident_peak_bytes'], 'MiB')} and "
            f"{told(last['resident_peak_bytes'], 'MiB')}. "
        )
    return f"""
## Growth

{words}A corpus is measured with a tiny clip and a tiny model of random weights: what is left is
what Ray and the bookkeeping cost. The figures are in CSV files beside the pictures.

{" ".join(made)}
"""


def sizes(part: Results, figures: Path) -> str:
    rows = [
        [str(cell.get("model", "")), str(cell.get("tokens", "")), told(cell.get("prefill_s"), "ms"),
         told(cell.get("peak_bytes"), "MiB")]
        for cell in part["cells"]
    ]  # fmt: skip
    head = ["language model", "visual tokens", "prefill", "memory at its height"]
    return f"""
## 13B with VisionZip beside 7B without

LLaVA-NeXT's shapes with random weights, which take the time of trained ones.

{table(head, rows)}
"""


SECTIONS: dict[str, Callable[[Results, Path], str]] = {
    "prefill": prefill,
    "encoder": encoder,
    "sizes": sizes,
    "decode": decode,
    "ask": ask,
    "questions": questions,
    "growth": growth,
}


# -- the bars


def bars(files: Sequence[tuple[Path, Results]]) -> str:
    """What was to be reached, and what was."""
    rows = []
    for _, results in files:
        place = "GPU" if results["hardware"]["gpu"] else "CPU"
        rows += [[words, place, found, reached] for words, found, reached in _bars(results)]
    if not any(results["hardware"]["gpu"] for _, results in files):
        rows.append(
            ["prefill at the 7B's shape at least 8x, first token 3x", "GPU", "not measured", "open"]
        )
    return table(["to be reached", "on", "measured", ""], rows)


def _bars(results: Results) -> Iterable[tuple[str, str, str]]:
    def verdict(holds: bool) -> str:
        return "reached" if holds else "missed"

    part = results.get("prefill", {})
    for name, words, least in (
        ("prefill_whole_to_zipped", "prefill of 136 tokens against 2056, at least 8x faster", 8),
        ("first_token_whole_to_zipped", "first token, encoder included, at least 3x faster", 3),
    ):
        if (found := middle(part.get(name))) is not None:
            yield words, f"{found:.1f}x", verdict(found >= least)
    if part.get("largest_frames"):
        at_17 = next(e["frames"] for e in part["largest_frames"] if e["tokens_per_frame"] == 17)
        yield "128 frames inside the window, at 17 tokens each", str(at_17), verdict(at_17 >= 128)
    cells = results.get("encoder", {}).get("cells", [])
    ratios = [found for c in cells if (found := middle(c.get("vzvideo_to_plain"))) is not None]
    if ratios:
        yield (
            "encoder with VisionZip at most 1.00x of plain attention",
            f"{min(ratios):.2f}x to {max(ratios):.2f}x",
            verdict(max(ratios) <= 1),
        )
    cells = [
        c for c in results.get("decode", {}).get("cells", []) if middle(c.get("vzvideo_to_best"))
    ]
    for how, most, words in (
        ("dense", 1.05, "decode, dense: at most 1.05x of the best other"),
        ("sparse", 1 / 1.5, "decode, sparse: 1.5x faster than the best other"),
    ):
        times = [middle(cell["vzvideo_to_best"]) or 0 for cell in cells if cell["sampling"] == how]
        if times:
            good = sum(ratio <= most for ratio in times)
            yield (
                words,
                f"in {good} of {len(times)} cells; median {statistics.median(times):.2f}x, "
                f"worst {max(times):.2f}x of the other's time",
                verdict(good == len(times)),
            )
    for cell in results.get("ask", {}).get("cells", []):
        if (found := middle(cell.get("overlap_to_slowest"))) is not None:
            words = f"decode and encode of {cell['frames']} frames within 1.15x of the slower"
            yield words, f"{found:.2f}x", verdict(found <= 1.15)


def beside_the_paper(files: Sequence[tuple[Path, Results]]) -> str:
    rows = [[words, f"{before} to {after}", times, ""] for words, before, after, times in PAPER]
    for _, results in files:
        part = results.get("prefill", {})
        if (found := middle(part.get("prefill_whole_to_zipped"))) is not None:
            cells = {c["tokens_per_frame"]: c for c in part["cells"] if c["frames"] == 8}
            whole = next(c for c in part["cells"] if c["whole"] and c["frames"] == 8)
            place = results["hardware"]["gpu"] or "CPU"
            rows.append(
                [
                    f"prefill, {part['model'][:20]}, 2056 tokens to 136 ({place})",
                    f"{told(whole['prefill_s'], 'ms')} to {told(cells[17]['prefill_s'], 'ms')}",
                    "",
                    f"{found:.1f}x",
                ]
            )
    return f"""
# Beside the paper

{table(["", "from, to", "in the paper", "here"], rows)}

The paper measured other models on other hardware: its figures stand here for the order of things.
"""


_HEAD = """
<!-- Made by `python -m pipelines.performance`; what is written here by hand is written there. -->

What vzvideo's stages take, beside what else does the same, and how far from the limit. Make it
yourself: `vzvideo bench -o results.json`, a part alone with `vzvideo bench decode`, minutes with
`--quick`, a GPU at the 7B's shape with `--geometry video-llava-7b`. What is compared takes turns
in one process; memory and decoding are measured in fresh ones; every repetition is in the JSON.
"""

_TRIED = """
# Tried, and left out

- bfloat16 on a CPU that has instructions for it: prefill and encoder in about half the time, other
  words in a few answers; `--dtype bfloat16` asks for it.
"""

if __name__ == "__main__":
    main()
