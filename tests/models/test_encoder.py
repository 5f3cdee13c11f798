"""The encoder against transformers' own forward, on small random towers of the three kinds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from tests.tolerances import LOGITS_F32
from vzvideo.errors import ModelError, SettingsError
from vzvideo.models.encoder import NO_COMPRESSION, Encoder, ZipSettings
from vzvideo.models.preprocess import Preprocess
from vzvideo.types import FrameBatch, Role
from vzvideo.visionzip import compress, split_tokens

LAYERS = 4
SMALL = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "patch_size": 14}
KINDS: dict[str, Callable[[], Any]] = {
    "clip": lambda: CLIPVisionModel(CLIPVisionConfig(**SMALL, intermediate_size=64, image_size=56)),
    # Made for larger images, as mini's is: its positions are interpolated.
    "dinov2": lambda: Dinov2Model(Dinov2Config(**SMALL, mlp_ratio=2, image_size=98)),
    "siglip": lambda: SiglipVisionModel(
        SiglipVisionConfig(**SMALL, intermediate_size=64, image_size=56)
    ),
}
HAS_CLS = {"clip": 1, "dinov2": 1, "siglip": 0}
PATCHES = 16


def methods_of(cls: type) -> dict[str, Any]:
    return {name: value for name, value in vars(cls).items() if callable(value)}


# Taken when pytest collects, before any encoder is made.
METHODS = {
    type(part): methods_of(type(part)) for make in KINDS.values() for part in make().modules()
}

every_kind = pytest.mark.parametrize("kind", KINDS)
every_feature_layer = pytest.mark.parametrize("feature_layer", [-1, -2, -LAYERS, 1, LAYERS])


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Towers this small are many times faster so, above all beside another program."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_tower(kind: str, seed: int = 0) -> Any:
    """Weights large enough that attention prefers some tokens, and that no norm is an identity."""
    torch.manual_seed(seed)
    tower = KINDS[kind]().eval()
    for weight in tower.parameters():
        nn.init.normal_(weight, std=0.3)
    return tower


def encoder_of(kind: str, feature_layer: int = -2, seed: int = 0) -> Encoder:
    return Encoder(random_tower(kind, seed), Preprocess(56, 56), feature_layer)


def random_inputs(count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 56, 56, generator=torch.Generator().manual_seed(seed))


def random_frames(count: int = 3, seed: int = 0) -> FrameBatch:
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (count, 70, 90, 3), dtype=np.uint8)
    return FrameBatch(pixels, 0.5 + 0.25 * np.arange(count), source=f"clip-{seed}.mp4")


def layers_of(tower: Any) -> nn.ModuleList:
    return tower.encoder.layer if isinstance(tower, Dinov2Model) else tower.encoder.layers


def eager_outputs(tower: Any, inputs: Tensor) -> Any:
    """The tower's whole forward with every attention matrix, on a copy of its own."""
    eager = copy.deepcopy(tower)
    eager.set_attn_implementation("eager")
    with torch.inference_mode():
        return eager(inputs, output_hidden_states=True, output_attentions=True)


def assert_same(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=LOGITS_F32, atol=LOGITS_F32)


@every_kind
@every_feature_layer
def test_features_are_the_towers_hidden_states(kind: str, feature_layer: int) -> None:
    encoder, inputs = encoder_of(kind, feature_layer), random_inputs()
    expected = eager_outputs(encoder.tower, inputs).hidden_states[feature_layer]
    assert_same(encoder.hidden(inputs), expected)
    assert_same(encoder.score(inputs).hidden, expected)
    assert encoder.tokens == expected.shape[1] == PATCHES + HAS_CLS[kind]
    assert encoder.width == expected.shape[2]


@every_kind
@every_feature_layer
def test_scores_and_keys_are_those_of_eager_attention(kind: str, feature_layer: int) -> None:
    encoder, inputs = encoder_of(kind, feature_layer), random_inputs()
    outputs = eager_outputs(encoder.tower, inputs)
    # The layer whose output the features are: hidden state k is what layer k - 1 gives.
    scoring = feature_layer if feature_layer < 0 else feature_layer - 1
    attention = outputs.attentions[scoring]  # (B, H, N, N), rows are queries
    _, scores, keys = encoder.score(inputs)
    if HAS_CLS[kind]:
        assert_same(scores, attention[:, :, 0].sum(1))
    else:
        assert_same(scores, attention.mean(dim=(1, 2)))

    layer: Any = layers_of(encoder.tower)[scoring]
    before = outputs.hidden_states[:-1][scoring]
    with torch.inference_mode():
        if kind == "dinov2":
            projected = layer.attention.k_proj(layer.norm1(before))
        else:
            projected = layer.self_attn.k_proj(layer.layer_norm1(before))
    heads = projected.chunk(4, dim=-1)
    assert_same(keys, sum(heads) / 4)


@every_kind
def test_layers_behind_the_feature_layer_never_run(kind: str) -> None:
    encoder = encoder_of(kind, feature_layer=-3)

    def fail(module: nn.Module, _args: Any) -> None:
        raise AssertionError(f"{type(module).__name__} ran")

    first = ("embeddings", "pre_layrnorm", "encoder")
    last = [part for name, part in encoder.tower.named_children() if name not in first]
    for module in (*layers_of(encoder.tower)[-2:], *last):
        module.register_forward_pre_hook(fail)
    encoder.encode(random_frames(), ZipSettings(5, 3))
    encoder.encode(random_frames(), NO_COMPRESSION)
    with pytest.raises(AssertionError, match="ran"):
        encoder.tower(random_inputs())


def hooks_of(tower: nn.Module) -> list[Any]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [hook for module in tower.modules() for kind in kinds for hook in getattr(module, kind)]


@every_kind
def test_the_tower_is_left_as_it_was(kind: str) -> None:
    encoder = encoder_of(kind)
    encoder.encode(random_frames(), ZipSettings(5, 3))
    assert hooks_of(encoder.tower) == []
    for module in encoder.tower.modules():
        assert methods_of(type(module)) == METHODS[type(module)]
        assert type(module).forward.__module__.startswith(("transformers.", "torch."))
        assert "forward" not in vars(module)
    assert encoder.tower.config._attn_implementation == "sdpa"


@every_kind
def test_hooks_are_removed_when_the_tower_raises(kind: str) -> None:
    encoder, inputs = encoder_of(kind), random_inputs()
    expected = encoder.score(inputs)

    def fail(_module: nn.Module, _args: Any) -> None:
        raise MemoryError("no room")

    for layer in (0, 2):  # before the scoring layer, and in it
        handle = layers_of(encoder.tower)[layer].mlp.register_forward_pre_hook(fail)
        with pytest.raises(MemoryError, match="no room"):
            encoder.score(inputs)
        handle.remove()
        assert hooks_of(encoder.tower) == []
    assert_same(encoder.score(inputs), expected)


def test_two_encoders_of_one_tower_do_not_disturb_each_other() -> None:
    tower, frames = random_tower("clip"), random_frames()
    settings = ZipSettings(5, 3)
    expected = [
        Encoder(copy.deepcopy(tower), Preprocess(56, 56), layer).encode(frames, settings).features
        for layer in (-2, -3)
    ]
    assert not torch.equal(*expected)
    shared = [Encoder(tower, Preprocess(56, 56), layer) for layer in (-2, -3)]
    streams = [encoder.encode_stream(iter([frames] * 2), settings) for encoder in shared]
    for pair in zip(*streams, strict=True):
        for tokens, features in zip(pair, expected, strict=True):
            assert_same(tokens.features, features)


def test_two_threads_may_score_with_one_tower() -> None:
    encoder, inputs = encoder_of("clip"), random_inputs()
    expected = encoder.score(inputs)

    def score_something_else(*_: Any) -> None:
        interruption.remove()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(encoder.score, random_inputs(seed=1)).result()

    # Between the moment the scoring layer's keys are seen and their use.
    scoring: Any = layers_of(encoder.tower)[-2]
    interruption = scoring.mlp.register_forward_hook(score_something_else)
    assert_same(encoder.score(inputs), expected)


@every_kind
def test_encode_packs_what_was_kept(kind: str) -> None:
    encoder, frames = encoder_of(kind), random_frames(3)
    has_cls, dominant, contextual = HAS_CLS[kind], 6, 3
    tokens = encoder.encode(frames, ZipSettings(dominant, contextual, merge="mean"))

    inputs = encoder.preprocess(torch.from_numpy(frames.pixels))
    outputs = eager_outputs(encoder.tower, inputs)
    features = tokens.features.unflatten(0, (3, dominant + contextual))
    patch = tokens.patch.reshape(3, -1)
    attention = outputs.attentions[-2]
    scores = attention[:, :, 0, 1:].sum(1) if has_cls else attention.mean(dim=(1, 2))
    for image in range(3):
        chosen = scores[image].topk(dominant - has_cls).indices.sort().values
        assert patch[image, has_cls:dominant].tolist() == chosen.tolist()
        raw = outputs.hidden_states[-2][image]
        assert_same(features[image, :has_cls], raw[:has_cls])
        assert_same(features[image, has_cls:dominant], raw[has_cls:][chosen])
    assert (patch[:, :has_cls] == -1).all()
    zipped = compress(
        *encoder.score(inputs), dominant, contextual, merge="mean", has_cls=bool(has_cls)
    )
    assert_same(features[:, dominant:], zipped.features[:, dominant:])
    assert patch[:, dominant:].tolist() == (zipped.patch[:, dominant:] - has_cls).tolist()

    roles = [Role.CLS] * has_cls + [Role.DOMINANT] * (dominant - has_cls)
    assert tokens.role.tolist() == (roles + [Role.CONTEXTUAL] * contextual) * 3
    assert tokens.frame.tolist() == [0] * 9 + [1] * 9 + [2] * 9
    assert tokens.pts_s.tolist() == [0.5, 0.75, 1.0]
    assert tokens.source == "clip-0.mp4"
    assert tokens.grid == (4, 4)
    compressed = {"dominant": dominant, "contextual": contextual, "merge": "mean"}
    assert tokens.settings == {**compressed, "cropped": round(1 - 70 / 90, 4)}
    assert tokens.tokens_before == 3 * (PATCHES + has_cls)


@every_kind
def test_without_compression_every_token_stays(kind: str) -> None:
    encoder, frames = encoder_of(kind), random_frames(2)
    tokens = encoder.encode(frames, NO_COMPRESSION)
    outputs = eager_outputs(encoder.tower, encoder.preprocess(torch.from_numpy(frames.pixels)))
    assert_same(tokens.features, outputs.hidden_states[-2].flatten(0, 1))
    has_cls = HAS_CLS[kind]
    assert tokens.patch.tolist() == list(range(-has_cls, PATCHES)) * 2
    assert tokens.role.tolist() == ([Role.CLS] * has_cls + [Role.DOMINANT] * PATCHES) * 2
    assert len(tokens) == tokens.tokens_before


@every_kind
@pytest.mark.parametrize(
    "settings",
    [ZipSettings(), ZipSettings(1, 0), ZipSettings(10, 30), ZipSettings(16, 1), NO_COMPRESSION],
)
def test_tokens_per_frame_are_foretold(kind: str, settings: ZipSettings) -> None:
    encoder = encoder_of(kind)
    each = settings.tokens_per_frame(encoder.tokens)
    assert len(encoder.encode(random_frames(2), settings)) == 2 * each


@every_kind
def test_a_batch_is_its_frames_one_by_one(kind: str) -> None:
    encoder, frames = encoder_of(kind), random_frames(3)
    together = encoder.encode(frames, ZipSettings(6, 3))
    for index in range(3):
        one = FrameBatch(frames.pixels[index : index + 1], frames.pts_s[index : index + 1])
        alone = encoder.encode(one, ZipSettings(6, 3))
        here = together.frame == index
        assert alone.patch.tolist() == together.patch[here].tolist()
        assert_same(alone.features, together.features[torch.from_numpy(here)])


@every_kind
def test_one_frame_across_frames_is_visionzip(kind: str) -> None:
    encoder, frames = encoder_of(kind), random_frames(1)
    alone = encoder.encode(frames, ZipSettings(*split_tokens(9)))
    across = encoder.zip_clip([encoder.look(frames)], ZipSettings(*split_tokens(9)))
    for name in ("frame", "until", "patch", "role"):
        np.testing.assert_array_equal(getattr(across, name), getattr(alone, name))
    assert_same(across.features, alone.features)


@every_kind
def test_a_clip_that_stands_still_spends_its_budget_on_its_one_picture(kind: str) -> None:
    encoder, one = encoder_of(kind), random_frames(1)
    still = FrameBatch(np.repeat(one.pixels, 4, 0), np.arange(4.0))
    tokens = encoder.zip_clip([encoder.look(still)], ZipSettings(4, 1))
    own = 4 * HAS_CLS[kind]  # a CLS is its frame's own
    assert len(tokens) == min(4 * 5, PATCHES + own)
    lasting = tokens.until == 4
    assert lasting.sum() >= len(tokens) - own
    assert len(set(tokens.patch[lasting & (tokens.patch >= 0)])) == len(tokens) - own


def test_fitting_frames_otherwise_leaves_the_encoder_as_it_is() -> None:
    encoder, frames = encoder_of("clip"), random_frames()
    assert encoder.fitted(None) is encoder.fitted("crop") is encoder
    before = encoder.encode(frames, ZipSettings(6, 3))
    padded = encoder.fitted("pad")
    assert padded.tower is encoder.tower
    found = padded.encode(frames, ZipSettings(6, 3))
    own = Encoder(encoder.tower, Preprocess(56, 56, fit="pad"))
    assert torch.equal(found.features, own.encode(frames, ZipSettings(6, 3)).features)
    assert found.settings["cropped"] == 0
    assert torch.equal(encoder.encode(frames, ZipSettings(6, 3)).features, before.features)
    assert not torch.equal(found.features, before.features)


def test_a_stream_is_encoded_as_it_comes() -> None:
    encoder = encoder_of("clip")
    pulled = []

    def camera() -> Iterator[FrameBatch]:
        for seed in range(3):
            pulled.append(seed)
            yield random_frames(2, seed)

    stream = encoder.encode_stream(camera(), ZipSettings(6, 3))
    assert pulled == []
    for seed in range(3):
        tokens = next(stream)
        assert pulled == list(range(seed + 1))
        expected = encoder.encode(random_frames(2, seed), ZipSettings(6, 3))
        assert tokens.source == expected.source
        assert_same(tokens.features, expected.features)
    assert next(stream, None) is None


@every_kind
def test_half_precision_stays_half_precision(kind: str) -> None:
    encoder = Encoder(random_tower(kind).bfloat16(), Preprocess(56, 56))
    scored = encoder.score(random_inputs())
    assert scored.hidden.dtype == torch.bfloat16
    assert scored.scores.dtype == torch.float32
    assert encoder.encode(random_frames(), ZipSettings(6, 3)).features.dtype == torch.bfloat16


BERT = {**SMALL, "intermediate_size": 64, "vocab_size": 8}


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(2, 2),
        lambda: BertModel(BertConfig(**BERT)),
        # Its register tokens stand between the CLS and the patches.
        lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SMALL, image_size=56)),
    ],
)
def test_an_unknown_tower_is_refused(make: Callable[[], nn.Module]) -> None:
    tower = make()
    with pytest.raises(ModelError, match=f"{type(tower).__name__} is not known.*CLIP") as error:
        Encoder(tower, Preprocess(56, 56))
    assert "\n" not in str(error.value)


@every_kind
@pytest.mark.parametrize("feature_layer", [0, -LAYERS - 1, LAYERS + 1, 99])
def test_a_feature_layer_that_is_not_there_is_named(kind: str, feature_layer: int) -> None:
    with pytest.raises(ModelError, match=rf"layer {feature_layer}: .* -4\.\.-1 or 1\.\.4") as error:
        encoder_of(kind, feature_layer)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("clip", ZipSettings(0, 3), r"dominant=0, .*1\.\.17"),
        ("clip", ZipSettings(18, 3), r"dominant=18, .*1\.\.17"),
        ("clip", ZipSettings(5, -1), "contextual=-1: .*at least 0"),
        ("siglip", ZipSettings(17, 3), r"dominant=17, .*0\.\.16"),
        ("siglip", ZipSettings(-1, 3), r"dominant=-1, .*0\.\.16"),
        ("siglip", ZipSettings(0, 0), "dominant=0, contextual=0: .*one token"),
        ("clip", ZipSettings(5, 3, merge="median"), '\'median\'.*"reference" or "mean"'),  # type: ignore[arg-type]
    ],
)
def test_settings_a_tower_cannot_meet_are_named(
    kind: str, settings: ZipSettings, said: str
) -> None:
    with pytest.raises(SettingsError, match=said) as error:
        encoder_of(kind).encode(random_frames(), settings)
    assert "\n" not in str(error.value)


# -- every layer


@every_kind
@every_feature_layer
def test_scores_of_every_layer_are_those_of_eager_attention(kind: str, feature_layer: int) -> None:
    encoder, inputs = encoder_of(kind, feature_layer), random_inputs()
    scores = encoder.score_layers(inputs)[1]
    assert scores.dtype == torch.float32
    attentions = eager_outputs(encoder.tower, inputs).attentions  # (B, H, N, N) of each layer
    depth = feature_layer if feature_layer > 0 else LAYERS + 1 + feature_layer
    assert scores.shape == (depth, 2, encoder.tokens)
    for layer, attention in zip(scores, attentions[:depth], strict=True):
        expected = attention[:, :, 0].sum(1) if HAS_CLS[kind] else attention.mean(dim=(1, 2))
        assert_same(layer, expected)
    for found, alone in zip(encoder.score_layers(inputs)[0], encoder.score(inputs), strict=True):
        torch.testing.assert_close(found, alone, atol=0, rtol=0)
    assert hooks_of(encoder.tower) == []


def test_scores_of_every_layer_are_this_threads_own() -> None:
    encoder, inputs = encoder_of("clip"), random_inputs()
    expected = encoder.score_layers(inputs)[1]

    def score_something_else(*_: Any) -> None:
        interruption.remove()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(encoder.score_layers, random_inputs(seed=1)).result()

    interruption = layers_of(encoder.tower)[1].mlp.register_forward_hook(score_something_else)
    assert_same(encoder.score_layers(inputs)[1], expected)
    assert hooks_of(encoder.tower) == []


def test_no_hook_stays_where_a_layer_fails() -> None:
    encoder = encoder_of("clip")

    def fail(_module: nn.Module, _args: Any) -> None:
        raise MemoryError("no room")

    handle = layers_of(encoder.tower)[1].mlp.register_forward_pre_hook(fail)
    with pytest.raises(MemoryError, match="no room"):
        encoder.score_layers(random_inputs())
    handle.remove()
    assert hooks_of(encoder.tower) == []
