"""Padding, randomness and waste: the figures are those of a plain count, and are as low as they should be."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import Budget, Coverage, PaddingOutlier, PaddingReport, Plan, Randomness, Rows
from pipeline.batching.randomness import correlation, mates_again
from pipeline.errors import LengthError, OptionError


def like_sentences(rows: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Lengths around 20, as sentences have them."""
    return np.random.default_rng(0).lognormal(2.8, 0.6, rows).clip(1, 400).astype(np.int64)


@pytest.mark.parametrize("rows", [100_000, 300_000])
def test_padding_and_randomness_of_the_default(rows: int) -> None:
    """At most 2% of padding, and no order of length, neither over batches nor over epochs."""
    lengths = like_sentences(rows)
    this, following = (Plan.of(lengths, Budget(4_096), epoch=epoch) for epoch in (0, 1))
    assert this.padded.max() <= 4_096
    assert this.report().wasted <= 0.02
    assert Plan.of(lengths, Budget(4_096, batches_per_sort=None)).report().wasted <= 0.0051
    figures = Randomness.of(this, following)
    assert abs(figures.correlation) <= max(0.05, 2 / len(this) ** 0.5)
    assert figures.mates <= 0.1
    assert Coverage.of(this).complete


def filled(lengths: list[int], budget: int) -> int:
    """The padded steps of batches that are filled one by one, in the order that is given, while they stay in budget."""
    padded, rows, longest = 0, 0, 0
    for length in lengths:
        if max(longest, length) * (rows + 1) > budget and rows:
            padded, rows, longest = padded + rows * longest, 0, 0
        rows, longest = rows + 1, max(longest, length)
    return padded + rows * longest


@given(lengths=st.lists(st.integers(1, 9), max_size=60), budget=st.integers(9, 40))
def test_one_pool_pads_no_more_than_filling_from_either_end(lengths: list[int], budget: int) -> None:
    """From the longest row down, and from the shortest up, as others do."""
    falling, rising = sorted(lengths, reverse=True), sorted(lengths)
    padded = Plan.of(lengths, Budget(budget, batches_per_sort=None)).report().padded
    assert padded == min(filled(falling, budget), filled(rising, budget))


def pairs(plan: Plan) -> set[tuple[int, int]]:
    """All pairs of batch mates."""
    return {pair for batch in plan for pair in combinations(sorted(batch.tolist()), 2)}


@given(
    lengths=st.lists(st.integers(0, 9), max_size=60),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_mates_are_counted(lengths: list[int], sizes: tuple[int, int]) -> None:
    """The share of pairs is that of a plain count of pairs."""
    this, following = (Plan.of(lengths, Rows(rows), epoch=epoch) for epoch, rows in enumerate(sizes))
    known = pairs(this)
    wanted = len(known & pairs(following)) / len(known) if known else 0.0
    assert mates_again(this, following) == wanted
    assert mates_again(this, this) == (1.0 if known else 0.0)


def test_mates_are_sampled() -> None:
    """Of some rows' batches, the share is about that of all."""
    lengths = like_sentences(20_000)
    this, following = (Plan.of(lengths, Budget(1_000, batches_per_sort=20), epoch=epoch) for epoch in (0, 1))
    assert mates_again(this, following, rows=4_000) == pytest.approx(mates_again(this, following), abs=0.02)
    with pytest.raises(OptionError, match="^plans must be of the same rows"):
        mates_again(this, Plan.of(lengths[1:], Rows(1)))


def test_correlation_is_pearsons() -> None:
    """Of a sorted order it is near 1; of a rank's, over that rank's batches alone."""
    lengths = like_sentences(5_000)
    assert correlation(Plan.of(lengths, Rows(20, batches_per_sort=None), seed=None)) > 0.95
    plan = Plan.of(lengths, Rows(20), world_size=3)
    means = np.array([lengths[batch].mean() for batch in plan.rank(2)])
    assert correlation(plan, rank=2) == pytest.approx(np.corrcoef(means[1:], means[:-1])[0, 1])
    assert correlation(plan.rank(2)) == correlation(plan, rank=2)
    assert correlation(Plan.of([3] * 50, Rows(2))) == 0.0


@given(
    lengths=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30),
    both=st.booleans(),
    world_size=st.integers(1, 3),
)
def test_waste_is_counted(lengths: list[tuple[int, int]], both: bool, world_size: int) -> None:
    """What each row forces on its mates is what they are spared when it is taken out."""
    given = lengths if both else [first for first, _ in lengths]
    array = np.array(given, np.int64).reshape(len(given), -1) if given else np.empty((0, 1 + both), np.int64)
    plan = Plan.of(array, Rows(4), world_size=world_size)
    waste = PaddingReport.of(plan, array, most=1_000)
    wanted: list[PaddingOutlier] = []
    for at, batch in enumerate(plan):
        rows = batch.tolist()
        assert waste.padding[at] == len(rows) * array[rows].max(axis=0).sum() - array[rows].sum()
        for row in rows:
            mates = [mate for mate in rows if mate != row]
            if mates:
                spared = len(mates) * int((array[rows].max(axis=0) - array[mates].max(axis=0)).sum())
                wanted += [PaddingOutlier(row, at, int(array[row].sum()), spared)] * bool(spared)
    assert sorted(waste.culprits, key=str) == sorted(wanted, key=str)
    assert [culprit.padding for culprit in waste.culprits] == sorted((c.padding for c in wanted), reverse=True)
    assert waste.report == plan.report()


def test_waste_of_other_lengths() -> None:
    """Refused, since nothing of it would be so."""
    with pytest.raises(LengthError, match=r"^lengths are of shape \(2, 1\), but the plan was made for 3 rows"):
        PaddingReport.of(Plan.of([1, 2, 3], Rows(1)), [1, 2])
