"""Padding, randomness and coverage equal a plain count, and the defaults keep them low."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import Budget, Coverage, Cursor, PaddingOutlier, PaddingReport, Plan, Randomness, Rows
from pipeline.batching.analysis import measure_correlation, measure_repeated_batchmates
from pipeline.errors import LengthError, OptionError
from support.batching_oracle import draw_lengths


def make_sentence_lengths(rows: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Return lengths around 20, as sentences have them."""
    return np.random.default_rng(0).lognormal(2.8, 0.6, rows).clip(1, 400).astype(np.int64)


@pytest.mark.parametrize("rows", [100_000, 300_000])
def test_default_has_little_padding_and_no_order(rows: int) -> None:
    """At most 2% of padding, uncorrelated batches, and at most 10% of repeated batchmates."""
    lengths = make_sentence_lengths(rows)
    this, following = (Plan.of(lengths, Budget(4_096), epoch=epoch) for epoch in (0, 1))
    assert this.padded.max() <= 4_096
    assert this.report().wasted <= 0.02
    assert Plan.of(lengths, Budget(4_096, batches_per_sort=None)).report().wasted <= 0.0051
    randomness = Randomness.of(this, following)
    assert abs(randomness.correlation) <= max(0.05, 2 / len(this) ** 0.5)
    assert randomness.repeated_batchmates <= 0.1
    assert Coverage.of(this).complete


def list_pairs(plan: Plan) -> set[tuple[int, int]]:
    """Return all pairs of batchmates."""
    return {pair for batch in plan for pair in combinations(sorted(batch.tolist()), 2)}


@given(
    lengths=st.lists(st.integers(0, 9), max_size=60),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_repeated_batchmates_equal_a_plain_count(lengths: list[int], sizes: tuple[int, int]) -> None:
    """The share of repeated pairs equals that of a plain count of pairs."""
    this, following = (Plan.of(lengths, Rows(rows), epoch=epoch) for epoch, rows in enumerate(sizes))
    known = list_pairs(this)
    expected = len(known & list_pairs(following)) / len(known) if known else 0.0
    assert measure_repeated_batchmates(this, following) == expected
    assert measure_repeated_batchmates(this, this) == (1.0 if known else 0.0)


def test_repeated_batchmates_of_a_sample() -> None:
    """The share in a sample of batches is close to the share in all."""
    lengths = make_sentence_lengths(20_000)
    this, following = (Plan.of(lengths, Budget(1_000, batches_per_sort=20), epoch=epoch) for epoch in (0, 1))
    assert measure_repeated_batchmates(this, following, rows=4_000) == pytest.approx(
        measure_repeated_batchmates(this, following), abs=0.02
    )
    with pytest.raises(OptionError, match="^plans must have the same rows, got 20000 and 19999"):
        measure_repeated_batchmates(this, Plan.of(lengths[1:], Rows(1)))


def test_correlation_is_pearsons() -> None:
    """It is near 1 for sorted batches, and equals numpy's for the batches of one rank."""
    lengths = make_sentence_lengths(5_000)
    assert measure_correlation(Plan.of(lengths, Rows(20, batches_per_sort=None), seed=None)) > 0.95
    plan = Plan.of(lengths, Rows(20), world_size=3)
    means = np.array([lengths[batch].mean() for batch in plan.rank(2)])
    assert measure_correlation(plan, rank=2) == pytest.approx(np.corrcoef(means[1:], means[:-1])[0, 1])
    assert measure_correlation(plan.rank(2)) == measure_correlation(plan, rank=2)
    assert measure_correlation(Plan.of([3] * 50, Rows(2))) == 0.0


@given(
    lengths=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30),
    both=st.booleans(),
    world_size=st.integers(1, 3),
)
def test_outliers_equal_a_plain_count(lengths: list[tuple[int, int]], both: bool, world_size: int) -> None:
    """The padding that a row causes is what the others save when the row is taken out."""
    given = lengths if both else [first for first, _ in lengths]
    array = np.array(given, np.int64).reshape(len(given), -1) if given else np.empty((0, 1 + both), np.int64)
    plan = Plan.of(array, Rows(4), world_size=world_size)
    padding = PaddingReport.of(plan, array, max_outliers=1_000)
    expected: list[PaddingOutlier] = []
    for index, batch in enumerate(plan):
        rows = batch.tolist()
        assert padding.padding[index] == len(rows) * array[rows].max(axis=0).sum() - array[rows].sum()
        for row in rows:
            others = [other for other in rows if other != row]
            if others:
                saved = len(others) * int((array[rows].max(axis=0) - array[others].max(axis=0)).sum())
                expected += [PaddingOutlier(row, index, int(array[row].sum()), saved)] * bool(saved)
    assert sorted(padding.outliers, key=str) == sorted(expected, key=str)
    assert [outlier.padding for outlier in padding.outliers] == sorted((one.padding for one in expected), reverse=True)
    assert padding.report == plan.report()


def test_padding_of_other_lengths_is_rejected() -> None:
    """A report for lengths that the plan was not built from raises an error."""
    with pytest.raises(LengthError, match=r"^lengths must be those of the plan, of shape \(3, 1\), got shape \(2, 1\)"):
        PaddingReport.of(Plan.of([1, 2, 3], Rows(1)), [1, 2])


def test_coverage_of_a_resumed_epoch() -> None:
    """Coverage counts rows over two parts of an epoch, on different numbers of ranks."""
    lengths, budget = draw_lengths(120), Budget(100, batches_per_sort=3)
    first = Plan.of(lengths, budget, world_size=2)
    cursor = first.cursor(4)
    done = first.resume(Cursor(0))
    assert Coverage.of(done).complete
    rest = Plan.of(lengths, budget, world_size=1, after=cursor)
    assert len(Coverage.of(rest).missing) == sum(map(len, [*first][:8]))
    assert Coverage.of(rest, rest).duplicated.tolist() == sorted(row for batch in rest for row in batch.tolist())
    with pytest.raises(
        OptionError, match=r"^plans must be at least one and have the same rows, got plans of \[\] rows"
    ):
        Coverage.of()
