"""Batches: filled from the better end, similar on all ranks, the costliest first."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import Budget, Coverage, Plan, Rows
from pipeline.batching.analysis import measure_correlation
from pipeline.batching.batches import compute_chance_bound
from pipeline.errors import OptionError
from support.batching_oracle import check, draw_lengths


def count_padded(lengths: list[int], budget: int) -> int:
    """Count the padded steps of batches that are filled one after the other, in the given order, within a budget."""
    padded, rows, longest = 0, 0, 0
    for length in lengths:
        if max(longest, length) * (rows + 1) > budget and rows:
            padded, rows, longest = padded + rows * longest, 0, 0
        rows, longest = rows + 1, max(longest, length)
    return padded + rows * longest


@given(lengths=st.lists(st.integers(1, 9), max_size=60), budget=st.integers(9, 40))
def test_one_pool_pads_no_more_than_filling_from_either_end(lengths: list[int], budget: int) -> None:
    """One pool has the padding of the better way to fill batches: from the longest row down, or from the shortest up."""
    falling, rising = sorted(lengths, reverse=True), sorted(lengths)
    padded = Plan.of(lengths, Budget(budget, batches_per_sort=None)).report().padded
    assert padded == min(count_padded(falling, budget), count_padded(rising, budget))


def test_ranks_have_batches_of_similar_size() -> None:
    """At one step all ranks have similar batches; over the epoch sizes differ widely."""
    plan = Plan.of(draw_lengths(5_000), Rows(8), world_size=4)
    widths = plan.longest.reshape(-1, 4)
    assert (widths.max(axis=1) - widths.min(axis=1)).max() <= 2
    assert np.ptp(widths) > 30
    # No rank always has the longer batches.
    assert np.ptp(widths.mean(axis=0)) < 0.2


def test_the_costliest_step_comes_first() -> None:
    """The costliest batch is in the first step, and the batches are the same."""
    lengths = [*draw_lengths(500), 200]
    for policy in (Budget(1_000), Budget(3_000, quadratic=30), Rows(4)):
        plain, costliest = (Plan.of(lengths, policy, world_size=3, worst_first=first) for first in (False, True))
        cost = policy.cost(costliest.shapes)
        assert cost[:3].max() == cost.max()
        assert sorted(map(tuple, plain)) == sorted(map(tuple, costliest))
        assert plain.recipe != costliest.recipe


def test_too_few_rows_for_the_ranks() -> None:
    """Five rows for four ranks: three are repeated, one is dropped, or an error is raised."""
    lengths = [3, 1, 4, 1, 5]
    repeated = Plan.of(lengths, Rows(1), world_size=4)
    assert (len(repeated), len(repeated.repeated), len(repeated.dropped)) == (8, 3, 0)
    dropped = Plan.of(lengths, Rows(1), world_size=4, uneven="drop")
    assert (len(dropped), len(dropped.repeated), len(dropped.dropped)) == (4, 0, 1)
    check(dropped, lengths, Rows(1))
    assert Coverage.of(dropped).missing.tolist() == dropped.dropped.tolist()
    with pytest.raises(OptionError, match=r"^5 rows do not make the same number of batches for 4 ranks; .*repeat"):
        Plan.of(lengths, Rows(1), world_size=4, uneven="raise")
    with pytest.raises(OptionError, match="3 rows .* for 4 ranks, and dropping them would leave none"):
        Plan.of(lengths[:3], Rows(1), world_size=4, uneven="drop")


def test_no_order_correlates_more_than_chance() -> None:
    """For 60 seeds the lengths of adjacent batches stay within the bound, which one in 20 random orders exceeds."""
    lengths = draw_lengths(4_000)
    plans = [Plan.of(lengths, Rows(10), seed=seed) for seed in range(60)]
    bound = compute_chance_bound(len(plans[0]))
    assert max(abs(measure_correlation(plan)) for plan in plans) <= bound
