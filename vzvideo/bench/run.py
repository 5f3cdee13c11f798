"""Runs the parts of the benchmark and keeps their numbers in one JSON file.

Knows of a part its name and where it is, and imports it when it is its turn: a dependency that
one part lacks does not stop the others.
"""

from __future__ import annotations

import importlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from vzvideo.bench.measure import Numbers, environment, error_line, free_memory, show
from vzvideo.bench.models import SEED, Setup
from vzvideo.errors import SettingsError

PARTS = {
    "encoder": "encoder.measure",
    "prefill": "prefill.measure",
    "sizes": "sizes.measure",
    "decode": "decode.measure",
    "ask": "ask.measure",
    "questions": "ask.measure_questions",
    "growth": "growth.measure",
}
QUICK = ("encoder", "prefill", "decode", "ask")  # what a look of a few minutes has time for
# What random weights of a shape can be measured for; "sizes" is about two shapes of its own.
GEOMETRIES = {"video-llava-7b": ("encoder", "prefill"), "llava-next": ("sizes",)}


def choose(parts: Sequence[str], geometry: str | None, quick: bool = False) -> list[str]:
    """The parts asked for, all that are possible if none are, or the quickest of them;
    SettingsError where one is not."""
    if geometry and geometry not in GEOMETRIES:
        raise SettingsError(f"geometry {geometry!r}: choose {' or '.join(GEOMETRIES)}")
    possible = GEOMETRIES[geometry] if geometry else [name for name in PARTS if name != "sizes"]
    usual = [part for part in possible if part in QUICK] if quick and not parts else possible
    parts = [] if "all" in parts else parts
    for part in parts:
        if part not in PARTS:
            raise SettingsError(f"part {part!r} is not known: choose {', '.join(PARTS)} or all")
        if part not in possible and geometry is None:
            raise SettingsError(f"{part}: is measured with --geometry llava-next")
        if part not in possible:
            raise SettingsError(f"{part}: with --geometry {geometry}, {' and '.join(possible)} are")
    return list(dict.fromkeys(parts or usual))


def run(parts: Sequence[str], setup: Setup, out: Path, command: Sequence[str]) -> Numbers:
    """Measures one part after the other, shows its numbers, and writes them to `out` at once.

    Every part carries its own command, commit, date, load average, model and repeats, so that
    parts may be measured one at a time: what `out` holds of parts not run now is kept. That wants
    the same hardware and versions; SettingsError where `out` was measured on others, or is
    something else. A part that fails holds {"error": one line}, and the others go on.
    """
    parts = choose(parts, setup.geometry, setup.quick)
    about = environment()
    fixed = {"seed": SEED, "hardware": about["hardware"], "versions": about["versions"]}
    results = _earlier(out, fixed) | fixed
    _write(results, out)  # now, and not after an hour, it shows whether that is possible
    with (
        tempfile.TemporaryDirectory() as cache,
        mock.patch.dict(os.environ, VZVIDEO_CACHE=cache),
    ):
        for part in parts:
            moment = {key: environment()[key] for key in ("commit", "date", "load_average")}
            results[part] = {"command": list(command), **moment, **_facts(setup)}
            try:
                module, function = PARTS[part].split(".")
                found = importlib.import_module(f"vzvideo.bench.{module}")
                numbers: Numbers = getattr(found, function)(setup)
            except Exception as error:
                numbers = {"error": error_line(error)}
            results[part] |= numbers
            free_memory()  # or the next part's processes would find the device full
            show(part, numbers)
            # After each part: a long run that breaks off leaves what it has.
            _write(results, out)
    return results


def _facts(setup: Setup) -> Numbers:
    facts: Numbers = {
        "model": setup.geometry or setup.name or Path(setup.model).name,
        "device": setup.device,
    }
    facts |= {"repeats": setup.repeats, "quick": setup.quick}
    facts |= {"layers": setup.layers} if setup.layers else {}
    return facts | ({"shared_layers": True} if setup.shared_layers else {})


def _earlier(out: Path, fixed: Numbers) -> Numbers:
    """What an earlier run left in `out`."""
    if not out.exists():
        return {}
    try:
        earlier = json.loads(out.read_text())
        before = {key: earlier[key] for key in fixed}
    except (OSError, ValueError, KeyError, TypeError):
        raise SettingsError(
            f"{out}: is no result of this benchmark; choose another --out"
        ) from None
    fixed = json.loads(json.dumps(fixed))
    changed = [
        f"{name} was {before[key].get(name)}, is {fixed[key].get(name)}"
        for key in ("hardware", "versions")
        for name in sorted(before[key].keys() | fixed[key].keys())
        if not _alike(name, before[key].get(name), fixed[key].get(name))
    ]
    if changed:
        raise SettingsError(
            f"{out}: was measured elsewhere ({'; '.join(changed)}); choose another --out"
        )
    return dict(earlier)


def _alike(name: str, before: object, now: object) -> bool:
    if name == "memory_bytes" and isinstance(before, int) and isinstance(now, int):
        return abs(before - now) < 0.01 * now  # the system takes more or less of it
    return before == now


def _write(results: Numbers, out: Path) -> None:
    part = out.with_name(f"{out.name}.part")
    try:
        part.write_text(json.dumps(results, indent=1) + "\n")
        part.replace(out)
    except OSError as error:
        raise SettingsError(f"--out {out}: {error.strerror}; choose another file") from error
