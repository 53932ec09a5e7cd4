"""Measure plans: padding and the rows that cause it, randomness, and coverage of the rows."""

from typing import final

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.arrays import IntArray, SeededRandom
from pipeline.batching.batches import correlate_neighbors
from pipeline.batching.lengths import Lengths
from pipeline.batching.plan import Plan
from pipeline.checks.options import check_int
from pipeline.data.report import Report
from pipeline.errors import LengthError, OptionError


@final
@attrs.frozen
class Randomness:
    """Two measures of how much of the order by length is left in the order of training.

    Attributes:
        correlation: the correlation of the mean lengths of adjacent batches of one rank: about 0 if batches are in
            random order, near 1 if they are sorted. A shuffled plan stays within max(0.05, 2 / sqrt(batches)), unless
            some 20 random orders of its batches all exceed that.
        repeated_batchmates: the share of pairs of batchmates that share a batch in the next epoch, too: 1 if batches
            are always the same.

    Example:
        >>> from pipeline.batching import Budget
        >>> lengths = [length % 40 for length in range(10_000)]
        >>> this, following = (Plan.of(lengths, Budget(400, batches_per_sort=50), epoch=epoch) for epoch in (0, 1))
        >>> randomness = Randomness.of(this, following)
        >>> abs(randomness.correlation) < 0.1, randomness.repeated_batchmates < 0.1
        (True, True)
    """

    correlation: float
    repeated_batchmates: float

    @classmethod
    def of(cls, plan: Plan, following: Plan) -> "Randomness":
        """Measure a plan and the plan of the next epoch."""
        return cls(measure_correlation(plan), measure_repeated_batchmates(plan, following))

    def __str__(self) -> str:
        mates = f"{self.repeated_batchmates:.1%}"
        return f"correlation of adjacent batches {self.correlation:+.3f}, repeated batchmates {mates}"


def measure_correlation(plan: Plan, rank: int = 0) -> float:
    """Compute Pearson's correlation of the mean lengths of adjacent batches, in the order of one rank.

    It is 0 if there are fewer than three batches, or all have the same mean length.
    """
    ranked = plan if plan.selected_rank is not None else plan.rank(rank)
    return correlate_neighbors(ranked.steps / np.maximum(ranked.stops - ranked.starts, 1))


def measure_repeated_batchmates(plan: Plan, following: Plan, *, rows: int = 1_000_000) -> float:
    """Measure the share of a plan's pairs of batchmates that share a batch in the following plan, too.

    Args:
        plan: the plan of one epoch.
        following: the plan of another, for the same rows.
        rows: about how many rows to count pairs of, in whole batches drawn at random; all if there are fewer.

    Raises:
        OptionError: if the plans have different rows.
    """
    check_int("rows", rows, minimum=1)
    if len(plan.splits) != len(following.splits):
        msg = f"plans must have the same rows, got {len(plan.splits)} and {len(following.splits)}."
        raise OptionError(msg)
    # Whole batches, because only they have all pairs. A fixed seed, so that the figure is the same in every run.
    chosen = SeededRandom(0, ()).permutation(len(plan))
    sizes = (plan.stops - plan.starts)[chosen].astype(np.int64)
    count = int(np.searchsorted(np.cumsum(sizes), rows)) + 1
    chosen, sizes = chosen[:count], sizes[:count]
    pairs = int((sizes * (sizes - 1) // 2).sum())
    if not pairs:
        return 0.0
    # Rows are grouped by their batch in both plans, as one number. A group of n rows is n * (n - 1) / 2 pairs, so no
    # pair is ever listed.
    batch_of = np.full(len(following.splits), -1, np.int64)
    batch_of[concatenate_batches(following)] = np.repeat(np.arange(len(following)), following.stops - following.starts)
    next_batch = batch_of[np.concatenate([plan[batch] for batch in chosen.tolist()])]
    groups = np.repeat(np.arange(len(chosen)), sizes) * len(following) + next_batch
    # Rows that the next plan drops have the batch -1, and no pair.
    _, counts = np.unique(groups[next_batch >= 0], return_counts=True)
    return int((counts * (counts - 1) // 2).sum()) / pairs


def concatenate_batches(plan: Plan) -> IntArray:
    """Return the numbers of all rows in a plan, batch after batch."""
    return np.concatenate([plan.order[:0], *plan])


@final
@attrs.frozen(eq=False)
class Coverage:
    """Rows that plans leave out, and rows that they have more than once.

    Attributes:
        missing: the rows in no batch.
        duplicated: the rows in more than one.

    Example:
        >>> from pipeline.batching import Rows
        >>> plan = Plan.of([3, 1, 2, 5], Rows(1), world_size=2)
        >>> Coverage.of(plan.rank(0), plan.rank(1)).complete
        True
        >>> len(Coverage.of(plan.rank(0)).missing)
        2
    """

    missing: npt.NDArray[np.int64]
    duplicated: npt.NDArray[np.int64]

    @classmethod
    def of(cls, *plans: Plan) -> "Coverage":
        """Count the rows of plans together: of all ranks, or of the parts of an epoch.

        Raises:
            OptionError: if there is no plan, or plans have different rows.
        """
        if len({len(plan.splits) for plan in plans}) != 1:
            sizes = [len(plan.splits) for plan in plans]
            msg = f"plans must be at least one and have the same rows, got plans of {sizes} rows."
            raise OptionError(msg)
        counts = np.zeros(len(plans[0].splits), np.int64)
        for plan in plans:
            counts += np.bincount(concatenate_batches(plan), minlength=len(counts))
        return cls(np.flatnonzero(counts == 0), np.flatnonzero(counts > 1))

    @property
    def complete(self) -> bool:
        """True if every row occurs exactly once."""
        return not len(self.missing) and not len(self.duplicated)


@final
@attrs.frozen
class PaddingOutlier:
    """A row that is longer than the others of its batch, and so causes padding.

    Attributes:
        row: its number.
        batch: its batch in the plan.
        length: its steps, source and target together.
        padding: the steps of padding that its batch would save if the row were left out.
    """

    row: int
    batch: int
    length: int
    padding: int


@final
@attrs.frozen(eq=False)
class PaddingReport:
    """Padding of a plan, and the rows that cause most of it.

    Attributes:
        report: real and padded steps of all batches; `report.wasted` is the share of padding.
        padding: the steps of padding of each batch, of shape (batches,).
        outliers: the rows that cause most padding, worst first.

    Example:
        >>> from pipeline.batching import Rows
        >>> lengths = [9, 2, 2, 1, 1, 1]
        >>> padding = PaddingReport.of(Plan.of(lengths, Rows(3), seed=None), lengths, max_outliers=1)
        >>> padding.padding.tolist(), padding.outliers
        ([14, 0], (PaddingOutlier(row=0, batch=0, length=9, padding=14),))
    """

    report: Report
    padding: npt.NDArray[np.int64]
    outliers: tuple[PaddingOutlier, ...]

    @classmethod
    def of(cls, plan: Plan, lengths: npt.ArrayLike, *, max_outliers: int = 10) -> "PaddingReport":
        """Measure the padding of a plan.

        Args:
            plan: the plan.
            lengths: the lengths that it was built from.
            max_outliers: the most rows to list.

        Raises:
            LengthError: if the plan was built from other lengths.
        """
        check_int("max_outliers", max_outliers, minimum=0)
        checked = Lengths.of(lengths)
        if len(checked) != plan.rows or checked.per_row != plan.shapes.shape[1] - 1:
            msg = (
                f"lengths must be those of the plan, of shape ({plan.rows}, {plan.shapes.shape[1] - 1}), got shape "
                f"{checked.values.shape}."
            )
            raise LengthError(msg, lengths=checked.values.shape, rows=plan.rows)
        return cls(plan.report(), plan.padded - plan.steps, _find_outliers(plan, checked, max_outliers))


def _find_outliers(plan: Plan, lengths: Lengths, max_outliers: int) -> tuple[PaddingOutlier, ...]:
    if not len(plan):
        return ()
    numbers = concatenate_batches(plan)
    sizes = (plan.stops - plan.starts).astype(np.int64)
    starts = np.cumsum(sizes) - sizes
    # In the order of the plan, so that each batch is a run of rows.
    ordered = plan.splits.lengths(lengths, numbers)
    caused = np.zeros(len(numbers), np.int64)
    for column in range(lengths.per_row):
        _add_caused_padding(caused, ordered[:, column], starts, sizes)
    # Stable: of rows that cause the same padding, the first in the plan is listed first.
    worst = np.argsort(-caused, kind="stable")[:max_outliers]
    worst = worst[caused[worst] > 0]
    batches = np.searchsorted(starts, worst, side="right") - 1
    rows = plan.splits.rows_of(numbers[worst])
    columns = (rows.tolist(), batches.tolist(), ordered[worst].sum(axis=1).tolist(), caused[worst].tolist())
    return tuple(PaddingOutlier(*values) for values in zip(*columns, strict=True))


def _add_caused_padding(
    caused: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], starts: IntArray, sizes: npt.NDArray[np.int64]
) -> None:
    """Add the padding caused by the longest row of each batch: its lead over the second longest, once per batchmate."""
    longest = np.maximum.reduceat(lengths, starts)
    # Of several longest rows only the first is charged: with two of them its lead is 0, so that neither causes padding.
    candidates = np.flatnonzero(lengths == np.repeat(longest, sizes))
    first = candidates[np.searchsorted(candidates, starts)]
    rest = lengths.copy()
    rest[first] = 0
    caused[first] += (longest - np.maximum.reduceat(rest, starts)) * (sizes - 1)
