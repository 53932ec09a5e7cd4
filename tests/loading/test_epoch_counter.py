"""An epoch counted as it passes: rows once, missing and doubled, padding, and the rows that bring it about."""

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


def batch(lengths: dict[int, int]) -> Padded[Ids]:
    """Rows of such lengths, by their places."""
    width = max(lengths.values())
    metadata = BatchMetadata(torch.tensor(list(lengths)))
    values = torch.zeros(len(lengths), width, dtype=torch.int64)
    return Padded(Ids, values, torch.tensor(list(lengths.values())), metadata=metadata)


@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    served=st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=4, unique=True), max_size=12),
)
def test_coverage_is_that_of_a_count(lengths: list[int], served: list[list[int]]) -> None:
    """Whatever was served: each row's times, one by one; the field says as many at every batch."""
    tally, times = EpochCounter(lengths), Counter[int]()
    for group in served:
        rows = [row % len(lengths) for row in group]
        tally.add(batch({row: lengths[row] for row in rows}))
        times.update(set(rows))
        missing = [row for row in range(len(lengths)) if not times[row]]
        doubled = [row for row in range(len(lengths)) if times[row] > 1]
        fields = tally.fields()
        assert (fields["left"], fields["doubled"]) == (str(len(missing)), str(len(doubled)))
        assert tally.coverage().missing.tolist() == missing
        assert tally.coverage().doubled.tolist() == doubled


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=40), most=st.integers(0, 5))
def test_an_epoch_of_a_plan_is_its_waste(lengths: list[int], most: int) -> None:
    """Counted batch by batch, as the plan says it beforehand: steps, padding, and what each worst row brings about."""
    plan = Plan.of(lengths, Budget(18, longest=9))
    rows, tally = list(FromIds().map([[1] * length for length in lengths])), EpochCounter(lengths, most=most)
    passed = list(tally.count(Pad()([rows[index] for index in numbers.tolist()]) for numbers in plan))
    wanted = PaddingReport.of(plan, lengths, max_outliers=most)
    assert len(passed) == len(plan)
    assert tally.report == wanted.report
    assert tally.coverage().complete
    assert [culprit.padding for culprit in tally.culprits] == [culprit.padding for culprit in wanted.outliers]
    for culprit in tally.culprits:
        assert culprit.row in plan[culprit.batch]
        assert lengths[culprit.row] == culprit.length


def test_a_row_is_served_when_all_its_pieces_were() -> None:
    """In any order; a piece too many doubles it."""
    tally = EpochCounter([7, 2])
    tally.add(batch({0: 3}))
    tally.add(batch({1: 2, 0: 3}))
    assert tally.coverage().missing.tolist() == [0]
    tally.add(batch({0: 1}))
    assert tally.coverage().complete
    tally.add(batch({0: 1}))
    assert tally.coverage().doubled.tolist() == [0]


def test_what_fills_a_batch_up_is_no_row() -> None:
    """Its place is below 0: it serves no row, the last one neither, and is no mate."""
    tally = EpochCounter([2, 0])
    tally.add(batch({0: 2, -1: 0}))
    assert tally.coverage().missing.tolist() == [1]
    assert tally.culprits == ()


def test_it_is_told_in_lines() -> None:
    """What was served, and the rows at fault, the worst first."""
    tally = EpochCounter([9, 1, 1, 4, 3], most=2)
    for one in (batch({3: 4, 4: 3}), batch({0: 9, 1: 1, 2: 1})):
        tally.add(one)
    assert str(tally).splitlines() == [
        str(Report(2, 5, 18, 35)),
        "5 rows served, 0 left, 0 doubled",
        "row 0, of 9 steps, brought about 16 steps of padding in batch 1",
        "row 3, of 4 steps, brought about 1 steps of padding in batch 0",
    ]


def test_without_lengths_steps_alone_are_counted() -> None:
    """Nothing can be missing then."""
    tally = EpochCounter()
    tally.add(batch({70: 3, 5: 1}))
    assert tally.fields() == {"rows": "2", "padding": "33.3%"}
    with pytest.raises(OptionError, match="the tally knows no lengths, so it cannot tell what is missing"):
        tally.coverage()


def test_bad_input_is_refused() -> None:
    """With the row, and nothing counted."""
    tally = EpochCounter([3, 3])
    with pytest.raises(LengthError, match="row 2 was served, but lengths has 2 rows, from 0; give the lengths of all"):
        tally.add(batch({0: 3, 2: 3}))
    assert tally.report == Report()
    assert tally.coverage().missing.tolist() == [0, 1]
    with pytest.raises(LengthError, match=r"lengths must be one a row, but \(1, 2\) arrived"):
        EpochCounter([(1, 2)])
    with pytest.raises(ShapeError, match="lengths must be whole numbers"):
        EpochCounter([0.5])
    with pytest.raises(OptionError, match="most must be a whole number, 0 or more, but -1 arrived"):
        EpochCounter(most=-1)


def test_rows_at_random_waste_more_than_planned_ones() -> None:
    """The figure that a progress bar shows."""
    lengths = [length % 50 for length in range(600)]
    rows, shares = list(FromIds().map([[1] * length for length in lengths])), list[float]()
    for plan in (Plan.of(lengths, Rows(8, batches_per_sort=1)), Plan.of(lengths, Rows(8))):
        tally = EpochCounter(lengths)
        for _ in tally.count(Pad()([rows[index] for index in numbers.tolist()]) for numbers in plan):
            pass
        shares.append(tally.report.wasted)
    assert shares[1] < 0.2 * shares[0]
