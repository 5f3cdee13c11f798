"""Every family against transformers' own forward, on tiny random models."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.models.families import tiny
from vzvideo import visionzip
from vzvideo.bench.encoder import Squares
from vzvideo.errors import ModelError
from vzvideo.models.families import FAMILIES, family_class, family_of
from vzvideo.models.families.base import Family
from vzvideo.models.families.items import Kept
from vzvideo.visionzip import ZipSettings

pytestmark = pytest.mark.usefixtures("one_thread")
every_case = pytest.mark.parametrize(("name", "what"), tiny.CASES)
SETTINGS = ZipSettings(4, 2, "mean")


def see(
    family: Family, given: dict[str, Any], settings: ZipSettings | None
) -> dict[str, list[Kept]]:
    return {
        modality: family.see(modality, {n: given[n] for n in names if n in given}, settings)
        for modality, names in family.arguments.items()
        if names[0] in given
    }


def test_every_family_is_tried() -> None:
    assert {name for name in tiny.MODELS if name != "internvl_norm"} == set(FAMILIES)


def test_an_unknown_family_is_told_the_list() -> None:
    with pytest.raises(ModelError, match="type 'blip' is not known here; those of type llava, "):
        family_class("blip")


@every_case
@torch.no_grad()
def test_uncompressed_logits_are_the_models_own_to_the_last_bit(name: str, what: str) -> None:
    model, given = tiny.model(name), tiny.inputs(name)[what]
    real = given["attention_mask"].bool()
    expected = model(**given).logits[real]
    family = family_of(model)
    told = family.tell(given, see(family, given, None))
    assert not any(name.startswith("pixel") for name in told)
    assert torch.equal(told["input_ids"], given["input_ids"])
    assert torch.equal(model(**told).logits[real], expected)


@every_case
@torch.no_grad()
def test_no_attention_matrix_comes_into_being(
    name: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunked = partial(visionzip.attention_received, chunk=16)  # these towers are small
    monkeypatch.setattr(visionzip, "attention_received", chunked)
    model, given = tiny.model(name), tiny.inputs(name)[what]
    family = family_of(model)
    tokens = {"llava_onevision": 49, "smolvlm": 64, "idefics3": 64, "internvl": 65,
              "internvl_norm": 65, "qwen2_5_vl": 96, "qwen3_vl": 96}.get(name, 37)  # fmt: skip
    if what != "video" and name.startswith("qwen"):
        tokens = 64
    with Squares(tokens) as squares:
        see(family, given, SETTINGS)
    assert squares.found["count"] == 0
    assert squares.found["operators"]


# -- compressed, against an oracle that takes its time


def slow_zip(
    hidden: Tensor, scores: Tensor, keys: Tensor, settings: ZipSettings, has_cls: bool
) -> tuple[list[Tensor], list[int]]:
    """One group, cell by cell: features in the order kept, and the cell each stands for."""
    cells = len(scores)
    dominant, contextual = settings.counts(cells, has_cls)
    if dominant + contextual >= cells:
        return list(hidden), list(range(cells))
    first = [0] if has_cls else []
    rank = sorted(range(len(first), cells), key=lambda cell: (-float(scores[cell]), cell))
    kept = first + sorted(rank[: dominant - len(first)])
    rest = [cell for cell in range(cells) if cell not in kept]
    targets = rest[:: max(1, len(rest) // contextual)][:contextual]
    groups: dict[int, list[int]] = {target: [target] for target in targets}
    unit = torch.nn.functional.normalize(keys.float(), dim=-1)
    for cell in rest:
        if cell not in targets:
            alike = [float(unit[cell] @ unit[target]) for target in targets]
            groups[targets[int(np.argmax(alike))]].append(cell)
    merged = [hidden[members].mean(0) for members in groups.values()]
    return [hidden[cell] for cell in kept] + merged, kept + targets


@every_case
@torch.no_grad()
def test_what_is_kept_is_what_a_slow_oracle_keeps(name: str, what: str) -> None:
    given = tiny.inputs(name)[what]
    family = family_of(tiny.model(name))
    for modality, kept in see(family, given, SETTINGS).items():
        own = {n: given[n] for n in family.arguments[modality] if n in given}
        for item, found in zip(family.items(modality, own), kept, strict=True):
            expected, order = [], []
            for number, part in enumerate(item.parts):
                for group, place in enumerate(part.place):
                    features, cells = slow_zip(
                        *(values[group] for values in part.cells), SETTINGS, part.has_cls
                    )
                    dominant = SETTINGS.counts(len(place), part.has_cls)[0]
                    for m, (feature, cell) in enumerate(zip(features, cells, strict=True)):
                        at = int(place[cell])
                        role = 2 if m >= dominant else int(at < 0)
                        if family.has_positions:
                            key = (at,)
                        elif item.tiled and number:
                            key = (1, role, at if role == 0 else number, at)
                        else:
                            key = (0, number, group, m)
                        order.append((key, len(expected)))
                        expected.append(feature)
            rows = torch.stack([expected[i] for _, i in sorted(order)])
            projected = family.project(rows)
            if item.newline is not None:
                projected = torch.cat([projected, item.newline[None]])
            torch.testing.assert_close(found.features, projected, atol=1e-4, rtol=1e-4)
            if family.has_positions:
                assert found.slots.tolist() == sorted(key[0] for key, _ in order)
            else:
                assert found.slots.tolist() == list(range(len(projected)))


def mean_of_squares(scores: Tensor, edge: int = 2) -> Tensor:
    """(B, N) of a square grid -> (B, N / edge^2)."""
    side = round(scores.shape[1] ** 0.5) // edge
    return scores.view(-1, side, edge, side, edge).mean((2, 4)).flatten(1)


def shrunk(scores: Tensor) -> Tensor:
    grid = scores.view(-1, 1, 7, 7)
    return torch.nn.functional.interpolate(grid, (4, 4), mode="bilinear").flatten(1)


# Attention matrices (B, heads, N, N) -> scores of cells (B, C), written down family by family.
EXPECTED: dict[str, Callable[[Tensor], Tensor]] = {
    "llava": lambda a: a[:, :, 0].sum(1),
    "video_llava": lambda a: a[:, :, 0].sum(1),
    "llava_next_video": lambda a: torch.cat(
        [a[:, :, 0, :1].sum(1), mean_of_squares(a[:, :, 0, 1:].sum(1))], 1
    ),
    "llava_onevision": lambda a: shrunk(a.mean((1, 2))),
    "smolvlm": lambda a: mean_of_squares(a.mean((1, 2))),
    "idefics3": lambda a: mean_of_squares(a.mean((1, 2))),
    "internvl": lambda a: mean_of_squares(a[:, :, 0, 1:].sum(1)),
    "internvl_norm": lambda a: mean_of_squares(a[:, :, 0, 1:].sum(1)),
    # Patches of a cell lie one behind the other.
    "qwen3_vl": lambda a: a.mean((1, 2)).unflatten(1, (-1, 4)).mean(2),
}


@pytest.mark.parametrize("name", EXPECTED)
@torch.no_grad()
def test_scores_are_those_of_eager_attention(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = next(iter(tiny.inputs(name).values()))
    family = family_of(tiny.model(name))
    own = {n: given[n] for n in family.arguments[family.shows] if n in given}
    scores = [part.cells.scores for item in family.items(family.shows, own) for part in item.parts]
    noted: list[Tensor] = []
    tower: Any = family.vision()
    home = sys.modules[type(tower).__module__]
    eager = home.eager_attention_forward  # type: ignore[attr-defined]

    def note(*args: Any, **options: Any) -> Any:
        out = eager(*args, **options)
        noted.append(out[1])
        return out

    monkeypatch.setattr(home, "eager_attention_forward", note)
    tower.set_attn_implementation("eager")
    try:
        family.items(family.shows, own)
    finally:
        tower.set_attn_implementation("sdpa")
    last = noted[-3:] if name == "qwen3_vl" else noted[-1:]  # frame by frame
    expected = EXPECTED[name](torch.cat(last))
    assert expected.std() > 1e-4
    torch.testing.assert_close(torch.cat(scores), expected, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_qwens_windows_are_put_back_into_the_order_of_rows() -> None:
    model, given = tiny.model("qwen2_5_vl"), tiny.inputs("qwen2_5_vl")["pictures in rows"]
    grids, family = given["image_grid_thw"], family_of(model)
    out = model.model.visual(given["pixel_values"], grid_thw=grids)
    merged = model.model.visual.merger(out.last_hidden_state)
    assert not torch.allclose(merged, out.pooler_output)
    assert torch.equal(family.in_rows(merged, grids), out.pooler_output)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", tiny.MODELS)
@torch.no_grad()
def test_items_of_one_shape_are_compressed_at_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, given = family_of(tiny.model(name)), next(iter(tiny.inputs(name).values()))
    compress, shapes = visionzip.compress, []

    def counted(hidden: Tensor, *rest: Any, **options: Any) -> Any:
        shapes.append(hidden.shape)
        return compress(hidden, *rest, **options)

    monkeypatch.setattr(visionzip, "compress", counted)
    see(family, given, SETTINGS)
    assert len({shape[1] for shape in shapes}) == len(shapes)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
@torch.inference_mode()
def test_two_threads_may_score_with_one_packed_tower(name: str) -> None:
    family = family_of(tiny.model(name))
    edges = [4 * family.core.config.vision_config.patch_size] * 2
    one, other = torch.rand(2, 2, 3, *edges, generator=torch.Generator().manual_seed(0))
    expected = family.frames(one)

    def score_something_else(*_: Any) -> None:
        interruption.remove()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(torch.inference_mode()(family.frames), other).result()

    # Between the moment the scoring block's keys are seen and their use.
    block: Any = family.vision().blocks[-1]
    interruption = block.mlp.register_forward_hook(score_something_else)
    found = family.frames(one)
    for seen, wanted in zip(found, expected, strict=True):
        assert torch.equal(seen, wanted)
