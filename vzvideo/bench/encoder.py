"""The encoder: VisionZip behind the tower against what others run, and against the limit.

plain: the whole tower in fused attention, as transformers' Video-LLaVA runs it. eager: every
layer's attention matrices, as VisionZip's authors' code asks for them. compiled, where asked for:
ours, through torch.compile (timed alone, its memory is not measured). limit: the matrix
multiplications of the layers that are run, and nothing else. Knows nothing of language models.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vzvideo import visionzip
from vzvideo.bench.measure import (
    Numbers,
    error_line,
    in_child,
    peak_bytes_by_size,
    peaks_in_child,
    ratio,
    rotate,
    runnable,
    spread,
    time_alternating,
)
from vzvideo.bench.models import FEATURE_LAYER, Setup, load, prepared_noise
from vzvideo.models.encoder import Encoder
from vzvideo.models.tower import Tower

DOMINANT, CONTEXTUAL = 14, 3
BATCHES = (1, 2, 8, 32, 128)
QUICK_BATCHES = (8,)
LOOKED_AT = 8  # frames, in search of attention matrices
WAYS = ("vzvideo", "plain", "eager")
Run = Callable[[Tensor], Any]


def measure(setup: Setup) -> Numbers:
    batches = QUICK_BATCHES if setup.quick else BATCHES
    memory: dict[str, list[dict[int, int | str]]] = {name: [] for name in WAYS}
    for turn in range(0 if setup.brief else 1 if setup.quick else 3):
        for name in rotate(memory, turn):
            memory[name].append(peaks_in_child(_memory, setup, name, batches))
    encoder = _load(setup)
    ways = ways_to_features(encoder)
    found: Numbers = {"tokens": encoder.tokens, "dtype": str(encoder.dtype).removeprefix("torch.")}
    found |= {
        "layers_run": len(_tower(encoder).layers),
        "dominant": DOMINANT,
        "contextual": CONTEXTUAL,
    }
    timed = ways | ({"compiled": compiled(encoder)} if setup.compiled else {})
    found["cells"] = []
    for batch in batches:
        peaks = {name: [turn[batch] for turn in memory[name]] for name in WAYS if memory[name]}
        try:
            found["cells"].append(_cell(encoder, timed, batch, peaks, setup))
        except RuntimeError as error:  # there is no room for so many
            found["cells"].append({"frames": batch, "error": error_line(error)})
    if setup.brief:
        return found
    try:  # in a process of its own, for a profiler leaves its traces
        found["profile"] = in_child(_profile, setup)
    except RuntimeError as error:
        found["profile"] = {"error": error_line(error)}
    found["squares"] = {"frames": LOOKED_AT}
    inputs = prepared_noise(encoder, LOOKED_AT)
    for name, run in ways.items():
        with Squares(encoder.tokens) as squares:
            run(inputs)
        found["squares"][name] = squares.found
    return found


def _load(setup: Setup) -> Encoder:
    # Of a published shape's language model, which is not run here, one layer's weights are enough.
    return load(replace(setup, shared_layers=True))[0]


def _cell(
    encoder: Encoder,
    ways: dict[str, Run],
    batch: int,
    peaks: dict[str, list[int | str]],
    setup: Setup,
) -> Numbers:
    """One batch size: each way by turns with the others and with the limit."""
    limit = Limit(encoder, batch)
    inputs = prepared_noise(encoder, batch)
    # What did not run in a process of its own would take this one along.
    errors = {n: {"error": e} for n, each in peaks.items() for e in each if isinstance(e, str)}
    variants: dict[str, Callable[[], Any]] = {
        name: partial(run, inputs) for name, run in ways.items() if name not in errors
    }
    variants, unable = runnable(variants | {"limit": limit})
    errors |= unable
    taken = time_alternating(variants, setup.repeats)
    cell: Numbers = {"frames": batch, "limit_flop": limit.flop, "ways": {}}
    for name in ways:
        if name in taken:
            frames_per_s = [batch / time_s for time_s in taken[name]]
            way = {"time_s": spread(taken[name]), "frames_per_s": spread(frames_per_s)}
            way |= {"peak_bytes": spread(peaks[name])} if name in peaks else {}  # type: ignore[arg-type]
            cell["ways"][name] = way
        else:
            cell["ways"][name] = errors[name]
    if "limit" in taken:
        cell["limit_s"] = spread(taken["limit"])
    for name, other in (
        *(("vzvideo", "plain"), ("eager", "plain"), ("compiled", "plain")),
        *(("vzvideo", "limit"), ("compiled", "limit")),
    ):
        if name in taken and other in taken:
            cell[f"{name}_to_{other}"] = ratio(taken[name], taken[other])
    if {"vzvideo", "plain"} <= taken.keys() & peaks.keys() and min(peaks["plain"]) > 0:  # type: ignore[operator]
        cell["vzvideo_to_plain_peak"] = ratio(peaks["vzvideo"], peaks["plain"])  # type: ignore[arg-type]
    return cell


def ways_to_features(encoder: Encoder) -> dict[str, Run]:
    """Three ways to go with preprocessed frames (B, 3, H, W)."""
    # Each its own: transformers leaves hooks on every layer of a tower that it has run.
    tower: Any = copy.deepcopy(encoder.tower)
    eager: Any = copy.deepcopy(encoder.tower)
    eager.set_attn_implementation("eager")

    @torch.inference_mode()
    def plain(inputs: Tensor) -> Any:  # as transformers' Video-LLaVA: of all layers, keep one state
        states = tower(inputs.to(encoder.dtype), output_hidden_states=FEATURE_LAYER).hidden_states
        return states[FEATURE_LAYER]

    @torch.inference_mode()
    def reference(inputs: Tensor) -> Any:  # as VisionZip's authors, who go on to pick of all this
        return eager(inputs.to(encoder.dtype), output_hidden_states=True, output_attentions=True)

    return {"vzvideo": partial(_zipped, encoder), "plain": plain, "eager": reference}


def compiled(encoder: Encoder) -> Run:
    """Ours, compiled up to the scoring layer, whose queries and keys hooks look at.

    On a GPU as CUDA graphs, which spare the launch of every kernel.
    """
    family: Any = copy.copy(encoder.family)
    tower = copy.copy(_tower(encoder))
    *layers, scoring = tower.layers

    def before_scoring(inputs: Tensor) -> Tensor:
        state = tower.norm(tower.embed(inputs))
        for layer in layers:
            state = layer(state, None)
        return state

    mode = "reduce-overhead" if encoder.device.type == "cuda" else None
    fused = torch.compile(before_scoring, mode=mode, dynamic=False, fullgraph=True)

    def hidden(inputs: Tensor) -> Tensor:
        return scoring(fused(inputs.to(encoder.device, encoder.dtype)), None)

    tower.hidden = hidden  # type: ignore[method-assign, assignment]
    copied: Any = copy.copy(encoder)
    copied.family, family._towers = family, {family.shows: tower}
    return partial(_zipped, copied)


def _tower(encoder: Encoder) -> Tower:
    family: Any = encoder.family
    tower: Tower = family.tower(family.shows)
    return tower


def _zipped(encoder: Encoder, inputs: Tensor) -> visionzip.Zipped:
    scored = encoder.score(inputs)
    return visionzip.compress(*scored, DOMINANT, CONTEXTUAL, has_cls=encoder.has_cls)


def _profile(setup: Setup) -> Numbers:
    """Where the time of ours goes: each operator's share of it, the largest first."""
    encoder = _load(setup)
    inputs = prepared_noise(encoder, LOOKED_AT)
    _zipped(encoder, inputs)
    on_gpu = encoder.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=kinds) as seen:
        _zipped(encoder, inputs)
    taken = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in seen.key_averages()
    }
    total = sum(taken.values()) or 1.0
    shares = sorted(((time / total, name) for name, time in taken.items()), reverse=True)
    return {
        "frames": LOOKED_AT,
        "operators": [{"operator": name, "share": round(share, 4)} for share, name in shares[:10]],
    }


class Limit:
    """The matrix multiplications of an encoder's layers for `batch` frames, and nothing else.

    Every projection with the layers' own weights, attention's two products for each head, the
    patch embedding; without bias, norm, softmax or activation. Operands and results are allocated
    beforehand. `flop`: their floating-point operations, two for each multiplication.
    """

    @torch.inference_mode()
    def __init__(self, encoder: Encoder, batch: int) -> None:
        place: Any = {"device": encoder.device, "dtype": encoder.dtype}
        tower = _tower(encoder)
        rows, heads = batch * encoder.tokens, batch * tower.heads
        self._products: list[tuple[Callable[..., Tensor], Tensor, Tensor, Tensor]] = []

        @cache
        def operand(*shape: int) -> Tensor:
            return torch.randn(shape, **place)

        @cache
        def result(*shape: int) -> Tensor:
            return torch.empty(shape, **place)

        def multiply(left: Tensor, right: Tensor) -> None:
            product = torch.mm if left.ndim == 2 else torch.bmm
            out = result(*left.shape[:-1], right.shape[-1])
            self._products.append((product, left, right, out))

        for module in tower.embed.modules():
            if isinstance(module, nn.Conv2d):  # without overlap: one product for each patch
                weight = module.weight.flatten(1)
                patches = encoder.grid[0] * encoder.grid[1]
                multiply(operand(batch * patches, weight.shape[1]), weight.t())
        head = encoder.width // tower.heads
        state = operand(heads, encoder.tokens, head)
        attention = operand(heads, encoder.tokens, encoder.tokens)
        for layer in tower.layers:
            for module in layer.modules():
                if isinstance(module, nn.Linear):
                    multiply(operand(rows, module.in_features), module.weight.t())
            multiply(state, state.transpose(1, 2))
            multiply(attention, state)
        self.flop = sum(2 * out.numel() * left.shape[-1] for _, left, _, out in self._products)

    @torch.inference_mode()
    def __call__(self) -> None:
        for product, left, right, out in self._products:
            product(left, right, out=out)


def _memory(setup: Setup, name: str, batches: Sequence[int]) -> dict[int, int | str]:
    """Peak growth in bytes by batch size, once everything has been used for one frame."""
    encoder = _load(setup)
    run, inputs = ways_to_features(encoder)[name], prepared_noise(encoder, max(batches))
    run(inputs[:1])
    return peak_bytes_by_size(lambda batch: run(inputs[:batch]), batches)


class Squares(TorchDispatchMode):
    """Watches for attention matrices: tensors whose last two dimensions are both `tokens`."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self._shape = (tokens, tokens)
        self.found: Numbers = {"count": 0, "largest_bytes": 0, "operators": []}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # In inference mode composite operators come whole, and might hide a matrix within.
        with self:
            result = func.decompose(*args, **kwargs or {})
        if result is not NotImplemented:
            return result
        if "attention" in str(func) and str(func) not in self.found["operators"]:
            self.found["operators"].append(str(func))
        result = func(*args, **kwargs or {})
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.shape[-2:] == self._shape:
                self.found["count"] += 1
                size = value.numel() * value.element_size()
                self.found["largest_bytes"] = max(self.found["largest_bytes"], size)
        return result
