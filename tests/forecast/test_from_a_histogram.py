"""Batches out of a histogram are those of a plan: exactly where rows are one pool, alike where they are several."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import plan
from pipeline.batching import Boundaries, Budget, Plan, Policy, Rows, Shapes
from pipeline.batching.ranks import divided
from pipeline.errors import LengthError, OptionError, ShapeError
from pipeline.forecast import Histogram
from pipeline.forecast.drawn import drawn
from pipeline.forecast.runs import Runs, what_is_left
from support.untyped import loosely

POLICIES: list[Callable[[], Policy]] = [
    lambda: Rows(3, batches_per_sort=None),
    lambda: Budget(24, batches_per_sort=None),
    lambda: Budget(24, rows=5, quadratic=6, longest=9, too_long="truncate", batches_per_sort=None),
    lambda: Budget(12, longest=4, too_long="split", batches_per_sort=None),
    lambda: Budget(5, too_long="alone", batches_per_sort=None),
    lambda: Boundaries((2, 5), max_padded_steps=24, batches_per_sort=None),
    lambda: Boundaries((1, 7), rows=2, batches_per_sort=None),
    lambda: Shapes([(6, 2), (4, 5), (2, 9)], batches_per_sort=None),
]


def lognormal(rows: int, longest: int = 300) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Lengths as sentences have them."""
    drawn_lengths = np.random.default_rng(0).lognormal(2.8, 0.6, rows)
    return np.clip(drawn_lengths.astype(np.int64), 1, longest)


def facts(planned: Plan) -> Counter[tuple[int, ...]]:
    """Each batch's shape, rows and steps; how often there is such a batch."""
    rows: list[int] = (planned.stops - planned.starts).tolist()
    shapes: list[list[int]] = planned.shapes.tolist()
    steps: list[int] = planned.steps.tolist()
    return Counter((*shape, count, real) for shape, count, real in zip(shapes, rows, steps, strict=True))


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=60),
    policy=st.sampled_from(POLICIES),
    world_size=st.integers(1, 3),
)
def test_one_pool_is_exact(lengths: list[int], policy: Callable[[], Policy], world_size: int) -> None:
    """The same batches as a plan's, shape by shape, where the rows go round."""
    wanted = Plan.of(lengths, policy(), world_size=world_size)
    found = drawn(Histogram.of(lengths), policy(), world_size, seed=0)
    assert found.whole
    if not len(wanted.repeated):
        assert facts(found.plan(1, seed=0)) == facts(wanted)


@pytest.mark.parametrize("policy", [Budget(1_024), Rows(30), Boundaries((10, 30), max_padded_steps=1_024)])
def test_several_pools_are_alike(policy: Policy) -> None:
    """Padding, batches, and mates that meet again come near those of the plan."""
    lengths = lognormal(60_000)
    exact = next(iter(plan(lengths, policy, world_size=2).outlooks.values()))
    rough = next(iter(plan(Histogram.of(lengths), policy, world_size=2).outlooks.values()))
    assert exact.exact
    assert not rough.exact
    assert rough.report.rows == exact.report.rows == 60_000
    assert rough.report.steps == exact.report.steps == lengths.sum()
    assert rough.batches == pytest.approx(exact.batches, rel=0.02)
    assert rough.report.wasted == pytest.approx(exact.report.wasted, rel=0.15)
    assert rough.mates == pytest.approx(exact.mates, rel=0.15)
    assert abs(rough.correlation) < 4 / rough.batches**0.5


def test_some_pools_stand_for_many() -> None:
    """Of more than 64 pools, some are drawn; rows and steps are those of all."""
    lengths = lognormal(60_000)
    policy = Budget(512, batches_per_sort=10)
    exact = next(iter(plan(lengths, policy).outlooks.values()))
    found = drawn(Histogram.of(lengths), policy, 1, seed=0)
    rough = next(iter(plan(Histogram.of(lengths), policy).outlooks.values()))
    assert not found.whole
    assert (rough.report.rows, rough.report.steps) == (60_000, int(lengths.sum()))
    assert rough.report.batches == pytest.approx(exact.report.batches, rel=0.02)
    assert rough.report.wasted == pytest.approx(exact.report.wasted, rel=0.1)
    assert rough.mates == pytest.approx(exact.mates, rel=0.2)


def test_mates_among_equals_meet_by_chance_alone() -> None:
    """Of six rows of one length, two by two, a row has one of five mates; in two pools, half as often."""
    of_one_pool = drawn(Histogram.from_counts({5: 6}), Budget(10, batches_per_sort=None), 1, seed=0)
    assert of_one_pool.mates == pytest.approx(1 / 5, abs=0.01)
    of_two = drawn(Histogram.from_counts({5: 400}), Budget(50, batches_per_sort=20), 1, seed=0)
    assert of_two.mates == pytest.approx(9 / 199 / 2, rel=0.1)


def test_a_hundred_million_rows_are_never_looked_at() -> None:
    """Their figures are those of a hundred thousand, a thousand times as many."""
    few = Histogram.of(lognormal(100_000))
    many = Histogram(few.lengths, few.counts * 1_000)
    for small, large in zip(plan(few).outlooks.values(), plan(many).outlooks.values(), strict=True):
        assert large.report.rows == 100_000_000
        assert large.report.steps == 1_000 * small.report.steps
        assert large.batches == pytest.approx(1_000 * small.batches, rel=0.05)
        assert large.most_padded <= 4_096


def test_the_seed_fixes_what_is_drawn() -> None:
    """One seed, one forecast; another seed, another one."""
    histogram = Histogram.of(lognormal(50_000))
    first, second, other = (plan(histogram, Budget(512), seed=seed).to_dict() for seed in (3, 3, 4))
    assert first == second
    assert first != other


def test_starts_are_those_of_the_cut_before_ranks_are_made_equal() -> None:
    """And their division is the plan's own."""
    policy = Budget(10, batches_per_sort=None)
    histogram = Histogram.of([5, 5, 5, 2, 2])
    runs = Runs.of(histogram.lengths, histogram.counts[None], policy)
    assert runs.starts(policy).tolist() == [
        0,
        1,
        3,
    ]  # the pair of short rows, and five steps less than from the longest
    assert len(runs.batches(policy, 2)) == len(divided(runs.starts(policy), 5, 2)) == 4


@pytest.mark.parametrize("rows", [[], [4], [7, 7, 1, 1, 1, 20_000_000]])
def test_rows_are_counted(rows: list[int]) -> None:
    """Whether the lengths are small or large, or there are none."""
    histogram = Histogram.of(rows)
    assert dict(zip(histogram.lengths.tolist(), histogram.counts.tolist(), strict=True)) == Counter(rows)
    again = Histogram.from_counts(Counter(rows))
    assert (again.rows, again.steps, again.longest) == (len(rows), sum(rows), max(rows, default=0))


def test_two_lengths_are_counted_together() -> None:
    """A row's source and target, as its batch is padded to both."""
    assert Histogram.of([(1, 2), (3, 0), (4, 4)]).counts.tolist() == [2, 1]


def test_bad_counts_are_refused() -> None:
    """With what arrived."""
    with pytest.raises(OptionError, match=r"counts\[3\] must be a whole number, 0 or more, but -1 arrived"):
        Histogram.from_counts({3: -1})
    with pytest.raises(OptionError, match=r"counts\[3\] must be a whole number, 0 or more, but 1.5 arrived"):
        loosely(Histogram.from_counts)({3: 1.5})
    with pytest.raises(LengthError, match="is -2, but a length is 0 or more"):
        Histogram.from_counts({-2: 1})
    with pytest.raises(ShapeError, match="lengths must be whole numbers, but float64 arrived"):
        loosely(Histogram.from_counts)({2.5: 1})
    with pytest.raises(OptionError, match=r"counts add up to 10,000,000,000,000,000 rows, but no more than 1,099,"):
        Histogram.from_counts({1: 10**16})


def test_long_rows_are_refused_by_their_number() -> None:
    """Since no row of a histogram can be named."""
    with pytest.raises(LengthError, match="3 rows are longer than 10 steps, up to 30, but Budget") as info:
        what_is_left(Histogram.from_counts({5: 9, 20: 2, 30: 1}), Budget(10))
    assert info.value.details == {"rows": 3, "length": 30, "limit": 10}
