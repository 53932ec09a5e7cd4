"""Lengths as they are given, checked: a number a row, or two."""

import hashlib
from collections.abc import Iterator
from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.numbers import IntArray
from pipeline.errors import LengthError, ShapeError

BLOCK: Final = 1 << 15
"""How many rows are looked at together: what stays in a processor's cache."""

_MOST: Final = 1 << 40
"""Longer than anything that memory holds; sums of two stay whole numbers."""


def blocks(count: int) -> Iterator[tuple[int, int]]:
    """Where each block of so many rows begins and ends."""
    for begin in range(0, count, BLOCK):
        yield begin, min(begin + BLOCK, count)


@attrs.frozen(eq=False)
class Lengths:
    """How many steps each row has; with a source and a target, how many each of them has.

    Attributes:
        values: whole numbers, of shape (rows, 1) or (rows, 2): as they were given, not copied.
        top: the most steps of a row, both lengths together.
    """

    values: IntArray
    top: int

    @classmethod
    def of(cls, given: npt.ArrayLike) -> "Lengths":
        """Lengths out of an array, a tensor or a sequence.

        Raises:
            ShapeError: for what is no array of whole numbers, of one axis, or of two with one or two columns.
            LengthError: for a length below 0, or one that nothing could have.

        Example:
            >>> Lengths.of([3, 1, 2]).top, Lengths.of([(3, 4), (5, 1)]).top
            (3, 7)
            >>> Lengths.of([3, -1])
            Traceback (most recent call last):
            pipeline.errors.LengthError: lengths[1] is -1, but a length is 0 or more.
        """
        try:
            array = np.asarray(given)
        except (TypeError, ValueError, RuntimeError) as error:
            msg = f"lengths must be whole numbers, one or two a row, but {type(given).__name__} arrived: {error}"
            raise ShapeError(msg) from error
        if array.size == 0 and array.dtype.kind == "f" and not hasattr(given, "dtype"):
            array = array.astype(np.int64)
        if array.dtype.kind not in "iu":
            msg = f"lengths must be whole numbers, but {array.dtype} arrived; lengths.astype(int) makes them so."
            raise ShapeError(msg, dtype=str(array.dtype))
        if array.ndim not in {1, 2} or (array.ndim == 2 and array.shape[1] not in {1, 2}):
            msg = f"lengths must have the shape (rows,) or (rows, 2), but {array.shape} arrived."
            raise ShapeError(msg, shape=array.shape)
        values: IntArray = array.reshape(-1, 1) if array.ndim == 1 else array
        return cls(values, _checked_top(values))

    def __len__(self) -> int:
        return len(self.values)

    @property
    def sides(self) -> int:
        """How many lengths a row has: one, or two."""
        return int(self.values.shape[1])

    def total(self, begin: int = 0, end: int | None = None) -> npt.NDArray[np.int64]:
        """Each row's steps, both lengths together, of the rows from `begin` to `end`."""
        block = self.values[begin:end]
        total: npt.NDArray[np.int64] = block.sum(axis=1, dtype=np.int64)
        return total

    def digest(self) -> str:
        """What tells these lengths from any others, whatever type their numbers have."""
        kind = np.dtype(np.uint16 if self.top < 1 << 16 else np.uint64).newbyteorder("<")
        found = hashlib.sha256(f"{self.values.shape} {kind}".encode())
        for begin, end in blocks(len(self)):
            found.update(np.ascontiguousarray(self.values[begin:end].astype(kind)).data)
        return found.hexdigest()


def _checked_top(values: IntArray) -> int:
    if not len(values):
        return 0
    top = 0
    for begin, end in blocks(len(values)):
        block = values[begin:end]
        low, high = int(block.min()), int(block.max())
        if low < 0 or high > _MOST:
            wrong = np.argwhere((block < 0) | (block > _MOST))[0]
            row, place = begin + int(wrong[0]), "".join(f"[{index}]" for index in wrong[1:] if values.shape[1] > 1)
            length = int(block[tuple(wrong)])
            rule = "a length is 0 or more" if length < 0 else f"no row has more than {_MOST:,} steps"
            msg = f"lengths[{row}]{place} is {length}, but {rule}."
            raise LengthError(msg, row=row, length=length)
        if values.shape[1] == 2:
            high = int(block.sum(axis=1, dtype=np.int64).max())
        top = max(top, high)
    return top
