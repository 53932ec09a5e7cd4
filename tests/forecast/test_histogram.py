"""Histograms of lengths, from lengths and from counts."""

from collections import Counter

import pytest

from pipeline.errors import LengthError, OptionError, ShapeError
from pipeline.forecast import Histogram
from support.untyped import untyped


@pytest.mark.parametrize("rows", [[], [4], [7, 7, 1, 1, 1, 20_000_000]])
def test_rows_are_counted_by_length(rows: list[int]) -> None:
    """The counts are those of a `Counter`, for small and large lengths and for no rows."""
    histogram = Histogram.of(rows)
    assert dict(zip(histogram.lengths.tolist(), histogram.counts.tolist(), strict=True)) == Counter(rows)
    same = Histogram.from_counts(Counter(rows))
    assert (same.rows, same.steps, same.longest) == (len(rows), sum(rows), max(rows, default=0))


def test_two_lengths_per_row_are_added() -> None:
    """A batch is padded to the source and the target of its rows."""
    assert Histogram.of([(1, 2), (3, 0), (4, 4)]).counts.tolist() == [2, 1]


def test_bad_counts_are_rejected() -> None:
    """The message has the rule and the value."""
    with pytest.raises(OptionError, match=r"counts\[3\] must be .*-1"):
        Histogram.from_counts({3: -1})
    with pytest.raises(OptionError, match=r"counts\[3\] must be .*1\.5"):
        untyped(Histogram.from_counts)({3: 1.5})
    with pytest.raises(LengthError, match=r"lengths\[0\] must be 0 or more, got -2"):
        Histogram.from_counts({-2: 1})
    with pytest.raises(ShapeError, match="lengths must be integers, got float64"):
        untyped(Histogram.from_counts)({2.5: 1})
    with pytest.raises(
        OptionError, match=r"counts must add up to at most 1,099,511,627,776 rows, got 10,000,000,000,000,000"
    ):
        Histogram.from_counts({1: 10**16})
