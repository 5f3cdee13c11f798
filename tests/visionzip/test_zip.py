"""`compress` against VisionZip written out once more, slowly: loops over tokens in plain Python."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.tolerances import FEATURES_F32
from vzvideo.visionzip import Zipped, compress

untimed = settings(deadline=None)  # torch's first call takes longer than any later one

# batch, tokens, dominant, contextual
SHAPES = [
    (1, 257, 54, 10),  # the paper's 64 of CLIP ViT-L/14
    (2, 257, 14, 3),  # the default here
    (2, 257, 192, 64),  # R = 65 for 64 targets
    (3, 17, 5, 3),  # R divides evenly
    (3, 17, 5, 5),  # R = 12 does not
    (2, 18, 5, 7),  # 7 targets of 13, step 1: all at the front
    (2, 10, 4, 6),  # every one left is a target
    (2, 10, 8, 5),  # fewer left than targets wanted
    (2, 10, 9, 1),  # one left
    (2, 10, 10, 4),  # nothing left
    (2, 10, 4, 0),  # the rest dropped
    (4, 7, 1, 2),
    (1, 2, 1, 1),
    (1, 1, 1, 0),
    (1, 1, 1, 3),
]
SHAPES_WITHOUT_CLS = [*SHAPES, (2, 16, 0, 4), (1, 1, 0, 1)]


def loop_oracle(
    hidden: Any,
    scores: Any,
    keys: Any,
    dominant: int,
    contextual: int,
    merge: str = "reference",
    has_cls: bool = True,
) -> tuple[list[list[float]], list[int], list[int]]:
    """One image as nested lists -> its features, patch and assignment (paper, 3.2 and 3.3)."""
    tokens = range(len(hidden))
    kept = {0} if has_cls else set()
    while len(kept) < dominant:
        best = None
        for token in tokens:
            if token not in kept and (best is None or scores[token] > scores[best]):
                best = token
        kept.add(best)
    features, patch, assignment = [], [], [-1] * len(hidden)
    for token in tokens:
        if token in kept:
            assignment[token] = len(patch)
            patch.append(token)
            features.append(hidden[token])

    rest = [token for token in tokens if token not in kept]
    if not rest or contextual == 0:
        return features, patch, assignment
    targets = rest[:: max(1, len(rest) // contextual)][:contextual]
    joined: dict[int, list[int]] = {target: [] for target in targets}
    for token in rest:
        if token in joined:
            continue
        best = targets[0]
        for target in targets:
            if cosine(keys[token], keys[target]) > cosine(keys[token], keys[best]):
                best = target
        joined[best].append(token)
    for target, others in joined.items():
        for token in (target, *others):
            assignment[token] = len(patch)
        patch.append(target)
        features.append(merged(hidden[target], [hidden[token] for token in others], merge))
    return features, patch, assignment


def cosine(one: list[float], other: list[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / (math.hypot(*one) * math.hypot(*other))


def merged(target: list[float], others: list[list[float]], merge: str) -> list[float]:
    if not others:
        return target
    sums = [sum(channel) for channel in zip(*others, strict=True)]
    if merge == "reference":
        return [value + total / len(others) for value, total in zip(target, sums, strict=True)]
    return [(value + total) / (len(others) + 1) for value, total in zip(target, sums, strict=True)]


class Inputs(NamedTuple):
    hidden: Tensor
    scores: Tensor
    keys: Tensor


def random_inputs(batch: int, tokens: int, seed: int = 0) -> Inputs:
    random = torch.Generator().manual_seed(seed)
    return Inputs(
        torch.randn(batch, tokens, 5, generator=random),
        torch.rand(batch, tokens, generator=random),
        torch.randn(batch, tokens, 8, generator=random),
    )


def assert_as_oracle(zipped: Zipped, inputs: Inputs, *args: Any, **kwargs: Any) -> None:
    for image, (features, patch, assignment) in enumerate(zip(*zipped, strict=True)):
        lists = (values[image].tolist() for values in inputs)
        expected, expected_patch, expected_assignment = loop_oracle(*lists, *args, **kwargs)
        assert patch.tolist() == expected_patch
        assert assignment.tolist() == expected_assignment
        torch.testing.assert_close(
            features, torch.tensor(expected, dtype=features.dtype), rtol=0, atol=FEATURES_F32
        )


@pytest.mark.parametrize("merge", ["reference", "mean"])
@pytest.mark.parametrize(
    ("shape", "has_cls"),
    [(shape, True) for shape in SHAPES] + [(shape, False) for shape in SHAPES_WITHOUT_CLS],
)
def test_is_the_reference(shape: tuple[int, int, int, int], has_cls: bool, merge: Any) -> None:
    batch, tokens, *counts = shape
    for seed in range(2 if tokens > 100 else 10):
        inputs = random_inputs(batch, tokens, seed)
        zipped = compress(*inputs, *counts, merge=merge, has_cls=has_cls)
        assert_as_oracle(zipped, inputs, *counts, merge=merge, has_cls=has_cls)


@pytest.mark.parametrize("has_cls", [True, False])
def test_of_equal_scores_the_earlier_token_wins(has_cls: bool) -> None:
    hidden, scores, keys = random_inputs(4, 257)
    inputs = Inputs(hidden, (scores * 4).floor(), keys)
    zipped = compress(*inputs, 54, 10, has_cls=has_cls)
    assert_as_oracle(zipped, inputs, 54, 10, has_cls=has_cls)


def test_of_equal_similarities_the_earlier_target_wins() -> None:
    hidden, scores, _ = random_inputs(2, 40)
    inputs = Inputs(hidden, scores, torch.ones(2, 40, 4))
    _, _, assignment = zipped = compress(*inputs, 5, 7)
    assert_as_oracle(zipped, inputs, 5, 7)
    assert ((assignment == 5).sum(1) == 40 - 5 - 6).all()  # all but the other targets


def test_the_cls_is_kept_whatever_its_score() -> None:
    hidden, scores, keys = random_inputs(2, 17)
    scores[:, 0] = -1
    assert (compress(hidden, scores, keys, 1, 3).patch[:, 0] == 0).all()
    assert (compress(hidden, scores, keys, 1, 3, has_cls=False).patch[:, 0] != 0).all()


@st.composite
def problems(
    draw: st.DrawFn, least_contextual: int = 0
) -> tuple[Inputs, int, int, dict[str, bool | str]]:
    """Inputs with ties in scores and in keys, and counts that fit them.

    Keys of 16 signs have norm 4 and similarities in sixteenths, which are exact in floating point
    whatever the order of summing: equal ones are equal on any machine.
    """
    has_cls = draw(st.booleans())
    batch, tokens = draw(st.integers(1, 3)), draw(st.integers(1, 24))
    dominant = draw(st.integers(1 if has_cls else 0, tokens))
    contextual = draw(st.integers(max(least_contextual, 0 if dominant else 1), 8))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    inputs = Inputs(
        torch.randn(batch, tokens, 4, generator=random),
        torch.randint(0, 6, (batch, tokens), generator=random).float(),
        torch.randint(0, 2, (batch, tokens, 16), generator=random) * 2.0 - 1,
    )
    merge = draw(st.sampled_from(["reference", "mean"]))
    return inputs, dominant, contextual, {"merge": merge, "has_cls": has_cls}


@untimed
@given(problems())
def test_any_problem_is_solved_as_the_reference_does(problem: Any) -> None:
    inputs, dominant, contextual, options = problem
    zipped = compress(*inputs, dominant, contextual, **options)
    assert_as_oracle(zipped, inputs, dominant, contextual, **options)


@untimed
@given(problems())
def test_a_batch_is_its_images_one_by_one(problem: Any) -> None:
    inputs, dominant, contextual, options = problem
    whole = compress(*inputs, dominant, contextual, **options)
    for image in range(len(inputs.hidden)):
        alone = (values[image : image + 1] for values in inputs)
        single = compress(*alone, dominant, contextual, **options)
        torch.testing.assert_close(
            single,
            Zipped(*(values[image : image + 1] for values in whole)),
            rtol=0,
            atol=FEATURES_F32,
        )


@untimed
@given(problems())
def test_dominant_rows_are_bit_exact_copies_in_raster_order(problem: Any) -> None:
    inputs, dominant, contextual, options = problem
    features, patch, _ = compress(*inputs, dominant, contextual, **options)
    assert (patch[:, :dominant].diff(dim=1) > 0).all()
    for image, kept in enumerate(patch[:, :dominant]):
        assert torch.equal(features[image, :dominant], inputs.hidden[image][kept])


@untimed
@given(problems(), st.randoms(use_true_random=False))
def test_moving_patches_about_moves_the_choice_with_them(problem: Any, random: Any) -> None:
    inputs, dominant, contextual, options = problem
    tokens = inputs.hidden.shape[1]
    first_patch = 1 if options["has_cls"] else 0
    distinct = torch.tensor([random.sample(range(tokens), tokens) for _ in inputs.hidden]).float()
    order = [*range(first_patch), *random.sample(range(first_patch, tokens), tokens - first_patch)]
    _, before, _ = compress(inputs.hidden, distinct, inputs.keys, dominant, contextual, **options)
    _, after, _ = compress(
        inputs.hidden[:, order],
        distinct[:, order],
        inputs.keys[:, order],
        dominant,
        contextual,
        **options,
    )
    for was, now in zip(before.tolist(), after.tolist(), strict=True):
        assert {order[token] for token in now[:dominant]} == set(was[:dominant])


@untimed
@given(problems(least_contextual=1))
def test_every_token_goes_into_one_output(problem: Any) -> None:
    inputs, dominant, contextual, options = problem
    features, patch, assignment = compress(*inputs, dominant, contextual, **options)
    batch, outputs, _ = features.shape
    every_output = torch.arange(outputs).expand(batch, -1)
    assert outputs == dominant + min(contextual, inputs.hidden.shape[1] - dominant)
    assert assignment.min() >= 0
    assert assignment.max() < outputs
    assert torch.equal(assignment.gather(1, patch), every_output)  # each stands for itself
    assert all((row.bincount()[:dominant] == 1).all() for row in assignment)


@untimed
@given(problems())
def test_features_can_be_rebuilt_from_the_assignment(problem: Any) -> None:
    inputs, dominant, contextual, options = problem
    features, patch, assignment = compress(*inputs, dominant, contextual, **options)
    for image, hidden in enumerate(inputs.hidden):
        for output, target in enumerate(patch[image]):
            members = assignment[image] == output
            members[target] = False
            if options["merge"] == "mean":
                members[target] = True
                rebuilt = hidden[members].mean(0)
            else:
                rebuilt = hidden[target] + (hidden[members].mean(0) if members.any() else 0)
            torch.testing.assert_close(features[image, output], rebuilt, rtol=0, atol=FEATURES_F32)


@untimed
@given(problems(), st.integers(0, 2**32 - 1))
def test_the_length_of_a_key_does_not_matter(problem: Any, seed: int) -> None:
    inputs, dominant, contextual, options = problem
    random = torch.Generator().manual_seed(seed)
    # Powers of two scale a key without rounding it, so that nothing may change at all.
    lengths = 2.0 ** torch.randint(-8, 9, (*inputs.scores.shape, 1), generator=random)
    scaled = compress(
        inputs.hidden, inputs.scores, inputs.keys * lengths, dominant, contextual, **options
    )
    zipped = compress(*inputs, dominant, contextual, **options)
    assert all(torch.equal(one, other) for one, other in zip(scaled, zipped, strict=True))


def test_inputs_are_left_as_they_were() -> None:
    inputs = random_inputs(2, 17)
    compress(*inputs, 5, 3)
    assert all(map(torch.equal, inputs, random_inputs(2, 17)))


@pytest.mark.parametrize("merge", ["reference", "mean"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_keep_their_precision(dtype: torch.dtype, merge: Any) -> None:
    inputs = Inputs(*(values.to(dtype) for values in random_inputs(2, 257)))
    zipped = compress(*inputs, 54, 10, merge=merge)
    assert zipped.features.dtype == dtype
    assert zipped.patch.dtype == zipped.assignment.dtype == torch.int64
    # Merged in single precision at least, and rounded once.
    working = torch.finfo(torch.promote_types(dtype, torch.float32))
    for image, (features, patch, assignment) in enumerate(zip(*zipped, strict=True)):
        lists = (values[image].tolist() for values in inputs)
        expected, expected_patch, expected_assignment = loop_oracle(*lists, 54, 10, merge)
        assert patch.tolist() == expected_patch
        assert assignment.tolist() == expected_assignment
        torch.testing.assert_close(
            features.double(),
            torch.tensor(expected, dtype=torch.float64),
            rtol=torch.finfo(dtype).eps / 2,
            atol=8 * working.eps,
        )


@pytest.mark.parametrize(("merge", "expected"), [("reference", 1000.0), ("mean", 500.0)])
def test_many_large_tokens_do_not_overflow_half_precision(merge: Any, expected: float) -> None:
    hidden = torch.full((1, 257, 2), 500.0, dtype=torch.float16)  # 255 of them sum to 127500
    _, scores, keys = random_inputs(1, 257)
    features = compress(hidden, scores, keys, 1, 1, merge=merge).features
    assert features[0, 1].tolist() == [expected, expected]


@pytest.mark.parametrize("merge", ["reference", "mean"])
@pytest.mark.parametrize("contextual", [0, 3])
def test_gradient_in_hidden_is_that_of_finite_differences(merge: Any, contextual: int) -> None:
    hidden, scores, keys = (values.double() for values in random_inputs(2, 11))
    hidden.requires_grad_()

    def features(hidden: Tensor) -> Tensor:
        return compress(hidden, scores, keys, 4, contextual, merge=merge).features

    assert torch.autograd.gradcheck(features, hidden)
    features(hidden).sum().backward()
    reached = (hidden.grad != 0).all(dim=2).sum(dim=1)
    assert reached.tolist() == ([11, 11] if contextual else [4, 4])


@pytest.mark.parametrize(
    ("hidden", "scores", "keys"),
    [
        ((2, 9, 4), (2, 8), (2, 9, 4)),
        ((2, 9, 4), (1, 9), (2, 9, 4)),
        ((2, 9, 4), (2, 9, 1), (2, 9, 4)),
        ((2, 9, 4), (2, 9), (2, 8, 4)),
        ((2, 9, 4), (2, 9), (1, 9, 4)),
        ((2, 9, 4), (2, 9), (2, 9)),
        ((2, 9, 4), (2, 9), (2, 9, 9, 4)),
        ((9, 4), (9,), (9, 4)),
    ],
)
def test_shapes_that_disagree_are_named(hidden: Any, scores: Any, keys: Any) -> None:
    with pytest.raises(ValueError, match=r"hidden \(.*scores \(.*keys \(.*must") as error:
        compress(torch.ones(hidden), torch.ones(scores), torch.ones(keys), 3, 2)
    assert all(str(shape) in str(error.value) for shape in (hidden, scores, keys))


@pytest.mark.parametrize(
    ("dominant", "contextual", "has_cls"),
    [(0, 2, True), (10, 2, True), (-1, 2, False), (10, 0, False), (3, -1, True), (0, 0, False)],
)
def test_counts_out_of_range_are_named(dominant: int, contextual: int, has_cls: bool) -> None:
    with pytest.raises(ValueError, match=f"dominant={dominant}, contextual={contextual}: of 9"):
        compress(*random_inputs(1, 9), dominant, contextual, has_cls=has_cls)


def test_an_unknown_merge_lists_the_choices() -> None:
    merge: Any = "median"
    with pytest.raises(ValueError, match='merge=\'median\': choose "reference" or "mean"'):
        compress(*random_inputs(1, 9), 3, 2, merge=merge)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_reference_on_cuda(shape: tuple[int, int, int, int]) -> None:
    batch, tokens, *counts = shape
    hidden, scores, keys = random_inputs(batch, tokens)
    for inputs in (Inputs(hidden, scores, keys), Inputs(hidden, (scores * 4).floor(), keys)):
        zipped = compress(*(values.cuda() for values in inputs), *counts)
        assert {values.device.type for values in zipped} == {"cuda"}
        assert_as_oracle(Zipped(*(values.cpu() for values in zipped)), inputs, *counts)
