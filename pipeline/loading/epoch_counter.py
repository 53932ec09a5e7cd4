"""Count the batches of an epoch as they are served: rows, coverage, padding and its outliers."""

import heapq
from collections.abc import Iterable, Iterator
from typing import TypeVar, final

import numpy as np
import numpy.typing as npt

from pipeline.batching.analysis import Coverage, PaddingOutlier
from pipeline.batching.lengths import Lengths
from pipeline.checks.options import check_int
from pipeline.data.batches import Batch
from pipeline.data.kinds import Kind
from pipeline.data.report import Report
from pipeline.errors import LengthError, OptionError

B = TypeVar("B", bound=Batch[Kind])


@final
class EpochCounter:
    """Count batches as they are served: rows, real and padded steps, and the rows that cause most padding.

    It counts the batches of one process. Rows are identified by their row id; a split row counts as served when all of
    its parts were.

    Args:
        lengths: the number of steps of each row as the batches serve it, of shape (rows,). Needed to know which rows
            are missing or were served twice; without it, only steps are counted.
        max_outliers: the number of outliers to keep.

    Raises:
        ShapeError: if `lengths` are not lengths.
        LengthError: if a length is below 0, or if there are two lengths per row.

    Example:
        >>> from pipeline import Bucket, FromIds, Pad
        >>> data = FromIds() >> Bucket(rows=2, seed=None) >> Pad()
        >>> counter = EpochCounter([1, 3, 2, 1])
        >>> for batch in counter.count(data([[5], [5, 6, 7], [5, 6], [5]])):
        ...     print(counter.fields())
        {'rows': '2', 'padding': '16.7%', 'left': '2', 'duplicated': '0'}
        {'rows': '4', 'padding': '12.5%', 'left': '0', 'duplicated': '0'}
        >>> counter.coverage().complete, counter.outliers
        (True, (PaddingOutlier(row=1, batch=0, length=3, padding=1),))
    """

    def __init__(self, lengths: npt.ArrayLike | None = None, *, max_outliers: int = 10) -> None:
        self.report: Report = Report()
        """Real and padded steps of all batches so far."""
        self.max_outliers: int = check_int("max_outliers", max_outliers, minimum=0)
        self._lengths: npt.NDArray[np.int64] | None = None if lengths is None else _check_one_per_row(lengths)
        rows = 0 if self._lengths is None else len(self._lengths)
        # Steps and times served, of each row. A split row is served in several parts, so its steps must add up to its
        # length; an empty row has no steps to count, so its times are.
        self._steps: npt.NDArray[np.int64] = np.zeros(rows, np.int64)
        self._times: npt.NDArray[np.int64] = np.zeros(rows, np.int64)
        # A heap of (padding, -batch, row, length), the smallest first.
        self._outliers: list[tuple[int, int, int, int]] = []
        self._left: int = rows
        self._duplicated: int = 0

    def count(self, batches: Iterable[B]) -> Iterator[B]:
        """Yield the same batches, each after it is counted."""
        for batch in batches:
            self.add(batch)
            yield batch

    def add(self, batch: Batch[Kind]) -> None:
        """Count a batch.

        Raises:
            LengthError: for a row id beyond `lengths`; the batch is not counted then.
        """
        row_ids: npt.NDArray[np.int64] = batch.metadata.row_ids.numpy()
        lengths: npt.NDArray[np.int64] = batch.lengths.numpy()
        # Rows with negative ids only fill a batch up to a fixed shape.
        lengths, row_ids = lengths[row_ids >= 0], row_ids[row_ids >= 0]
        if self._lengths is not None:
            self._count_rows(self._lengths, row_ids, lengths)
        self._find_outlier(row_ids, lengths)
        self.report += batch.report()

    def coverage(self) -> Coverage:
        """Return which rows were not served completely, and which were served more than once.

        Raises:
            OptionError: if the counter has no lengths.
        """
        if self._lengths is None:
            raise OptionError(
                "coverage needs the lengths of all rows, but this counter has none; create EpochCounter(lengths)."
            )
        left, duplicated = _compare(self._lengths, self._steps, self._times)
        return Coverage(np.flatnonzero(left), np.flatnonzero(duplicated))

    @property
    def outliers(self) -> tuple[PaddingOutlier, ...]:
        """The rows that cause most padding, the worst first: rows much longer than all their batchmates."""
        worst = sorted(self._outliers, reverse=True)
        return tuple(PaddingOutlier(row, -batch, length, padding) for padding, batch, row, length in worst)

    def fields(self) -> dict[str, str]:
        """Return a few figures as text for a progress bar: `bar.set_postfix(counter.fields())`."""
        fields = {"rows": f"{self.report.rows:,}", "padding": f"{self.report.wasted:.1%}"}
        return (
            fields
            if self._lengths is None
            else {**fields, "left": f"{self._left:,}", "duplicated": f"{self._duplicated:,}"}
        )

    def __str__(self) -> str:
        lines = [str(self.report)]
        if self._lengths is not None:
            served = len(self._lengths) - self._left
            lines.append(f"{served:,} rows served, {self._left:,} left, {self._duplicated:,} duplicated")
        lines += [
            f"row {outlier.row:,}, of {outlier.length:,} steps, causes {outlier.padding:,} steps of padding in batch "
            f"{outlier.batch:,}"
            for outlier in self.outliers
        ]
        return "\n".join(lines)

    def _count_rows(
        self, expected: npt.NDArray[np.int64], row_ids: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
    ) -> None:
        unknown = np.flatnonzero(row_ids >= len(expected))
        if len(unknown):
            row = int(row_ids[unknown[0]])
            msg = (
                f"lengths must have one length per row, but row {row} was served and lengths has {len(expected)} "
                "(rows count from 0); give the lengths of all rows."
            )
            raise LengthError(msg, row=row, rows=len(expected))
        # Only the rows of this batch can change state, so the running counts take time in the batch, not in the epoch.
        rows = np.unique(row_ids)
        before = _compare(expected[rows], self._steps[rows], self._times[rows])
        np.add.at(self._steps, row_ids, lengths)
        np.add.at(self._times, row_ids, 1)
        after = _compare(expected[rows], self._steps[rows], self._times[rows])
        self._left += int(after[0].sum()) - int(before[0].sum())
        self._duplicated += int(after[1].sum()) - int(before[1].sum())

    def _find_outlier(self, row_ids: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> None:
        """Keep the batch's longest row, with the padding that its batchmates would not have without it."""
        if len(lengths) < 2 or not self.max_outliers:
            return
        # Without its longest row, a batch would be as wide as the second longest: every batchmate would be spared the
        # difference. Several equally long rows cause no padding by themselves, so none of them is an outlier.
        longest = int(lengths.argmax())
        second = int(np.partition(lengths, -2)[-2])
        padding = (int(lengths[longest]) - second) * (len(lengths) - 1)
        if padding:
            # The negative batch number makes the earlier of two equal outliers the larger entry, so it is kept longer.
            entry = (padding, -self.report.batches, int(row_ids[longest]), int(lengths[longest]))
            push = heapq.heappush if len(self._outliers) < self.max_outliers else heapq.heappushpop
            push(self._outliers, entry)


def _check_one_per_row(lengths: npt.ArrayLike) -> npt.NDArray[np.int64]:
    checked = Lengths.of(lengths)
    if checked.per_row != 1:
        msg = (
            f"lengths must have one length per row, got shape {checked.values.shape}; count source and target with one "
            "counter each."
        )
        raise LengthError(msg, shape=checked.values.shape)
    return checked.totals()


def _compare(
    expected: npt.NDArray[np.int64], steps: npt.NDArray[np.int64], times: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which rows lack steps, and which were served more than once (empty rows are counted by times)."""
    return (steps < expected) | (times == 0), (steps > expected) | ((expected == 0) & (times > 1))
