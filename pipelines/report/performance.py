"""docs/performance.md, made of what `vzvideo bench` has measured.

    vzvideo bench -o docs/benchmark-cpu.json
    vzvideo bench --geometry video-llava-7b --quick -o docs/benchmark-7b-cpu.json
    python -m pipelines.report.performance docs/benchmark-cpu.json docs/benchmark-7b-cpu.json \
        --out docs/performance.md

Files of other machines may follow. Every figure on the page is taken from these; curves are drawn
beside it, as PNG and CSV. Wants `pip install 'vzvideo[bench]'`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pipelines.report.bars import Results, bars, beside_the_paper
from pipelines.report.sections import SECTIONS
from pipelines.report.tables import table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("results", type=Path, nargs="+", help="JSON files of `vzvideo bench`")
    parser.add_argument("--out", type=Path, required=True, help="page to write")
    args = parser.parse_args()
    files = [(path, json.loads(path.read_text())) for path in args.results]
    sections = [_HEAD, bars([results for _, results in files])]
    for path, results in files:
        figures = args.out.with_suffix("") / path.stem
        figures.mkdir(parents=True, exist_ok=True)
        linked = f"{args.out.stem}/{path.stem}"
        sections.append(_about(path, results))
        for part, section in SECTIONS.items():
            if part not in results:
                continue
            if "error" in results[part]:
                sections.append(f"### {part}\n\nFailed: {results[part]['error']}")
            else:
                sections.append(section(results[part], figures).replace("@figures@", linked))
    sections += [_TRIED, beside_the_paper([results for _, results in files])]
    args.out.write_text("\n\n".join(section.strip() for section in sections if section) + "\n")


_SHARED = (
    "Shared layers all read the weights of one (0.4 GB of the 7B's, 0.6 GB of the 13B's), for want "
    "of memory: the same work."
)


def _about(path: Path, results: Results) -> str:
    hardware, versions = results["hardware"], results["versions"]
    cores = f"{hardware['usable_cores'] or hardware['cores']} cores of {hardware['cpu']}"
    place = f"{hardware['gpu']}, {cores}" if hardware["gpu"] else cores
    rows = [
        [
            name, part["model"], part["device"],
            f"{part.get('layers', 'all')}{', shared' if part.get('shared_layers') else ''}",
            f"{part['repeats']}{', quick' if part['quick'] else ''}", str(part["commit"])[:7],
            part["date"], f"{part['load_average']:.1f}",
        ]
        for name, part in results.items()
        if isinstance(part, dict) and "command" in part
    ]  # fmt: skip
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    head = ["part", "model", "device", "layers", "repetitions at most", "commit", "when", "load"]
    shared = any(isinstance(part, dict) and part.get("shared_layers") for part in results.values())
    return (
        f"## {path.name}: {place}\n\n{named}. Cells are medians; in brackets from the lowest to "
        "the highest where they are more than a tenth apart. The load is the machine's when a part "
        f"began.\n\n{table(head, rows)}" + (f"\n\n{_SHARED}" if shared else "")
    )


_TRIED = """
## What was tried

On two cores of an AMD EPYC; `vzvideo bench decode` and `OMP_WAIT_POLICY=ACTIVE vzvideo bench ask`,
beside the same without it, measure all but the third and the fourth again, which were loops that
are not kept; for what was before the first two, at the commit before them.

- Two readers of one thread, each between keyframes of its own, in place of one decoder with two
  threads, took the median of sparse reading from 1.02x of the best other's time to 0.67x. Three
  stretches for two readers gained nothing, so there have to be two for each. With more than two
  cores it has not been measured.
- FFmpeg's slice threads for conversion to RGB: 64 frames of 360p waited 150 to 210 ms for 23 ms of
  work on a busy machine. One thread a picture, and large pictures beside the decoding, took the
  median of dense reading from 1.8x of the best other's time to about 1.1x, then.
- Coarser scaling of 1080p frames, 3.1 ms (bilinear) or 2.6 ms (area) each instead of 4.8 (bicubic):
  left alone, for what the tower then sees is farther from the published preprocessing of the whole
  frame, 0.029 and 0.023 on average of standardized pixels of this texture instead of 0.014.
- 64 frames of 360p in a row (H.264, a keyframe every 12 frames; medians of seven processes) took
  48 ms with FFmpeg's own choice of threads, 58 with one and 52 with two; with one and conversion
  beside the decoding 63.
- PyTorch's threads spinning without end while they wait (`OMP_WAIT_POLICY=ACTIVE`): decoding 32
  frames took 6.4 to 6.9 s instead of 3.9. Asleep (`PASSIVE`, as the command line now has it),
  decode and encode together took 6 s where the default had taken 6.7 to 7.2. Whoever uses the
  Python API on a processor may set it, too.
- `torch.compile` (`vzvideo bench encoder --quick --compile`): 8 frames at once in 0.80x (0.76-0.93)
  of plain's time, where ours took 0.91x (0.89-1.16), and no longer than the matrix multiplications
  alone. Every process compiles first, for longer than a short video takes: left to the benchmark.
"""

_HEAD = """
<!-- Made by `python -m pipelines.report.performance`, which also holds what is written by hand. -->

# Performance

What vzvideo's stages take, beside what else does the same, and how far from the limit. Make it
yourself: `vzvideo bench -o results.json`, a part alone with `vzvideo bench decode`, minutes with
`--quick`, the 7B's shape with `--geometry video-llava-7b`. What is compared takes turns
in one process; memory and decoding are measured in fresh ones; every repetition is in the JSON.
"""

if __name__ == "__main__":
    main()
