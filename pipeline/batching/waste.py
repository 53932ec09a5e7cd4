"""Where an epoch's padding is, and which rows bring it about."""

from typing import final

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.lengths import Lengths
from pipeline.batching.numbers import IntArray, whole
from pipeline.batching.plan import Plan
from pipeline.batching.randomness import served
from pipeline.data.report import Report
from pipeline.errors import LengthError


@final
@attrs.frozen
class PaddingOutlier:
    """A row that makes its mates longer than they need be.

    Attributes:
        row: its number.
        batch: its batch in the plan.
        length: how many steps it has, both lengths together.
        padding: how many steps of padding its mates would be spared without it.
    """

    row: int
    batch: int
    length: int
    padding: int


@final
@attrs.frozen(eq=False)
class PaddingReport:
    """What an epoch computes for nothing.

    Attributes:
        report: real and padded steps of all batches; `report.wasted` is the share of padding.
        padding: how many steps of padding each batch has, of shape (batches,).
        culprits: the rows that bring about most of it, the worst first.

    Example:
        >>> from pipeline.batching import Rows
        >>> lengths = [9, 2, 2, 1, 1, 1]
        >>> waste = PaddingReport.of(Plan.of(lengths, Rows(3), seed=None), lengths, most=1)
        >>> waste.padding.tolist(), waste.culprits
        ([14, 0], (PaddingOutlier(row=0, batch=0, length=9, padding=14),))
    """

    report: Report
    padding: npt.NDArray[np.int64]
    culprits: tuple[PaddingOutlier, ...]

    @classmethod
    def of(cls, plan: Plan, lengths: npt.ArrayLike, *, most: int = 10) -> "PaddingReport":
        """The waste of a plan.

        Args:
            plan: the plan.
            lengths: those that it was made of.
            most: how many rows are named at most.

        Raises:
            LengthError: for other lengths than the plan's.
        """
        whole("most", most, least=0)
        known = Lengths.of(lengths)
        if len(known) != plan.rows or known.sides != plan.shapes.shape[1] - 1:
            msg = (
                f"lengths are of shape {known.values.shape}, but the plan was made for {plan.rows} rows; give the same."
            )
            raise LengthError(msg, lengths=known.values.shape, rows=plan.rows)
        return cls(plan.report(), plan.padded - plan.steps, _culprits(plan, known, most))


def _culprits(plan: Plan, lengths: Lengths, most: int) -> tuple[PaddingOutlier, ...]:
    if not len(plan):
        return ()
    numbers = served(plan)
    sizes = (plan.stops - plan.starts).astype(np.int64)
    begins = np.cumsum(sizes) - sizes
    found = plan.pieces.lengths(lengths, numbers)
    forced = np.zeros(len(numbers), np.int64)
    for side in range(lengths.sides):
        _force(forced, found[:, side], begins, sizes)
    worst = np.argsort(-forced, kind="stable")[:most]
    worst = worst[forced[worst] > 0]
    batches = np.searchsorted(begins, worst, side="right") - 1
    rows = plan.pieces.rows_of(numbers[worst])
    totals = found[worst].sum(axis=1)
    columns = (rows.tolist(), batches.tolist(), totals.tolist(), forced[worst].tolist())
    return tuple(PaddingOutlier(*values) for values in zip(*columns, strict=True))


def _force(
    forced: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], begins: IntArray, sizes: npt.NDArray[np.int64]
) -> None:
    """Add to the longest row of each batch what lies between it and the next, once for each mate."""
    longest = np.maximum.reduceat(lengths, begins)
    among = np.flatnonzero(lengths == np.repeat(longest, sizes))
    first = among[np.searchsorted(among, begins)]
    rest = lengths.copy()
    rest[first] = 0
    forced[first] += (longest - np.maximum.reduceat(rest, begins)) * (sizes - 1)
