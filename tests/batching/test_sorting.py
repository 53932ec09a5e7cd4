"""Sorting: pools of any size, longest row first, with one length per row or two."""

from itertools import pairwise

import numpy as np
import pytest

from pipeline.batching import Budget, Coverage, Plan, Rows, Shapes
from pipeline.errors import OptionError
from support.batching_oracle import is_descending


def test_without_a_seed_nothing_is_shuffled() -> None:
    """Pools are neighboring rows, batches are in order, longest first, and rows of one length keep their order."""
    lengths = [length % 10 for length in range(1_000)]
    plan = Plan.of(lengths, Rows(4, batches_per_sort=50), seed=None)
    rows: list[int] = [row for batch in plan for row in batch.tolist()]
    pools = [rows[begin : begin + 200] for begin in range(0, 1_000, 200)]
    assert [sorted(pool) for pool in pools] == [list(range(begin, begin + 200)) for begin in range(0, 1_000, 200)]
    assert all(pool == sorted(pool, key=lambda row: -lengths[row]) for pool in pools)


def test_pools_and_bins_of_any_size() -> None:
    """Pools smaller and larger than a bin are sorted, longest row first, each row once."""
    generator = np.random.default_rng(0)
    for high in (3, 300, 100_000, 2**33):
        lengths: list[int] = generator.integers(0, high, 150_000).tolist()
        for pool in (None, 7, 100):
            plan = Plan.of(lengths, Rows(64, batches_per_sort=pool), seed=1)
            assert Coverage.of(plan).complete
            assert is_descending(plan, lengths)
            if pool is None:
                # In one pool, the ranges of lengths of the batches do not overlap.
                spans = sorted((lengths[int(batch[-1])], lengths[int(batch[0])]) for batch in plan)
                assert all(longest <= shortest for (_, longest), (shortest, _) in pairwise(spans))


def test_two_lengths() -> None:
    """Batches are padded to the longest of both lengths, within the budget, and pad less than when sorted by the sum."""
    generator = np.random.default_rng(0)
    source = generator.integers(0, 30, 3_000)
    lengths = np.stack([source, source + generator.integers(0, 9, 3_000)], axis=1)
    budget = Budget(600, batches_per_sort=None)
    plan = Plan.of(lengths, budget, world_size=2)
    assert Coverage.of(plan).complete
    assert plan.longest.shape == (len(plan), 2)
    for batch, (rows, first, second) in zip(plan, plan.shapes.tolist(), strict=True):
        assert [first, second] == lengths[batch].max(axis=0).tolist()
        assert rows * max(first + second, 1) <= 600
    by_sum = Plan.of(lengths.sum(axis=1), budget, world_size=2)
    padded = sum(len(batch) * lengths[batch].max(axis=0).sum() for batch in by_sum)
    assert plan.report().padded < padded
    with pytest.raises(OptionError, match="^Shapes needs one length per row, got 2"):
        Plan.of(lengths, Shapes([(4, 100)]))


def test_neighbors_are_similar_in_both_lengths() -> None:
    """Rows with two lengths ascend in one band and descend in the next, so that neither length jumps between bands."""
    grid = np.stack(np.meshgrid(np.arange(1, 41), np.arange(1, 41)), axis=-1).reshape(-1, 2)
    plan = Plan.of(grid, Rows(1, batches_per_sort=None), seed=None)
    jumps = np.abs(np.diff(grid[plan.order], axis=0))
    # A band has up to two first lengths here.
    assert jumps.max(axis=0).tolist() == [2, 1]
