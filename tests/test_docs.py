"""What README and docs tell people to type: every command exists, and those of the README run."""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

from pipelines.report import reference
from vzvideo.cli.main import app, main
from vzvideo.models import catalog, weights

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "MODEL_CARD.md", *sorted((ROOT / "docs").glob("*.md"))]
# What is not ours to check.
OTHERS = ("source ", "python -m venv", "ray ", "docker ", "export ", "pip download", "ffmpeg ")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language; "" for those without a name."""
    parts = re.split(r"^```(.*)\n", page.read_text(encoding="utf-8"), flags=re.M)
    fences = zip(parts[1::4], parts[2::4], strict=True)  # text, language, block, closing fence
    return [block for name, block in fences if name == language]


def commands(page: Path) -> Iterator[str]:
    """What a page tells people to type: lines of its plain blocks, and commands within its text."""
    for block in blocks(page, ""):
        lines = block.replace("\\\n", " ").splitlines()
        if "──" not in block and "─▶" not in block:  # a drawing
            yield from (line for line in lines if line.strip() and not line.startswith("#"))
    if page.name != "cli.md":  # made of the command line itself
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        yield from re.findall(r"`((?:vzvideo |python -m pipelines)[^`…]+)`", text)


EVERY = [(page, command) for page in PAGES for command in commands(page)]


@pytest.mark.parametrize(
    ("page", "command"), EVERY, ids=[f"{page.name}: {command[:60]}" for page, command in EVERY]
)
def test_a_command_is_one_that_exists(page: Path, command: str) -> None:
    if command.startswith(OTHERS):
        return
    words = [word for word in shlex.split(command, comments=True) if word != "..."]
    match words:
        case ["vzvideo", *arguments]:
            parses(arguments)
        case ["python" | ".venv/bin/python", "-m", module, *arguments]:
            spec = find_spec(module)
            assert spec is not None, module
            assert spec.origin
            source = Path(spec.origin).read_text(encoding="utf-8")
            options = [word.partition("=")[0] for word in arguments if word.startswith("--")]
            assert not [option for option in options if f'"{option}"' not in source]
        case ["make", target, *_]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)
        case [pip, "install", *arguments] if pip.endswith("pip"):
            for extra in re.findall(r"\[([^]]*)\]", " ".join(arguments)):
                assert set(extra.split(",")) <= EXTRAS.keys()
        case _:
            raise AssertionError(f"{page.name}: nobody knows what to make of {command!r}")


def parses(arguments: list[str]) -> None:
    """Raises what a user would be told of a wrong command line; nothing is run."""
    if arguments[0].startswith("-"):
        return
    group = typer.main.get_command(app)
    with group.make_context("vzvideo", list(arguments)) as context:
        name, command, rest = group.resolve_command(context, list(arguments))
        if rest or not command.params or not any(p.required for p in command.params):
            command.make_context(name, rest, parent=context)


def test_the_reference_is_fresh() -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), (
        "stale: python -m pipelines.report.reference"
    )


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.fixture
def place(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages speak of: a video, a folder of videos, the default model."""
    if weights.locate(catalog.CATALOG["mini"]) is None:
        pytest.skip("mini has not been pulled: `vzvideo pull mini` gets it")
    (tmp_path / "clips").mkdir()
    for copy in ("movie.mp4", "clips/a.mp4"):
        shutil.copy(clip, tmp_path / copy)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.timeout(900)
def test_the_commands_of_the_readme_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")  # not a cluster of another test
    monkeypatch.setattr("sys.stdin", (place / "asked").open("w+"))  # a chat that nobody types into
    run = 0
    for command in commands(ROOT / "README.md"):
        words = shlex.split(command, comments=True)
        if words[:1] != ["vzvideo"] or "://" in command or words[1] in ("pull", "bench"):
            continue
        placeholder = any(word in ("NAME", "FOLDER", "FILE") for word in words)
        if len(words) > 2 and not placeholder:  # else only named in a sentence
            with pytest.raises(SystemExit) as end:
                main(words[1:])
            assert not end.value.code, command
            run += 1
    assert run >= 8
    assert {path.name for path in place.iterdir()} >= {"report.html", "answers", "more-answers"}


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "python.md"], ids=str)
@pytest.mark.timeout(600)
def test_python_on_a_page_runs(page: Path, place: Path) -> None:
    for number, block in enumerate(blocks(page, "python")):
        exec(compile(block, f"{page.name}, block {number}", "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_on_every_page_is_python(page: Path) -> None:
    for number, block in enumerate(blocks(page, "python")):
        compile(block, f"{page.name}, block {number}", "exec")
