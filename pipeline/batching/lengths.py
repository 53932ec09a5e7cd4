"""Row lengths, checked, and the slices of rows that are truncated or split."""

import hashlib
from collections.abc import Iterator
from typing import Final, final

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.arrays import IntArray, iterate_blocks
from pipeline.errors import LengthError, ShapeError

# The longest row allowed. No such row fits in memory, and 8 million of these lengths can be added without overflow.
_LIMIT: Final = 1 << 40


@final
@attrs.frozen(eq=False)
class Lengths:
    """Number of steps of each row; for rows with a source and a target, of both.

    Attributes:
        values: integers of shape (rows, 1) or (rows, sides), views of the argument where possible.
        longest: steps of the longest row, source and target together.
    """

    values: IntArray
    longest: int

    @classmethod
    def of(cls, given: npt.ArrayLike) -> "Lengths":
        """Check lengths given as an array, a tensor or a sequence.

        Raises:
            ShapeError: if they are not integers, or not of shape (rows,), (rows, 1) or (rows, sides).
            LengthError: if a length is negative or above 2**40.

        Example:
            >>> Lengths.of([3, 1, 2]).longest, Lengths.of([(3, 4), (5, 1)]).longest
            (3, 7)
            >>> Lengths.of([3, -1])
            Traceback (most recent call last):
            pipeline.errors.LengthError: lengths[1] must be 0 or more, got -1.
        """
        try:
            array = np.asarray(given)
        except (TypeError, ValueError, RuntimeError) as error:
            msg = f"lengths must be integers, one or several per row, got a {type(given).__name__}: {error}"
            raise ShapeError(msg) from error
        # numpy takes an empty list for floats. An empty array or tensor of floats has a dtype of its own, and is wrong.
        if array.size == 0 and array.dtype.kind == "f" and not hasattr(given, "dtype"):
            array = array.astype(np.int64)
        if array.dtype.kind not in "iu":
            msg = f"lengths must be integers, got {array.dtype}; convert them with lengths.astype(int)."
            raise ShapeError(msg, dtype=str(array.dtype))
        if array.ndim not in {1, 2} or (array.ndim == 2 and not array.shape[1]):
            msg = f"lengths must have shape (rows,), or (rows, sides), got {array.shape}."
            raise ShapeError(msg, shape=array.shape)
        values: IntArray = array.reshape(-1, 1) if array.ndim == 1 else array
        return cls(values, _find_longest(values))

    def __len__(self) -> int:
        return len(self.values)

    @property
    def per_row(self) -> int:
        """Number of lengths per row: 1, or that of the sides, such as 2 for source and target."""
        return int(self.values.shape[1])

    def totals(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.int64]:
        """Return the steps of each row from `start` to `stop`, all sides together."""
        totals: npt.NDArray[np.int64] = self.values[start:stop].sum(axis=1, dtype=np.int64)
        return totals

    def digest(self) -> str:
        """Compute a digest of the lengths that does not depend on their integer type."""
        # Short lengths are hashed as 16 bits, which is four times less to hash.
        dtype = np.dtype(np.uint16 if self.longest < 1 << 16 else np.uint64).newbyteorder("<")
        digest = hashlib.sha256(f"{self.values.shape} {dtype}".encode())
        for start, stop in iterate_blocks(len(self)):
            digest.update(np.ascontiguousarray(self.values[start:stop].astype(dtype)).data)
        return digest.hexdigest()


def _find_longest(values: IntArray) -> int:
    longest = 0
    for start, stop in iterate_blocks(len(values)):
        block = values[start:stop]
        low, high = int(block.min()), int(block.max())
        if low < 0 or high > _LIMIT:
            wrong = np.argwhere((block < 0) | (block > _LIMIT))[0]
            row, column = start + int(wrong[0]), "".join(f"[{index}]" for index in wrong[1:] if values.shape[1] > 1)
            length = int(block[tuple(wrong)])
            rule = "0 or more" if length < 0 else f"at most {_LIMIT:,}"
            msg = f"lengths[{row}]{column} must be {rule}, got {length}."
            raise LengthError(msg, row=row, length=length)
        if values.shape[1] > 1:
            high = int(block.sum(axis=1, dtype=np.int64).max())
        longest = max(longest, high)
    return longest


@attrs.frozen
class RowSlice:
    """Part of a row: `sequence[start:stop]`.

    Attributes:
        row: the number of the row.
        start: its first step.
        stop: one past its last step; may be past the end of the row, as in a slice. None for the rest of the row.
    """

    row: int
    start: int = 0
    stop: int | None = None


def _make_empty() -> npt.NDArray[np.int64]:
    return np.empty(0, np.int64)


@final
@attrs.frozen(eq=False)
class RowSplits:
    """The row, or the slice of a truncated or split row, that each number in a plan stands for.

    Numbers below `rows` are the rows, or their first slices if they are split. The numbers from `rows` on are the
    other slices, in order. Nothing is stored for rows that stay whole.

    Attributes:
        rows: number of rows.
        limit: the most steps that a slice has; None if every row is whole.
        extra_rows: the row of each slice after the first of its row.
        extra_starts: the first step of each of these slices.

    Example:
        >>> splits = RowSplits.of(Lengths.of([7, 2]), limit=3, split=True)
        >>> list(splits)
        [RowSlice(row=0, start=0, stop=3), RowSlice(row=1, start=0, stop=3), RowSlice(row=0, start=3, stop=6), \
RowSlice(row=0, start=6, stop=9)]
    """

    rows: int
    limit: int | None = None
    extra_rows: npt.NDArray[np.int64] = attrs.field(factory=_make_empty)
    extra_starts: npt.NDArray[np.int64] = attrs.field(factory=_make_empty)

    @classmethod
    def of(cls, lengths: Lengths, *, limit: int, split: bool) -> "RowSplits":
        """Split rows longer than `limit` into slices, or truncate them to their first slice."""
        if not split:
            return cls(len(lengths), limit)
        long = np.flatnonzero(lengths.values[:, 0] > limit)
        counts = (lengths.values[long, 0].astype(np.int64) - 1) // limit
        extra_rows = np.repeat(long, counts)
        # 0, 1, 2, ... within each row: the index among all, less the index at which the row's slices begin.
        nth = np.arange(len(extra_rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        return cls(len(lengths), limit, extra_rows, (nth + 1) * limit)

    def __len__(self) -> int:
        return self.rows + len(self.extra_rows)

    def __getitem__(self, number: int) -> RowSlice:
        if not 0 <= number < len(self):
            msg = f"number must be from 0 to {len(self) - 1}, got {number}."
            raise IndexError(msg)
        if number < self.rows:
            return RowSlice(int(number), 0, self.limit)
        start = int(self.extra_starts[number - self.rows])
        return RowSlice(
            int(self.extra_rows[number - self.rows]), start, None if self.limit is None else start + self.limit
        )

    def __iter__(self) -> Iterator[RowSlice]:
        return (self[number] for number in range(len(self)))

    def rows_of(self, numbers: IntArray) -> IntArray:
        """Return the row of each number."""
        if not len(self.extra_rows):
            return numbers
        extra = numbers >= self.rows
        return np.where(extra, self.extra_rows[np.where(extra, numbers - self.rows, 0)], numbers)

    def lengths(self, lengths: Lengths, numbers: IntArray | slice) -> npt.NDArray[np.int64]:
        """Return the lengths of some slices, of shape (numbers, 1) or (numbers, 2).

        Args:
            lengths: the lengths of the rows.
            numbers: which slices; a Python slice for a range of them.
        """
        if isinstance(numbers, slice):
            start, stop, _ = numbers.indices(len(self))
            if stop <= self.rows:
                # Only first slices, which are rows in order: no lookup by number is needed.
                return self._truncate(lengths.values[start:stop])
            numbers = np.arange(start, stop)
        found = lengths.values[self.rows_of(numbers)].astype(np.int64)
        if len(self.extra_rows):
            extra = numbers >= self.rows
            found[extra, 0] -= self.extra_starts[numbers[extra] - self.rows]
        return self._truncate(found)

    def _truncate(self, lengths: IntArray) -> npt.NDArray[np.int64]:
        return lengths.astype(np.int64) if self.limit is None else np.minimum(lengths, self.limit, dtype=np.int64)
