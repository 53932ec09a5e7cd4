"""Policies: how many rows fit in one batch, given the length of its longest row."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, final, get_args

import attrs
import numpy as np
import numpy.typing as npt
from typing_extensions import override

from pipeline.batching.arrays import IntArray
from pipeline.batching.lengths import Lengths
from pipeline.checks.options import check_choice, check_int, check_optional_int
from pipeline.errors import OptionError

TooLong = Literal["raise", "alone", "truncate", "split"]
"""What happens to a row that is too long for any batch."""


@attrs.frozen
class Policy(ABC):
    """Limit on the size of a batch: a number of rows that depends on the length of its longest row.

    A policy of your own defines `max_rows`, and `max_length` if a row can be too long for it.

    Args:
        longest: the most steps that a row may have; None for no limit other than that of the batch.
        too_long: what happens to a longer row, or to one that fits in no batch: `raise` an error, put it `alone` in a
            batch, `truncate` it, or `split` it into rows of its own.
        batches_per_sort: how many batches are made from rows that are sorted together. More of them give less padding,
            fewer mix the rows better. None sorts all rows together.
    """

    longest: int | None = attrs.field(default=None, kw_only=True)
    too_long: TooLong = attrs.field(default="raise", kw_only=True)
    # With sentences of about 20 words and a budget of 4,096 steps, 100 gives less than 2% of padding, and less than 10%
    # of the pairs of batchmates meet again in the next epoch. None gives 0.5% of padding.
    batches_per_sort: int | None = attrs.field(default=100, kw_only=True)

    def __attrs_post_init__(self) -> None:
        check_optional_int("longest", self.longest, minimum=1)
        check_optional_int("batches_per_sort", self.batches_per_sort, minimum=1)
        check_choice("too_long", self.too_long, get_args(TooLong))

    def __str__(self) -> str:
        """Return the policy with the options that differ from their defaults, for messages."""
        given = ((field, getattr(self, field.name)) for field in attrs.fields(type(self)))
        options = [f"{field.alias}={value!r}" for field, value in given if value != field.default]
        return f"{type(self).__name__}({', '.join(options)})"

    @abstractmethod
    def max_rows(self, longest: int) -> int:
        """Return how many rows fit in a batch whose longest row has that many steps.

        Only called with lengths from 1 to `limit()`. Must not grow with the length.
        """

    def max_length(self) -> int | None:
        """Return the most steps that a row may have to fit in a batch by itself; None for no limit."""
        return None

    def edges(self) -> tuple[int, ...]:
        """Return lengths at which batches are separated, ascending: no batch has rows both up to an edge and above."""
        return ()

    def shapes(self, rows: IntArray, longest: IntArray) -> IntArray:
        """Return what batches are padded to: their rows, then their steps, one line per batch.

        Args:
            rows: the number of rows of each batch.
            longest: the longest row of each batch, one column per length of a row.
        """
        return np.column_stack([rows, longest])

    def cost(self, shapes: IntArray) -> npt.NDArray[np.float64]:
        """Return the relative cost of each padded batch: by default its padded steps."""
        # In float64: as int64, rows x steps of very long rows could overflow, and a cost need not be exact.
        padded: npt.NDArray[np.float64] = shapes[:, 0] * shapes[:, 1:].sum(axis=1, dtype=np.float64)
        return padded

    @final
    def limit(self) -> int | None:
        """Return the most steps of a row that is not too long; None for no limit."""
        limit = self.max_length()
        if self.longest is None or limit is None:
            return self.longest if limit is None else limit
        return min(self.longest, limit)

    @final
    def room(self, longest: int) -> int:
        """Return how many rows fit in a batch with that longest row: at least one, and only one if it is too long."""
        limit = self.limit()
        if limit is not None and longest > limit:
            return 1
        return max(1, self.max_rows(max(longest, 1)))


@final
@attrs.frozen
class Rows(Policy):
    """A number of rows per batch, whatever their length.

    Args:
        rows: the most rows in a batch.

    Example:
        >>> Rows(64).room(longest=20)
        64
    """

    rows: int = attrs.field()

    @override
    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        check_int("rows", self.rows, minimum=1)

    @override
    def max_rows(self, longest: int) -> int:
        return self.rows


@final
@attrs.frozen
class Budget(Policy):
    """A number of padded steps per batch: rows times longest row. The sum of the lengths would not bound memory.

    Args:
        max_padded_steps: the most padded steps in a batch.
        rows: the most rows in a batch; None for no limit.
        quadratic: for attention, whose cost grows with the square of the length: a row of L steps counts as
            L + L * L / quadratic steps, so a row of `quadratic` steps counts twice. None counts steps only.
        multiple_of: pad batches to a multiple of this many steps, and count them so. Only for one length per row.

    Raises:
        OptionError: if a number is below 1, or no row of `multiple_of` steps fits.

    Example:
        >>> Budget(4_096).room(longest=20), Budget(4_096, rows=128).room(longest=20)
        (204, 128)
        >>> Budget(4_096, quadratic=512).room(longest=512), Budget(4_096).room(longest=512)
        (4, 8)
        >>> Budget(4_096, multiple_of=64).room(longest=20)
        64
    """

    max_padded_steps: int = attrs.field()
    rows: int | None = attrs.field(default=None, kw_only=True)
    quadratic: int | None = attrs.field(default=None, kw_only=True)
    multiple_of: int = attrs.field(default=1, kw_only=True)

    @override
    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        check_int("max_padded_steps", self.max_padded_steps, minimum=1)
        check_optional_int("rows", self.rows, minimum=1)
        check_optional_int("quadratic", self.quadratic, minimum=1)
        check_int("multiple_of", self.multiple_of, minimum=1)
        if not self.max_length():
            steps = self.multiple_of
            counts = steps * (1 + steps / (self.quadratic or math.inf))
            msg = (
                f"max_padded_steps must hold a row of {steps} steps, which counts as {counts:g}, got "
                f"{self.max_padded_steps}; raise it."
            )
            raise OptionError(msg, max_padded_steps=self.max_padded_steps, steps=steps, quadratic=self.quadratic)

    @override
    def max_rows(self, longest: int) -> int:
        longest += -longest % self.multiple_of  # rounded up
        if self.quadratic is None:
            by_steps = self.max_padded_steps // longest
        else:
            # budget // (L + L * L / q), in exact integers.
            by_steps = self.max_padded_steps * self.quadratic // (longest * (self.quadratic + longest))
        return by_steps if self.rows is None else min(by_steps, self.rows)

    @override
    def max_length(self) -> int:
        longest = self.max_padded_steps
        if self.quadratic is not None:
            # The largest L with L + L * L / q <= budget, that is L * L + q * L <= q * budget, in exact integers.
            scale = self.quadratic
            longest = (math.isqrt(scale * scale + 4 * scale * longest) - scale) // 2
        return longest - longest % self.multiple_of

    @override
    def shapes(self, rows: IntArray, longest: IntArray) -> IntArray:
        if self.multiple_of > 1 and longest.shape[1] > 1:
            msg = (
                f"multiple_of={self.multiple_of} needs one length per row, got {longest.shape[1]}: rounding up each "
                "could exceed the budget; leave it out."
            )
            raise OptionError(msg, multiple_of=self.multiple_of)
        return super().shapes(rows, longest + -longest % self.multiple_of)

    @override
    def cost(self, shapes: IntArray) -> npt.NDArray[np.float64]:
        steps: npt.NDArray[np.float64] = shapes[:, 1:].sum(axis=1, dtype=np.float64)
        counted = steps if self.quadratic is None else steps * (1 + steps / self.quadratic)
        return counted * shapes[:, 0]


def _check_edges(edges: Sequence[int]) -> tuple[int, ...]:
    checked = tuple(check_int("edges", edge, minimum=1) for edge in edges)
    if not checked or any(left >= right for left, right in pairwise(checked)):
        msg = f"edges must be ascending lengths, at least one, got {checked}."
        raise OptionError(msg, edges=checked)
    return checked


@final
@attrs.frozen
class Boundaries(Policy):
    """Groups of rows by length: no batch has rows of two groups.

    Args:
        edges: ascending lengths. Rows up to the first edge are one group, rows above the last are another.
        max_padded_steps: the most padded steps in a batch; None for no limit.
        rows: the most rows in a batch. Give this, `max_padded_steps` or both.

    Raises:
        OptionError: if the edges do not ascend, or neither `max_padded_steps` nor `rows` is given.

    Example:
        >>> Boundaries((16, 32, 64), max_padded_steps=4_096).room(longest=32)
        128
    """

    edge_lengths: tuple[int, ...] = attrs.field(alias="edges", converter=_check_edges)
    max_padded_steps: int | None = attrs.field(default=None, kw_only=True)
    rows: int | None = attrs.field(default=None, kw_only=True)

    @override
    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        check_optional_int("max_padded_steps", self.max_padded_steps, minimum=1)
        check_optional_int("rows", self.rows, minimum=1)
        if self.max_padded_steps is None and self.rows is None:
            raise OptionError("Boundaries needs max_padded_steps, rows or both, got neither.")

    @classmethod
    def quantiles(
        cls,
        lengths: npt.ArrayLike,
        buckets: int,
        *,
        max_padded_steps: int | None = None,
        rows: int | None = None,
        longest: int | None = None,
        too_long: TooLong = "raise",
        batches_per_sort: int | None = 100,
    ) -> "Boundaries":
        """Choose edges that divide the rows into `buckets` groups of about equal numbers of rows.

        There are fewer groups if many rows have the same length.

        Raises:
            OptionError: if `buckets` is below 2, or there are no lengths.

        Example:
            >>> Boundaries.quantiles([1, 1, 2, 2, 3, 3, 9, 9], 4, rows=2).edges()
            (1, 2, 3)
        """
        check_int("buckets", buckets, minimum=2)
        totals = np.sort(Lengths.of(lengths).totals())
        if not len(totals):
            raise OptionError("quantiles needs the length of at least one row, got none.")
        # The last row of each group but the longest group, which has no edge.
        last = np.maximum(np.arange(1, buckets) * len(totals) // buckets - 1, 0)
        edges = np.unique(np.maximum(totals[last], 1))
        return cls(
            edges.tolist(),
            max_padded_steps=max_padded_steps,
            rows=rows,
            longest=longest,
            too_long=too_long,
            batches_per_sort=batches_per_sort,
        )

    @override
    def max_rows(self, longest: int) -> int:
        by_steps = None if self.max_padded_steps is None else self.max_padded_steps // longest
        return min(room for room in (by_steps, self.rows) if room is not None)

    @override
    def max_length(self) -> int | None:
        return self.max_padded_steps

    @override
    def edges(self) -> tuple[int, ...]:
        return self.edge_lengths


def _sort_by_steps(shapes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    checked = [(check_int("rows", rows, minimum=1), check_int("steps", steps, minimum=1)) for rows, steps in shapes]
    if not checked:
        raise OptionError("shapes must have at least one (rows, steps), got none.")
    return tuple(sorted(set(checked), key=lambda shape: (shape[1], shape[0])))


@final
@attrs.frozen
class Shapes(Policy):
    """A fixed set of shapes, for graphs that are compiled per shape. Every batch is padded to one, in rows too.

    A row belongs to the shape with the fewest steps that holds it, and of those to the one with the most rows.

    Args:
        allowed: pairs of rows and steps.

    Raises:
        OptionError: if there are no shapes, or a number is below 1; in a plan, if rows have two lengths.

    Example:
        >>> shapes = Shapes([(16, 128), (64, 32)])
        >>> shapes.room(longest=20), shapes.room(longest=40)
        (64, 16)
    """

    allowed: tuple[tuple[int, int], ...] = attrs.field(converter=_sort_by_steps)

    @override
    def max_rows(self, longest: int) -> int:
        steps = min(steps for _, steps in self.allowed if steps >= longest)
        # A shape with more steps and more rows is ignored, since the number of rows must not grow with the length.
        return max(rows for rows, allowed in self.allowed if allowed == steps)

    @override
    def max_length(self) -> int:
        return self.allowed[-1][1]

    @override
    def shapes(self, rows: IntArray, longest: IntArray) -> IntArray:
        """Return the smallest allowed shape for each batch; a batch with one row that is too long has its own shape."""
        if longest.shape[1] > 1:
            sides = longest.shape[1]
            msg = f"Shapes needs one length per row, got {sides}: its shapes have rows and steps; use a Budget."
            raise OptionError(msg)
        own = np.column_stack([rows, longest]).astype(np.int64)
        found = own.copy()
        # The largest area first, so that the last assignment is the smallest shape that fits.
        for allowed in sorted(self.allowed, key=lambda shape: (shape[0] * shape[1], shape[1]), reverse=True):
            found[(own <= allowed).all(axis=1)] = allowed
        return found
