"""Batches from a histogram are those of a plan: exactly if rows are one pool, approximately if they are several."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import plan
from pipeline.batching import Boundaries, Budget, Plan, Policy, Rows, Shapes
from pipeline.batching.batches import split_largest
from pipeline.errors import LengthError
from pipeline.forecast import Histogram
from pipeline.forecast.sampling import LengthRuns, cut_long_rows, sample_batches

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


def draw_lognormal(rows: int, longest: int = 300) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Draw lengths distributed like those of sentences."""
    lengths = np.random.default_rng(0).lognormal(2.8, 0.6, rows)
    return np.clip(lengths.astype(np.int64), 1, longest)


def count_batches(planned: Plan) -> Counter[tuple[int, ...]]:
    """Count the batches of each shape, number of rows and number of steps."""
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
    """The same batches as the plan's, shape by shape, if the plan repeats no row."""
    wanted = Plan.of(lengths, policy(), world_size=world_size)
    found = sample_batches(Histogram.of(lengths), policy(), world_size, seed=0)
    assert found.complete
    if not len(wanted.repeated):
        assert count_batches(found.to_plan(1, seed=0)) == count_batches(wanted)


@pytest.mark.parametrize("policy", [Budget(1_024), Rows(30), Boundaries((10, 30), max_padded_steps=1_024)])
def test_several_pools_are_close(policy: Policy) -> None:
    """Padding, number of batches and repeated batchmates are close to those of the plan."""
    lengths = draw_lognormal(60_000)
    exact = next(iter(plan(lengths, policy, world_size=2).policies.values()))
    estimate = next(iter(plan(Histogram.of(lengths), policy, world_size=2).policies.values()))
    assert exact.exact
    assert not estimate.exact
    assert estimate.report.rows == exact.report.rows == 60_000
    assert estimate.report.steps == exact.report.steps == lengths.sum()
    assert estimate.batches_per_rank == pytest.approx(exact.batches_per_rank, rel=0.02)
    assert estimate.report.wasted == pytest.approx(exact.report.wasted, rel=0.15)
    assert estimate.repeated_batchmates == pytest.approx(exact.repeated_batchmates, rel=0.15)
    assert abs(estimate.correlation) < 4 / estimate.batches_per_rank**0.5


def test_some_pools_represent_many() -> None:
    """Of more than 64 pools, only some are drawn; rows and steps are those of all."""
    lengths = draw_lognormal(60_000)
    policy = Budget(512, batches_per_sort=10)
    exact = next(iter(plan(lengths, policy).policies.values()))
    found = sample_batches(Histogram.of(lengths), policy, 1, seed=0)
    estimate = next(iter(plan(Histogram.of(lengths), policy).policies.values()))
    assert not found.complete
    assert (estimate.report.rows, estimate.report.steps) == (60_000, int(lengths.sum()))
    assert estimate.report.batches == pytest.approx(exact.report.batches, rel=0.02)
    assert estimate.report.wasted == pytest.approx(exact.report.wasted, rel=0.1)
    assert estimate.repeated_batchmates == pytest.approx(exact.repeated_batchmates, rel=0.2)


def test_batchmates_of_equal_length_meet_again_by_chance() -> None:
    """Of six equal rows in pairs, each of the five others is equally likely; in two pools, half as likely."""
    one_pool = sample_batches(Histogram.from_counts({5: 6}), Budget(10, batches_per_sort=None), 1, seed=0)
    assert one_pool.repeated_batchmates == pytest.approx(1 / 5, abs=0.01)
    two_pools = sample_batches(Histogram.from_counts({5: 400}), Budget(50, batches_per_sort=20), 1, seed=0)
    assert two_pools.repeated_batchmates == pytest.approx(9 / 199 / 2, rel=0.1)


def test_a_hundred_million_rows_are_forecast_from_their_histogram() -> None:
    """The figures are a thousand times those of a hundred thousand rows of the same distribution."""
    few = Histogram.of(draw_lognormal(100_000))
    many = Histogram(few.lengths, few.counts * 1_000)
    for small, large in zip(plan(few).policies.values(), plan(many).policies.values(), strict=True):
        assert large.report.rows == 100_000_000
        assert large.report.steps == 1_000 * small.report.steps
        assert large.batches_per_rank == pytest.approx(1_000 * small.batches_per_rank, rel=0.05)
        assert large.max_padded_steps <= 4_096


def test_the_seed_determines_the_sample() -> None:
    """The same seed gives the same forecast, another seed another one."""
    histogram = Histogram.of(draw_lognormal(50_000))
    first, second, other = (plan(histogram, Budget(512), seed=seed).to_dict() for seed in (3, 3, 4))
    assert first == second
    assert first != other


def test_batches_are_split_for_ranks_as_in_a_plan() -> None:
    """The largest batches are split until their number is a multiple of the number of ranks."""
    policy = Budget(10, batches_per_sort=None)
    histogram = Histogram.of([5, 5, 5, 2, 2])
    runs = LengthRuns.of(histogram.lengths, histogram.counts[None], policy)
    # Filling batches from the shortest row makes a pair of short rows, and five padded steps less.
    assert runs.split_into_batches(policy).tolist() == [0, 1, 3]
    assert len(runs.make_batches(policy, 2)) == len(split_largest(runs.split_into_batches(policy), 5, 2)) == 4


def test_too_long_rows_are_counted_in_the_error() -> None:
    """The error has their number, because a histogram cannot name a row."""
    with pytest.raises(
        LengthError, match=r"rows must have at most 10 steps for Budget.*, got 3 longer ones of up to 30"
    ) as info:
        cut_long_rows(Histogram.from_counts({5: 9, 20: 2, 30: 1}), Budget(10))
    assert info.value.details == {"rows": 3, "length": 30, "limit": 10}
