"""What a batch may hold: what every policy says, and the options that all of them take."""

from abc import ABC, abstractmethod
from typing import Literal, final, get_args

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.numbers import IntArray, one_of, whole_or_none

LongRows = Literal["raise", "alone", "truncate", "split"]
"""What becomes of a row that is too long for any batch."""


@attrs.frozen
class Policy(ABC):
    """What a batch may hold, as a number of rows by the length of its longest.

    A policy of your own says `rows_of`, and `fits` if a row may be too long for it; the rest follows.

    Args:
        longest: how many steps a row may have; None if the policy alone decides.
        too_long: what becomes of a longer row, or of one that no batch could hold: `raise` it with an error, let it
            stand `alone` in a batch, `truncate` it, or `split` it into pieces that are rows of their own.
        batches_per_sort: how many batches are made of rows that are sorted together. More make less padding, fewer mix rows better.
            None sorts all rows together.
    """

    longest: int | None = attrs.field(default=None, kw_only=True)
    too_long: LongRows = attrs.field(default="raise", kw_only=True)
    batches_per_sort: int | None = attrs.field(default=100, kw_only=True)

    def __attrs_post_init__(self) -> None:
        whole_or_none("longest", self.longest, least=1)
        whole_or_none("batches_per_sort", self.batches_per_sort, least=1)
        one_of("too_long", self.too_long, get_args(LongRows))

    @abstractmethod
    def rows_of(self, longest: int) -> int:
        """How many rows a batch may hold whose longest row has so many steps.

        Only asked for rows that fit, and never below one step.
        """

    def fits(self) -> int | None:
        """How many steps a row may have to fit a batch by itself; None if any number."""
        return None

    def edges(self) -> tuple[int, ...]:
        """Lengths that no batch crosses, ascending: rows up to an edge never meet rows above it."""
        return ()

    def shapes(self, rows: IntArray, longest: IntArray) -> IntArray:
        """What batches are padded to: their rows, then their steps; both by batch.

        Args:
            rows: how many rows each batch has.
            longest: the most steps of a row of each batch, a column for each of a row's lengths.
        """
        return np.column_stack([rows, longest])

    def work(self, shapes: IntArray) -> npt.NDArray[np.float64]:
        """What each padded batch costs, for comparing one with another: its padded steps."""
        padded: npt.NDArray[np.float64] = shapes[:, 0] * shapes[:, 1:].sum(axis=1, dtype=np.float64)
        return padded

    @final
    def limit(self) -> int | None:
        """How many steps a row may have before it is a long one; None if any number."""
        limits = [limit for limit in (self.longest, self.fits()) if limit is not None]
        return min(limits, default=None)

    @final
    def room(self, longest: int) -> int:
        """How many rows a batch may hold whose longest row has so many steps: at least one; a long row stands alone."""
        limit = self.limit()
        if limit is not None and longest > limit:
            return 1
        return max(1, self.rows_of(max(longest, 1)))
