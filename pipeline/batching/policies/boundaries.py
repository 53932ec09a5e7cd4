"""Batches that never cross an edge between lengths."""

from collections.abc import Sequence
from typing import final

import attrs
import numpy as np
import numpy.typing as npt
from typing_extensions import override

from pipeline.batching.lengths import Lengths
from pipeline.batching.numbers import whole
from pipeline.batching.policy import LongRows, Policy
from pipeline.errors import OptionError


def _ascending(edges: Sequence[int]) -> tuple[int, ...]:
    known = tuple(whole("edges", edge, least=1) for edge in edges)
    if not known or any(left >= right for left, right in zip(known, known[1:], strict=False)):
        msg = f"edges must be one length or more, each greater than the one before, but {known} arrived."
        raise OptionError(msg, edges=known)
    return known


@final
@attrs.frozen
class Boundaries(Policy):
    """Rows grouped by edges between lengths: a batch never crosses one.

    Args:
        edges: lengths, ascending; rows of up to the first are one group, rows above the last are one too.
        max_steps: how many padded steps a batch may have; None for any number.
        rows: how many rows a batch may have. Give this, `max_steps` or both.

    Raises:
        OptionError: for edges that do not ascend, or if neither `max_steps` nor `rows` is given.

    Example:
        >>> Boundaries((16, 32, 64), max_steps=4_096).room(longest=32)
        128
    """

    edge_lengths: tuple[int, ...] = attrs.field(alias="edges", converter=_ascending)
    max_steps: int | None = attrs.field(default=None, kw_only=True)
    rows: int | None = attrs.field(default=None, kw_only=True)

    @max_steps.validator
    @rows.validator
    def _checked(self, attribute: "attrs.Attribute[int | None]", number: int | None) -> None:
        if number is not None:
            whole(attribute.name, number, least=1)

    def __attrs_post_init__(self) -> None:
        if self.max_steps is None and self.rows is None:
            raise OptionError("Boundaries needs max_steps, rows or both, but neither arrived.")

    @classmethod
    def quantiles(
        cls,
        lengths: npt.ArrayLike,
        buckets: int,
        *,
        max_steps: int | None = None,
        rows: int | None = None,
        longest: int | None = None,
        long_rows: LongRows = "refuse",
        pool: int | None = 100,
    ) -> "Boundaries":
        """Edges that divide rows into so many groups of about as many rows each.

        Fewer groups, where many rows have one length: edges that fall together are one.

        Raises:
            OptionError: for fewer than two groups, or for no lengths.

        Example:
            >>> Boundaries.quantiles([1, 1, 2, 2, 3, 3, 9, 9], 4, rows=2).edges()
            (1, 2, 3)
        """
        whole("buckets", buckets, least=2)
        known = np.sort(Lengths.of(lengths).total())
        if not len(known):
            raise OptionError("quantiles needs lengths to divide, but none arrived.")
        at = np.arange(1, buckets) * len(known) // buckets - 1
        edges = np.unique(np.maximum(known[np.maximum(at, 0)], 1))
        return cls(edges.tolist(), max_steps=max_steps, rows=rows, longest=longest, long_rows=long_rows, pool=pool)

    @override
    def rows_of(self, longest: int) -> int:
        by_steps = None if self.max_steps is None else self.max_steps // longest
        return min(room for room in (by_steps, self.rows) if room is not None)

    @override
    def fits(self) -> int | None:
        return self.max_steps

    @override
    def edges(self) -> tuple[int, ...]:
        return self.edge_lengths
