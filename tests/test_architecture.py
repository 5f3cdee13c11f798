"""Imports point down: one table of floors, and every import of the package is held against it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the top floor down. Rooms on one floor may not import each other, a room may itself.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("serve",),
    ("bench", "evaluation", "show"),
    ("__init__",),  # names of the rooms below, imported when they are first used
    ("corpus", "live"),
    ("qa",),
    ("hf",),
    ("models",),
    ("video",),
    ("visionzip",),
    ("types", "config"),
    ("words",),
    ("errors", "_version"),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Arrows that point up, each inside a method that is there for a user's convenience.
EXCEPTIONS = {
    ("vzvideo.types", "vzvideo.qa.store"): "VisualTokens.save and load",
    ("vzvideo.qa.video_qa", "vzvideo.live.stream"): "VideoQA.stream makes a Stream",
}


def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name, parsed."""
    found = {}
    for path in sorted((ROOT / "vzvideo").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imports(module: str) -> Iterator[str]:
    """What a module imports: at its top, inside functions, and for type checking alone."""
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            assert node.module
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def arrows() -> Iterator[tuple[str, str]]:
    """(importer, imported), within the package."""
    for module in MODULES:
        for name in imports(module):
            if name in MODULES and name != module:
                yield module, name


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in MODULES} <= FLOOR.keys()


def test_arrows_point_down() -> None:
    wrong = [
        f"{importer} -> {imported}"
        for importer, imported in arrows()
        if room(importer) != room(imported)
        and FLOOR[room(importer)] >= FLOOR[room(imported)]
        and (importer, imported) not in EXCEPTIONS
    ]
    assert not wrong


def test_every_exception_is_needed() -> None:
    assert set(arrows()) >= EXCEPTIONS.keys()


def test_no_circle() -> None:
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for arrow in arrows():
        if arrow not in EXCEPTIONS:
            graph[arrow[0]].add(arrow[1])
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def importers(package: str) -> set[str]:
    return {m for m in MODULES for name in imports(m) if name.partition(".")[0] == package}


def test_one_file_knows_ray() -> None:
    assert importers("ray") == {"vzvideo.corpus.cluster"}


def test_video_knows_no_torch() -> None:
    heavy = importers("torch") | importers("transformers")
    assert not {module for module in heavy if room(module) == "video"}


def test_the_package_knows_no_pipeline() -> None:
    assert not importers("pipelines")
    assert not importers("tests")
