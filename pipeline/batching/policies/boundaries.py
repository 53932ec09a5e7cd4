"""Batches that never cross an edge between lengths."""

from collections.abc import Sequence
from itertools import pairwise
from typing import final

import attrs
import numpy as np
import numpy.typing as npt
from typing_extensions import override

from pipeline.batching.lengths import Lengths
from pipeline.batching.numbers import whole, whole_or_none
from pipeline.batching.policy import LongRows, Policy
from pipeline.errors import OptionError


def _ascending(edges: Sequence[int]) -> tuple[int, ...]:
    known = tuple(whole("edges", edge, least=1) for edge in edges)
    if not known or any(left >= right for left, right in pairwise(known)):
        msg = f"edges must be one length or more, each greater than the one before, but {known} arrived."
        raise OptionError(msg, edges=known)
    return known


@final
@attrs.frozen
class Boundaries(Policy):
    """Rows grouped by edges between lengths: a batch never crosses one.

    Args:
        edges: lengths, ascending; rows of up to the first are one group, rows above the last are one too.
        max_padded_steps: how many padded steps a batch may have; None for any number.
        rows: how many rows a batch may have. Give this, `max_padded_steps` or both.

    Raises:
        OptionError: for edges that do not ascend, or if neither `max_padded_steps` nor `rows` is given.

    Example:
        >>> Boundaries((16, 32, 64), max_padded_steps=4_096).room(longest=32)
        128
    """

    edge_lengths: tuple[int, ...] = attrs.field(alias="edges", converter=_ascending)
    max_padded_steps: int | None = attrs.field(default=None, kw_only=True)
    rows: int | None = attrs.field(default=None, kw_only=True)

    @override
    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        whole_or_none("max_padded_steps", self.max_padded_steps, least=1)
        whole_or_none("rows", self.rows, least=1)
        if self.max_padded_steps is None and self.rows is None:
            raise OptionError("Boundaries needs max_padded_steps, rows or both, but neither arrived.")

    @classmethod
    def quantiles(
        cls,
        lengths: npt.ArrayLike,
        buckets: int,
        *,
        max_padded_steps: int | None = None,
        rows: int | None = None,
        longest: int | None = None,
        too_long: LongRows = "raise",
        batches_per_sort: int | None = 100,
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
        last = np.maximum(np.arange(1, buckets) * len(known) // buckets - 1, 0)
        edges = np.unique(np.maximum(known[last], 1))
        return cls(
            edges.tolist(),
            max_padded_steps=max_padded_steps,
            rows=rows,
            longest=longest,
            too_long=too_long,
            batches_per_sort=batches_per_sort,
        )

    @override
    def rows_of(self, longest: int) -> int:
        by_steps = None if self.max_padded_steps is None else self.max_padded_steps // longest
        return min(room for room in (by_steps, self.rows) if room is not None)

    @override
    def fits(self) -> int | None:
        return self.max_padded_steps

    @override
    def edges(self) -> tuple[int, ...]:
        return self.edge_lengths
