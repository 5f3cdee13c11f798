"""Models by name, and what is said where there is none of that name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vzvideo.errors import ModelError
from vzvideo.models import catalog
from vzvideo.models.families import FAMILIES


def test_every_model_is_found_by_its_name() -> None:
    assert {"mini", "video-llava-7b"} <= set(catalog.CATALOG)
    for name, card in catalog.CATALOG.items():
        assert catalog.find(name) is card
        assert card.name == name
        assert bool(card.hub_id) != bool(card.wheels)  # one way to get it, and no more


def test_the_page_lists_them_all() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text()
    rows = {line.split("|")[1].strip(" `"): line for line in page.splitlines() if "| `" in line}
    for name, card in catalog.CATALOG.items():
        assert card.hub_id in rows[name]
    for model_type in FAMILIES:
        assert f"`{model_type}`" in page


@pytest.mark.parametrize(
    ("device", "memory_gib", "name"),
    [
        ("cuda", 80, "qwen3-vl-8b"),
        ("cuda", 15, "qwen3-vl-2b"),
        ("cuda", 4, "smolvlm2-500m"),
        ("mps", 16, "qwen3-vl-2b"),
        ("mps", 8, "smolvlm2-500m"),
        ("cpu", 32, "smolvlm2-500m"),
        ("cpu", 4, "smolvlm2-256m"),
    ],
)
def test_every_machine_has_a_recommendation(device: str, memory_gib: float, name: str) -> None:
    assert catalog.recommended(device, memory_gib).name == name


def test_hub_ids_and_folders_are_models_too(tmp_path: Path) -> None:
    assert catalog.find("owner/model").hub_id == "owner/model"
    folder = catalog.find(str(tmp_path))
    assert (folder.name, folder.hub_id, folder.wheels) == (str(tmp_path), "", ())


def test_a_folder_goes_before_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert catalog.find("owner/model").hub_id == ""


@pytest.mark.parametrize("name", ["maxi", "", "a/b/c", "./missing", "/missing/model", "~/model"])
def test_an_unknown_name_is_told_the_choices(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        catalog.find(name)
    line = str(caught.value)
    assert caught.value.code == "unknown_model"
    assert line.startswith(f"model {name!r} is not known")
    for choice in (*catalog.CATALOG, "auto", "a hub id (owner/name)", "a checkpoint folder"):
        assert choice in line
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "meant"),
    [("minni", "mini"), ("video-llava", "video-llava-7b"), ("videollava-7b", "video-llava-7b")],
)
def test_a_slip_of_the_pen_is_told_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(ModelError, match=f"Did you mean {meant}\\?"):
        catalog.find(name)
    with pytest.raises(ModelError) as caught:
        catalog.find("xyzzy")
    assert "Did you mean" not in str(caught.value)


def test_wheels_are_pinned_and_known_by_their_file_names() -> None:
    for card in catalog.CATALOG.values():
        for wheel in card.wheels:
            assert len(bytes.fromhex(wheel.sha256)) == 32
            assert Path(
                f"{wheel.package.replace('-', '_')}-{wheel.version}-py3-none-any.whl"
            ).match(wheel.pattern)


def test_the_catalogue_needs_no_torch() -> None:
    code = "import sys; from vzvideo.models import catalog, weights; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
