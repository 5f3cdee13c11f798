"""A memory never outgrows its budget, keeps the order of time, and loses no weight."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.tolerances import FEATURES_F32
from vzvideo.visionzip.memory import Memory, Moment, change, merge_moments, merge_tokens

untimed = settings(
    deadline=None, max_examples=60
)  # torch's first call takes longer than any later one
CHANNELS = 4
GRID = (16, 16)
LONG = 3000  # frames: many more than any budget here


def moment(
    features: Tensor, start_s: float = 0.0, end_s: float | None = None, role: Tensor | None = None
) -> Moment:
    """A moment whose tokens were all seen at its start; the first is a CLS."""
    count = len(features)
    return Moment(
        features,
        torch.tensor([0] + [1] * (count - 1)) if role is None else role,
        torch.arange(count),
        torch.full((count,), start_s, dtype=torch.float64),
        torch.ones(count),
        start_s,
        start_s if end_s is None else end_s,
        GRID,
    )


def random_moment(seed: int, start_s: float, count: int = 4, channels: int = CHANNELS) -> Moment:
    random = torch.Generator().manual_seed(seed)
    return moment(torch.randn(count, channels, generator=random), start_s)


def remembered(moments: Iterable[Moment], budget: int) -> Memory:
    memory = Memory(budget)
    for one in moments:
        memory = memory.add(one)
    return memory


def total(moments: Iterable[Moment]) -> float:
    return sum(one.weight.double().sum().item() for one in moments)


def mean(moments: Iterable[Moment]) -> Tensor:
    """Of all tokens by their weight, in double precision."""
    features = torch.cat([one.features.double() for one in moments])
    weight = torch.cat([one.weight.double() for one in moments])
    return (features * weight[:, None]).sum(0) / weight.sum()


def tensors(moments: Iterable[Moment]) -> list[Tensor]:
    return [getattr(one, name) for one in moments for name in Moment.TENSORS]


@st.composite
def moments(draw: st.DrawFn, least: int = 1) -> Moment:
    """One moment: two roles, features of few values, so that there are ties and zeros."""
    count = draw(st.integers(least, 9))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    return moment(
        torch.randint(-1, 2, (count, CHANNELS), generator=random).float(),
        role=torch.randint(0, 2, (count,), generator=random),
    )


@dataclass(frozen=True)
class Stream:
    moments: list[Moment]
    budget: int


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Moments that follow at once or after a gap, of no length or some, and of any size."""
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    waits = st.sampled_from([0.0, 0.0, 0.04, 1.0, 3600.0])
    end_s = draw(st.sampled_from([-5.0, 0.0, 1e6]))
    stream = []
    for _ in range(draw(st.integers(1, 24))):
        start_s = end_s + draw(waits)
        end_s = start_s + draw(waits)
        count = draw(st.integers(1, 6))
        times = start_s + (end_s - start_s) * torch.rand(count, generator=random).double()
        stream.append(
            Moment(
                torch.randint(-2, 3, (count, CHANNELS), generator=random) / 2,
                torch.randint(0, 2, (count,), generator=random),
                torch.randint(0, 257, (count,), generator=random),
                times.clamp(start_s, end_s).sort().values,
                torch.ones(count),
                start_s,
                end_s,
                GRID,
            )
        )
    return Stream(stream, draw(st.integers(1, 30)))


@untimed
@given(streams())
def test_never_over_budget_and_nothing_is_thrown_away_before(stream: Stream) -> None:
    memory, given_ = Memory(stream.budget), 0
    for one in stream.moments:
        memory, given_ = memory.add(one), given_ + len(one)
        assert memory.tokens <= stream.budget
        assert memory.tokens == sum(map(len, memory.moments)) >= 1
        if given_ <= stream.budget:
            assert memory.tokens == given_


@untimed
@given(streams())
def test_time_only_goes_forward(stream: Stream) -> None:
    memory = Memory(stream.budget)
    for one in stream.moments:
        memory = memory.add(one)
        times = torch.cat([kept.pts_s for kept in memory.moments])
        assert times.dtype == torch.float64
        assert (times.diff() >= 0).all()
        for kept in memory.moments:
            assert kept.start_s <= kept.pts_s[0] <= kept.pts_s[-1] <= kept.end_s
        for before, after in zip(memory.moments, memory.moments[1:], strict=False):
            assert before.end_s <= after.start_s
        assert memory.start_s == stream.moments[0].start_s
        assert memory.end_s == one.end_s


@untimed
@given(streams())
def test_no_weight_is_lost_and_features_stay_the_weighted_mean(stream: Stream) -> None:
    memory = remembered(stream.moments, stream.budget)
    assert total(memory.moments) == total(stream.moments)
    torch.testing.assert_close(
        mean(memory.moments), mean(stream.moments), rtol=0, atol=FEATURES_F32
    )


@untimed
@given(streams())
def test_labels_are_those_of_tokens_that_came_in(stream: Stream) -> None:
    memory = remembered(stream.moments, stream.budget)

    def seen(moments: Iterable[Moment]) -> set[tuple[int, float]]:
        labels = [zip(one.patch.tolist(), one.pts_s.tolist(), strict=True) for one in moments]
        return set(chain.from_iterable(labels))

    assert seen(memory.moments) <= seen(stream.moments)


@untimed
@given(streams())
def test_the_same_stream_leaves_the_same_memory(stream: Stream) -> None:
    one, other = (remembered(stream.moments, stream.budget) for _ in range(2))
    assert one.changes == other.changes
    pairs = zip(tensors(one.moments), tensors(other.moments), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)


@untimed
@given(streams())
def test_each_change_is_that_between_two_neighbours(stream: Stream) -> None:
    memory = remembered(stream.moments, stream.budget)
    neighbours = zip(memory.moments, memory.moments[1:], strict=False)
    assert memory.changes == tuple(change(earlier, later) for earlier, later in neighbours)


@untimed
@given(streams())
def test_what_was_given_and_what_was_remembered_is_never_written_into(stream: Stream) -> None:
    memory = Memory(stream.budget)
    snapshots = [(tuple(stream.moments), [t.clone() for t in tensors(stream.moments)])]
    for one in stream.moments:
        memory = memory.add(one)
        snapshots.append((memory.moments, [t.clone() for t in tensors(memory.moments)]))
    for kept, before in snapshots:
        assert all(map(torch.equal, tensors(kept), before))


def test_places_keep_their_share_of_the_frame_in_another_grid() -> None:
    tall = replace(moment(torch.ones(4, CHANNELS)), patch=torch.tensor([-1, 0, 5, 7]), grid=(4, 2))
    wide = tall.on_grid((2, 4))
    assert wide.patch.tolist() == [-1, 0, 6, 6]  # rows 2 and 3 of four are row 1 of two
    assert wide.grid == (2, 4)
    later = replace(tall, start_s=1.0, end_s=1.0)
    memory = Memory(40).add(wide).add(later)
    assert [each.grid for each in memory.moments] == [(2, 4)] * 2
    assert memory.moments[1].patch.tolist() == [-1, 0, 6, 6]


def test_the_start_is_remembered_however_long_the_stream() -> None:
    memory = remembered((random_moment(i, float(i), 2, 3) for i in range(LONG)), 16)
    first, last = memory.moments[0], memory.moments[-1]
    assert first.start_s == first.pts_s[0] == 0
    assert memory.end_s == LONG - 1
    assert (first.patch[0], first.role[0]) == (0, 0)
    assert total(memory.moments) == 2 * LONG
    assert torch.equal(last.features, random_moment(LONG - 1, 0.0, 2, 3).features)


def test_what_is_near_is_remembered_in_more_moments_than_what_is_far() -> None:
    memory = remembered((random_moment(i, float(i)) for i in range(1200)), 40 * 4)
    ages = [memory.end_s - one.start_s for one in memory.moments]
    tenfolds = [(0, 10), (10, 100), (100, 1000)]
    within = [sum(low <= age < high for age in ages) for low, high in tenfolds]
    assert 40 <= len(memory.moments) <= 80  # those further back in fewer tokens each
    assert min(within) >= 5
    assert within[0] / 10 > within[1] / 90 > within[2] / 900
    lengths = [one.end_s - one.start_s for one in memory.moments]
    assert max(lengths[-5:]) < 10 < max(lengths[:5])


def test_an_even_stretch_takes_fewer_moments_than_a_changing_one() -> None:
    dull = random_moment(0, 0.0).features
    stream = [
        moment(dull if i < 200 else random_moment(i, 0.0).features, float(i)) for i in range(400)
    ]
    memory = remembered(stream, 30 * 4)
    assert sum(one.end_s < 200 for one in memory.moments) <= 2


@pytest.mark.parametrize("keep", [2, 3, 10])
@pytest.mark.parametrize("place", [1, 20, 39])
def test_one_odd_token_among_many_alike_survives(place: int, keep: int) -> None:
    random = torch.Generator().manual_seed(0)
    features = torch.tensor([1.0, 0, 0, 0]) + 0.1 * torch.rand(40, CHANNELS, generator=random)
    features[place] = torch.tensor([0.0, 0, 0, -3])
    many = moment(features, role=torch.ones(40, dtype=torch.int64))
    many.weight[:] = 1000
    many.weight[place] = 1
    small = merge_tokens(many, keep)
    (at,) = torch.nonzero(small.patch == place)
    assert torch.equal(small.features[at[0]], features[place])
    assert small.weight[at[0]] == 1


def test_a_short_scene_survives_a_long_dull_stream() -> None:
    odd = torch.tensor([0.0, 0, 0, 2])

    def frame(index: int) -> Moment:
        dull = random_moment(index, float(index)).features.abs()
        dull[:, 3] = 0
        if 100 <= index < 103:
            dull[2] = odd
        return moment(dull, float(index))

    memory = remembered(map(frame, range(1200)), 40)
    found = [
        at_s
        for one in memory.moments
        for token, at_s in zip(one.features, one.pts_s.tolist(), strict=True)
        if torch.allclose(token, odd, rtol=0, atol=FEATURES_F32)
    ]
    assert found
    assert all(100 <= at_s < 103 for at_s in found)
    (told,) = memory.between(100, 100)
    assert torch.isclose(told.features, odd, rtol=0, atol=FEATURES_F32).all(dim=1).any()


def opposites() -> Moment:
    """Two CLS that have nothing in common, and a patch just like the first."""
    return moment(torch.tensor([[1.0, 0], [1, 0], [-1, 0]]), role=torch.tensor([0, 1, 0]))


@untimed
@given(moments(), st.integers(1, 9))
@example(opposites(), 2)
def test_a_role_goes_into_another_only_where_nothing_else_is_left(one: Moment, keep: int) -> None:
    small = merge_tokens(one, keep)
    roles = one.role.unique()
    assert len(small) == min(keep, len(one))
    if keep >= len(roles):
        for role in roles:
            assert small.weight[small.role == role].sum() == (one.role == role).sum()
    else:
        assert small.role.tolist() == [0]  # a CLS with anything in it is a CLS


@untimed
@given(moments(), st.integers(1, 9))
def test_what_fits_is_left_alone(one: Moment, more: int) -> None:
    assert merge_tokens(one, len(one)) is one
    assert merge_tokens(one, len(one) + more) is one


@untimed
@given(moments(least=2))
def test_the_two_most_alike_become_their_mean(one: Moment) -> None:
    small = merge_tokens(one, len(one) - 1)
    (gone,) = set(one.patch.tolist()) - set(small.patch.tolist())
    (into,) = small.patch[small.weight == 2].tolist()
    assert into < gone  # the earlier one's place stays
    torch.testing.assert_close(
        small.features[small.patch == into][0],
        (one.features[into] + one.features[gone]) / 2,
        rtol=0,
        atol=FEATURES_F32,
    )
    unit = torch.nn.functional.normalize(one.features.double(), dim=-1)
    alike = unit @ unit.T
    same_role = one.role[:, None] == one.role
    pairs = same_role.triu(1) if same_role.triu(1).any() else torch.ones_like(same_role).triu(1)
    assert alike[into, gone] >= alike[pairs].max() - FEATURES_F32


def test_two_moments_joined_span_both() -> None:
    earlier, later = random_moment(0, 1.0, 3), random_moment(1, 5.0, 2)
    both = merge_moments(earlier, later, 4)
    assert (both.start_s, both.end_s, len(both)) == (1.0, 5.0, 4)
    whole = merge_moments(earlier, later, 9)
    assert torch.equal(whole.features, torch.cat([earlier.features, later.features]))
    assert whole.pts_s.tolist() == [1.0] * 3 + [5.0] * 2


@untimed
@given(moments(), moments())
def test_change_is_the_same_both_ways_and_between_0_and_2(one: Moment, other: Moment) -> None:
    there, back = change(one, other), change(other, one)
    assert there == pytest.approx(back, abs=FEATURES_F32)
    assert 0 <= there <= 2 + FEATURES_F32


def test_change_tells_nothing_new_from_all_new() -> None:
    one = moment(torch.eye(4)[:2])
    assert change(one, moment(torch.eye(4)[:2] * 7)) == pytest.approx(0, abs=FEATURES_F32)
    assert change(one, moment(torch.eye(4)[2:])) == pytest.approx(1, abs=FEATURES_F32)
    assert change(one, moment(-torch.ones(2, 4))) > 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_keep_their_precision(dtype: torch.dtype) -> None:
    stream = [random_moment(i, float(i)) for i in range(50)]
    stream = [moment(one.features.to(dtype), one.start_s) for one in stream]
    memory = remembered(stream, 10)
    assert {one.features.dtype for one in memory.moments} == {dtype}
    assert {one.weight.dtype for one in memory.moments} == {torch.float32}
    assert {one.role.dtype for one in memory.moments} == {torch.int64}


def test_many_large_tokens_do_not_overflow_half_precision() -> None:
    large = torch.full((4, CHANNELS), 30000.0, dtype=torch.float16)  # three of them sum to more
    memory = remembered((moment(large, float(i)) for i in range(100)), 4)
    assert all(torch.equal(one.features, large[: len(one)]) for one in memory.moments)
    assert total(memory.moments) == 400


def test_a_moment_larger_than_the_budget_is_zipped_into_it() -> None:
    memory = Memory(3).add(random_moment(0, 0.0, 20))
    assert memory.tokens == 3
    assert total(memory.moments) == 20
    memory = memory.add(random_moment(1, 1.0, 20))
    assert memory.tokens == 3
    assert (memory.start_s, memory.end_s) == (0.0, 1.0)


@pytest.mark.parametrize("start_s", [1.999, 0.0, -1.0])
def test_a_moment_before_the_end_of_the_memory_is_refused(start_s: float) -> None:
    memory = Memory(8).add(moment(torch.eye(4), 1.0, 2.0))
    with pytest.raises(ValueError, match=f"{start_s} s, behind one that ends 2.0 s"):
        memory.add(moment(torch.eye(4), start_s, 3.0))
    assert memory.add(moment(torch.eye(4), 2.0, 3.0)).end_s == 3.0  # at the end is behind it


def test_an_empty_memory_has_no_times() -> None:
    memory = Memory(8)
    assert (memory.tokens, memory.start_s, memory.end_s) == (0, -math.inf, -math.inf)
    assert memory.between(-math.inf, math.inf) == ()
    assert memory.extend_to(5.0) is memory


def test_nothing_changed_lasts() -> None:
    memory = remembered([random_moment(0, 0.0), random_moment(1, 2.0)], 20)
    lasted = memory.extend_to(7.5)
    assert (memory.end_s, lasted.end_s) == (2.0, 7.5)
    assert lasted.moments[0] is memory.moments[0]
    assert lasted.moments[1].features is memory.moments[1].features
    assert lasted.between(7, 7) == lasted.moments[1:]
    assert memory.between(7, 7) == ()
    assert lasted.changes == memory.changes
    assert memory.extend_to(2.0) is memory.extend_to(1.0) is memory  # never backwards
    with pytest.raises(ValueError, match=r"ends 7\.5 s"):
        lasted.add(random_moment(2, 7.0))


@pytest.mark.parametrize(
    ("since_s", "until_s", "found"),
    [
        (0, 100, [0, 1, 2]),
        (10, 20, [0]),
        (20, 30, [0, 1]),  # both ends are part of it
        (15, 15, [0]),
        (20, 20, [0]),
        (30, 30, [1]),
        (30, 41, [1, 2]),
        (22, 28, [0]),  # between two: what was to be seen then
        (36, 39, [1]),
        (22, 45, [1, 2]),
        (0, 9, []),
        (0, 10, [0]),
        (51, 60, []),
        (50, 60, [2]),
        (-math.inf, math.inf, [0, 1, 2]),
    ],
)
def test_between(since_s: float, until_s: float, found: list[int]) -> None:
    spans = [(10.0, 20.0), (30.0, 35.0), (40.0, 50.0)]
    memory = remembered((moment(torch.eye(4), *span) for span in spans), 100)
    expected = tuple(memory.moments[index] for index in found)
    assert memory.between(since_s, until_s) == expected


@untimed
@given(streams(), st.floats(0, 1))
def test_at_any_time_of_the_stream_something_is_remembered(stream: Stream, part: float) -> None:
    memory = remembered(stream.moments, stream.budget)
    at_s = min(memory.start_s + part * (memory.end_s - memory.start_s), memory.end_s)
    found = memory.between(at_s, at_s)
    assert found
    assert all(one.start_s <= at_s for one in found)
