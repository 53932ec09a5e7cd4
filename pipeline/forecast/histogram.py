"""How many rows have which length: all that a forecast needs of a data set."""

from collections.abc import Mapping
from typing import Final, final

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.lengths import Lengths, blocks
from pipeline.batching.numbers import whole
from pipeline.errors import OptionError

_DENSE: Final = 1 << 24
"""Up to which length rows are counted in an array with a place for every length."""

_MOST: Final = 1 << 40
"""More rows than anything holds; their steps stay whole numbers of 64 bits."""


@final
@attrs.frozen(eq=False)
class Histogram:
    """How many rows have which length.

    Attributes:
        lengths: the lengths that occur, ascending, of shape (lengths,).
        counts: how many rows have each, of shape (lengths,).

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
        """Count the rows of each length; of two lengths a row, their sum. What is memory-mapped is read block by block.

        Raises:
            ShapeError: for what are no lengths.
            LengthError: for a length below 0.
        """
        return cls.of_checked(Lengths.of(lengths))

    @classmethod
    def of_checked(cls, lengths: Lengths) -> "Histogram":
        """The same, of lengths that are checked already."""
        if lengths.top > _DENSE:
            found, counts = np.unique(lengths.total(), return_counts=True)
            return cls(found, counts.astype(np.int64))
        dense = np.zeros(lengths.top + 1, np.int64)
        for begin, end in blocks(len(lengths)):
            # Not longer than the block's own longest row asks for: most blocks have no extreme one.
            here = np.bincount(lengths.total(begin, end))
            dense[: len(here)] += here
        occurring = np.flatnonzero(dense)
        return cls(occurring.astype(np.int64), dense[occurring])

    @classmethod
    def from_counts(cls, counts: Mapping[int, int]) -> "Histogram":
        """A histogram out of a mapping from lengths to numbers of rows, such as a `Counter`.

        Raises:
            OptionError: for what is no number of rows, or one below 0.
            ShapeError: for what is no length.
            LengthError: for a length below 0.
        """
        rows = {length: whole(f"counts[{length}]", rows, least=0) for length, rows in counts.items()}
        lengths = sorted(length for length, number in rows.items() if number)
        if sum(rows.values()) > _MOST:
            msg = f"counts add up to {sum(rows.values()):,} rows, but no more than {_MOST:,} can be planned."
            raise OptionError(msg, rows=sum(rows.values()))
        checked = Lengths.of(lengths)
        return cls(checked.total(), np.asarray([rows[length] for length in lengths], np.int64))

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self.counts.sum())

    @property
    def steps(self) -> int:
        """How many steps they have together."""
        return int((self.lengths * self.counts).sum())

    @property
    def longest(self) -> int:
        """The most steps of a row."""
        return int(self.lengths[-1]) if len(self.lengths) else 0

    def quantiles(self, count: int) -> npt.NDArray[np.int64]:
        """Lengths that stand for so many groups of as many rows each: the longest of each group.

        Example:
            >>> Histogram.of([1, 1, 2, 2, 3, 3, 9, 9]).quantiles(4).tolist()
            [1, 2, 3, 9]
        """
        at = np.maximum(np.arange(1, count + 1) * self.rows // count, 1)
        return self.lengths[np.searchsorted(np.cumsum(self.counts), at)]
