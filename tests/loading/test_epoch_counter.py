"""`EpochCounter`: missing and duplicated rows, padding, and the rows that cause it."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline import FromIds, Ids, Pad, Padded, Report
from pipeline.batching import Budget, PaddingReport, Plan, Rows
from pipeline.data.metadata import BatchMetadata
from pipeline.errors import LengthError, OptionError, ShapeError
from pipeline.loading import EpochCounter


def make_batch(lengths: dict[int, int]) -> Padded[Ids]:
    """Make a batch of rows with these ids and lengths."""
    width = max(lengths.values())
    metadata = BatchMetadata(torch.tensor(list(lengths)))
    values = torch.zeros(len(lengths), width, dtype=torch.int64)
    return Padded(Ids, values, torch.tensor(list(lengths.values())), metadata=metadata)


@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    served=st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=4, unique=True), max_size=12),
)
def test_coverage_equals_a_count_row_by_row(lengths: list[int], served: list[list[int]]) -> None:
    """After every batch, in `coverage` and in `fields`."""
    counter, times = EpochCounter(lengths), Counter[int]()
    for group in served:
        rows = [row % len(lengths) for row in group]
        counter.add(make_batch({row: lengths[row] for row in rows}))
        times.update(set(rows))
        missing = [row for row in range(len(lengths)) if not times[row]]
        duplicated = [row for row in range(len(lengths)) if times[row] > 1]
        fields = counter.fields()
        assert (fields["left"], fields["duplicated"]) == (str(len(missing)), str(len(duplicated)))
        assert counter.coverage().missing.tolist() == missing
        assert counter.coverage().duplicated.tolist() == duplicated


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=40), max_outliers=st.integers(0, 5))
def test_a_counted_epoch_equals_the_padding_report(lengths: list[int], max_outliers: int) -> None:
    """Steps, padding and the padding of each outlier are those that the plan reports beforehand."""
    plan = Plan.of(lengths, Budget(18, longest=9))
    rows = list(FromIds().map([[1] * length for length in lengths]))
    counter = EpochCounter(lengths, max_outliers=max_outliers)
    passed = list(counter.count(Pad()([rows[index] for index in numbers.tolist()]) for numbers in plan))
    wanted = PaddingReport.of(plan, lengths, max_outliers=max_outliers)
    assert len(passed) == len(plan)
    assert counter.report == wanted.report
    assert counter.coverage().complete
    assert [outlier.padding for outlier in counter.outliers] == [outlier.padding for outlier in wanted.outliers]
    for outlier in counter.outliers:
        assert outlier.row in plan[outlier.batch]
        assert lengths[outlier.row] == outlier.length


def test_a_split_row_is_served_when_all_its_parts_were() -> None:
    """In any order; one part too many makes it a duplicate."""
    counter = EpochCounter([7, 2])
    counter.add(make_batch({0: 3}))
    counter.add(make_batch({1: 2, 0: 3}))
    assert counter.coverage().missing.tolist() == [0]
    counter.add(make_batch({0: 1}))
    assert counter.coverage().complete
    counter.add(make_batch({0: 1}))
    assert counter.coverage().duplicated.tolist() == [0]


def test_rows_that_fill_a_batch_up_are_not_counted() -> None:
    """Their ids are negative: they are not rows of the input, not even the last one, and not batchmates."""
    counter = EpochCounter([2, 0])
    counter.add(make_batch({0: 2, -1: 0}))
    assert counter.coverage().missing.tolist() == [1]
    assert counter.outliers == ()


def test_a_counter_is_printed_in_lines() -> None:
    """The rows served, and the outliers, the worst first."""
    counter = EpochCounter([9, 1, 1, 4, 3], max_outliers=2)
    for batch in (make_batch({3: 4, 4: 3}), make_batch({0: 9, 1: 1, 2: 1})):
        counter.add(batch)
    assert str(counter).splitlines() == [
        str(Report(2, 5, 18, 35)),
        "5 rows served, 0 left, 0 duplicated",
        "row 0, of 9 steps, causes 16 steps of padding in batch 1",
        "row 3, of 4 steps, causes 1 steps of padding in batch 0",
    ]


def test_without_lengths_only_steps_are_counted() -> None:
    """Missing rows are then unknown."""
    counter = EpochCounter()
    counter.add(make_batch({70: 3, 5: 1}))
    assert counter.fields() == {"rows": "2", "padding": "33.3%"}
    with pytest.raises(OptionError, match="coverage needs the lengths of all rows, but this counter has none"):
        counter.coverage()


def test_bad_input_is_rejected() -> None:
    """The message names the row, and the batch is not counted."""
    counter = EpochCounter([3, 3])
    with pytest.raises(LengthError, match=r"row 2 was served and lengths has 2 .*; give the lengths of all rows"):
        counter.add(make_batch({0: 3, 2: 3}))
    assert counter.report == Report()
    assert counter.coverage().missing.tolist() == [0, 1]
    with pytest.raises(LengthError, match=r"lengths must have one length per row, got shape \(1, 2\)"):
        EpochCounter([(1, 2)])
    with pytest.raises(ShapeError, match="lengths must be integers"):
        EpochCounter([0.5])
    with pytest.raises(OptionError, match="max_outliers must be .*-1"):
        EpochCounter(max_outliers=-1)


def test_random_batches_have_more_padding_than_planned_ones() -> None:
    """Measured as the share that a progress bar shows."""
    lengths = [length % 50 for length in range(600)]
    rows, shares = list(FromIds().map([[1] * length for length in lengths])), list[float]()
    for plan in (Plan.of(lengths, Rows(8, batches_per_sort=1)), Plan.of(lengths, Rows(8))):
        counter = EpochCounter(lengths)
        for _ in counter.count(Pad()([rows[index] for index in numbers.tolist()]) for numbers in plan):
            pass
        shares.append(counter.report.wasted)
    assert shares[1] < 0.2 * shares[0]
