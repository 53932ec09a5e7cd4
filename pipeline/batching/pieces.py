"""What is left of long rows: truncated, or split into pieces that are rows of their own."""

from collections.abc import Iterator
from typing import final

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.lengths import Lengths
from pipeline.batching.numbers import IntArray
from pipeline.batching.policy import Policy
from pipeline.errors import LengthError, OptionError


@attrs.frozen
class Piece:
    """A part of a row: `sequence[begin:end]`.

    Attributes:
        row: the row's number.
        begin: its first step.
        end: the step behind its last, as in a slice: it may lie past the row's end. None for all the rest.
    """

    row: int
    begin: int = 0
    end: int | None = None


def _none() -> npt.NDArray[np.int64]:
    return np.empty(0, np.int64)


@final
@attrs.frozen(eq=False)
class Pieces:
    """What each number in a plan means, as a part of a row.

    The numbers below `rows` are the rows themselves, or the first piece of each; those above are the further pieces
    of long rows, in order.

    Attributes:
        rows: how many rows there are.
        limit: how many steps a piece has at most; None if every row is whole.
        further: the row of each further piece.
        begins: where each of these begins in its row.

    Example:
        >>> pieces = Pieces.of(Lengths.of([7, 2]), limit=3, split=True)
        >>> list(pieces)
        [Piece(row=0, begin=0, end=3), Piece(row=1, begin=0, end=3), Piece(row=0, begin=3, end=6), \
Piece(row=0, begin=6, end=9)]
    """

    rows: int
    limit: int | None = None
    further: npt.NDArray[np.int64] = attrs.field(factory=_none)
    begins: npt.NDArray[np.int64] = attrs.field(factory=_none)

    @classmethod
    def of(cls, lengths: Lengths, *, limit: int, split: bool) -> "Pieces":
        """The pieces of rows of such lengths: the first of each alone, or all."""
        if not split:
            return cls(len(lengths), limit)
        long = np.flatnonzero(lengths.values[:, 0] > limit)
        counts = (lengths.values[long, 0].astype(np.int64) - 1) // limit
        further = np.repeat(long, counts)
        nth = np.arange(len(further)) - np.repeat(np.cumsum(counts) - counts, counts)
        return cls(len(lengths), limit, further, (nth + 1) * limit)

    def __len__(self) -> int:
        return self.rows + len(self.further)

    def __getitem__(self, number: int) -> Piece:
        if not 0 <= number < len(self):
            msg = f"there are {len(self)} pieces, from 0, but number {number} was asked for."
            raise IndexError(msg)
        if number < self.rows:
            return Piece(int(number), 0, self.limit)
        begin = int(self.begins[number - self.rows])
        return Piece(int(self.further[number - self.rows]), begin, None if self.limit is None else begin + self.limit)

    def __iter__(self) -> Iterator[Piece]:
        return (self[number] for number in range(len(self)))

    def rows_of(self, numbers: IntArray) -> IntArray:
        """The row that each number belongs to."""
        if not len(self.further):
            return numbers
        later = numbers >= self.rows
        return np.where(later, self.further[np.where(later, numbers - self.rows, 0)], numbers)

    def lengths(self, lengths: Lengths, numbers: IntArray | slice) -> npt.NDArray[np.int64]:
        """How many steps the pieces have, of shape (pieces, 1), or (pieces, 2) for two lengths a row.

        Args:
            lengths: the rows' lengths.
            numbers: which pieces, or from which to which.
        """
        if isinstance(numbers, slice):
            begin, end, _ = numbers.indices(len(self))
            if end <= self.rows:
                return self._kept(lengths.values[begin:end])
            numbers = np.arange(begin, end)
        rows = self.rows_of(numbers)
        found = lengths.values[rows].astype(np.int64)
        if len(self.further):
            later = numbers >= self.rows
            found[later, 0] -= self.begins[numbers[later] - self.rows]
        return self._kept(found)

    def _kept(self, found: IntArray) -> npt.NDArray[np.int64]:
        return found.astype(np.int64) if self.limit is None else np.minimum(found, self.limit, dtype=np.int64)


def pieces_of(lengths: Lengths, policy: Policy) -> Pieces:
    """The pieces that a policy makes of rows: whole rows, unless some are long.

    Raises:
        LengthError: for a long row, if the policy refuses those.
        OptionError: if it would truncate or split rows of two lengths.
    """
    limit = policy.limit()
    if limit is None or lengths.top <= limit or policy.too_long == "alone":
        return Pieces(len(lengths))
    if policy.too_long == "raise":
        raise _refused(lengths.total(), limit, policy)
    if lengths.sides == 2:
        msg = (
            f"too_long={policy.too_long!r} needs one length a row, but two arrived: it is not said which of a pair "
            'is cut; cut them before, or take too_long="alone".'
        )
        raise OptionError(msg, too_long=policy.too_long)
    return Pieces.of(lengths, limit=limit, split=policy.too_long == "split")


def _refused(totals: npt.NDArray[np.int64], limit: int, policy: Policy) -> LengthError:
    long = np.flatnonzero(totals > limit)
    row, length = int(long[0]), int(totals[long[0]])
    others = f" (of {len(long):,} rows that are too long the first)" if len(long) > 1 else ""
    msg = (
        f"row {row} has {length} steps{others}, but {policy} has room for rows of up to {limit}; raise that, leave the "
        'row out, or say what becomes of long rows: too_long="alone", "truncate" or "split".'
    )
    return LengthError(msg, row=row, length=length, limit=limit)
