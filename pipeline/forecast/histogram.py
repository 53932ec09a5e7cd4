"""Histogram of row lengths: everything that a forecast needs of a data set."""

from collections.abc import Mapping
from typing import Final, final

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.arrays import iterate_blocks
from pipeline.batching.lengths import Lengths
from pipeline.checks.options import check_int
from pipeline.errors import OptionError

# The longest row for which rows are counted in an array with one entry per length: 128 MiB.
_MAX_DENSE: Final = 1 << 24

# The maximum number of rows: far more than any data set has, and their steps still fit into 64 bits.
_MAX_ROWS: Final = 1 << 40


@final
@attrs.frozen(eq=False)
class Histogram:
    """The number of rows of each length.

    Attributes:
        lengths: the lengths that occur, ascending, of shape (lengths,).
        counts: the number of rows of each length, of shape (lengths,).

    Example:
        >>> histogram = Histogram.of([3, 1, 3])
        >>> histogram.lengths.tolist(), histogram.counts.tolist()
        ([1, 3], [1, 2])
        >>> Histogram.from_counts({20: 90_000_000, 400: 10_000_000}).rows
        100000000
    """

    lengths: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, lengths: npt.ArrayLike) -> "Histogram":
        """Count the rows of each length; with two lengths per row, their sum counts.

        A memory-mapped array is read block by block.

        Raises:
            ShapeError: if `lengths` are not lengths.
            LengthError: for a length below 0.
        """
        return cls.from_lengths(Lengths.of(lengths))

    @classmethod
    def from_lengths(cls, lengths: Lengths) -> "Histogram":
        """Count the rows of each length, from lengths that are already checked."""
        if lengths.longest > _MAX_DENSE:
            found, counts = np.unique(lengths.totals(), return_counts=True)
            return cls(found, counts.astype(np.int64))
        dense = np.zeros(lengths.longest + 1, np.int64)
        for start, stop in iterate_blocks(len(lengths)):
            # Only as long as this block's longest row requires: most blocks have no extremely long one.
            counts = np.bincount(lengths.totals(start, stop))
            dense[: len(counts)] += counts
        occurring = np.flatnonzero(dense)
        return cls(occurring.astype(np.int64), dense[occurring])

    @classmethod
    def from_counts(cls, counts: Mapping[int, int]) -> "Histogram":
        """Make a histogram from a mapping of lengths to numbers of rows, such as a `Counter`.

        Raises:
            OptionError: if a value is not a number of rows, or if there are too many rows.
            ShapeError: if a key is not a length.
            LengthError: for a length below 0.
        """
        rows = {length: check_int(f"counts[{length}]", number, minimum=0) for length, number in counts.items()}
        total = sum(rows.values())
        if total > _MAX_ROWS:
            msg = f"counts must add up to at most {_MAX_ROWS:,} rows, got {total:,}; check its values."
            raise OptionError(msg, rows=total)
        lengths = sorted(length for length, number in rows.items() if number)
        checked = Lengths.of(lengths)
        return cls(checked.totals(), np.asarray([rows[length] for length in lengths], np.int64))

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.counts.sum())

    @property
    def steps(self) -> int:
        """The number of steps of all rows."""
        return int((self.lengths * self.counts).sum())

    @property
    def longest(self) -> int:
        """The length of the longest row."""
        return int(self.lengths[-1]) if len(self.lengths) else 0

    def quantiles(self, count: int) -> npt.NDArray[np.int64]:
        """Divide the rows into `count` groups of equal size by length, and return the longest length of each.

        Example:
            >>> Histogram.of([1, 1, 2, 2, 3, 3, 9, 9]).quantiles(4).tolist()
            [1, 2, 3, 9]
        """
        # Group k ends at row k * rows / count of the sorted rows. The cumulative counts tell the length of that row.
        last = np.maximum(np.arange(1, count + 1) * self.rows // count, 1)
        return self.lengths[np.searchsorted(np.cumsum(self.counts), last)]
