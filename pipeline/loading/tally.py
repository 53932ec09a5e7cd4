"""What an epoch's batches really served, counted as they pass."""

import heapq
from collections.abc import Iterable, Iterator
from typing import TypeVar, final

import numpy as np
import numpy.typing as npt

from pipeline.batching.lengths import Lengths
from pipeline.batching.numbers import whole
from pipeline.batching.randomness import Coverage
from pipeline.batching.waste import PaddingOutlier
from pipeline.data.batches import Batch
from pipeline.data.report import Report
from pipeline.data.rows import Kind
from pipeline.errors import LengthError, OptionError

B = TypeVar("B", bound=Batch[Kind])


@final
class EpochCounter:
    """Counts batches as they pass: which rows were served, real and padded steps, and which rows brought padding about.

    For the batches of one process. A row is known by its place; one that is split is served when all its pieces were.

    Args:
        lengths: how many steps each row has, of shape (rows,), as the batches are to serve it: to know which rows are
            missing, or came twice. None counts steps alone.
        most: how many rows are named at most.

    Raises:
        ShapeError: for what are no lengths, a number a row.
        LengthError: for a length below 0.

    Example:
        >>> from pipeline import Bucket, FromIds, Pad
        >>> data = FromIds() >> Bucket(rows=2, seed=None) >> Pad()
        >>> tally = EpochCounter([1, 3, 2, 1])
        >>> for batch in tally.count(data([[5], [5, 6, 7], [5, 6], [5]])):
        ...     print(tally.fields())
        {'rows': '2', 'padding': '16.7%', 'left': '2', 'doubled': '0'}
        {'rows': '4', 'padding': '12.5%', 'left': '0', 'doubled': '0'}
        >>> tally.coverage().complete, tally.culprits
        (True, (PaddingOutlier(row=1, batch=0, length=3, padding=1),))
    """

    def __init__(self, lengths: npt.ArrayLike | None = None, *, most: int = 10) -> None:
        self.report: Report = Report()
        """Real and padded steps of all batches so far."""
        self.most: int = whole("most", most, least=0)
        self._wanted: npt.NDArray[np.int64] | None = None if lengths is None else _one_a_row(lengths)
        rows = 0 if self._wanted is None else len(self._wanted)
        self._steps: npt.NDArray[np.int64] = np.zeros(rows, np.int64)
        self._times: npt.NDArray[np.int64] = np.zeros(rows, np.int64)
        self._worst: list[tuple[int, int, int, int]] = []
        self._left: int = rows
        self._doubled: int = 0

    def count(self, batches: Iterable[B]) -> Iterator[B]:
        """The same batches, each counted before it is handed on."""
        for batch in batches:
            self.add(batch)
            yield batch

    def add(self, batch: Batch[Kind]) -> None:
        """Count a batch.

        Raises:
            LengthError: for a row at a place that the lengths do not have; nothing is counted then.
        """
        places: npt.NDArray[np.int64] = batch.metadata.row_ids.numpy()
        lengths: npt.NDArray[np.int64] = batch.lengths.numpy()
        # Below 0 is what fills a batch up to a fixed shape: no row of the input.
        lengths, places = lengths[places >= 0], places[places >= 0]
        if self._wanted is not None:
            self._serve(self._wanted, places, lengths)
        self._blame(places, lengths)
        self.report += batch.report()

    def coverage(self) -> Coverage:
        """Which rows were not served, or not with all of their steps; and which were served more than once.

        Raises:
            OptionError: if the tally was not told which rows there are.
        """
        if self._wanted is None:
            raise OptionError(
                "the tally knows no lengths, so it cannot tell what is missing; make it EpochCounter(lengths)."
            )
        left, doubled = _states(self._wanted, self._steps, self._times)
        return Coverage(np.flatnonzero(left), np.flatnonzero(doubled))

    @property
    def culprits(self) -> tuple[PaddingOutlier, ...]:
        """The rows that brought about most padding, the worst first: a row that is far longer than all its mates."""
        worst = sorted(self._worst, reverse=True)
        return tuple(PaddingOutlier(row, -batch, length, padding) for padding, batch, row, length in worst)

    def fields(self) -> dict[str, str]:
        """What a progress bar has room for, ready to print: `bar.set_postfix(tally.fields())`."""
        said = {"rows": f"{self.report.rows:,}", "padding": f"{self.report.wasted:.1%}"}
        return said if self._wanted is None else {**said, "left": f"{self._left:,}", "doubled": f"{self._doubled:,}"}

    def __str__(self) -> str:
        lines = [str(self.report)]
        if self._wanted is not None:
            lines.append(
                f"{len(self._wanted) - self._left:,} rows served, {self._left:,} left, {self._doubled:,} doubled"
            )
        lines += [
            f"row {culprit.row:,}, of {culprit.length:,} steps, brought about {culprit.padding:,} steps of padding in "
            f"batch {culprit.batch:,}"
            for culprit in self.culprits
        ]
        return "\n".join(lines)

    def _serve(
        self, wanted: npt.NDArray[np.int64], places: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
    ) -> None:
        strange = np.flatnonzero(places >= len(wanted))
        if len(strange):
            place = int(places[strange[0]])
            msg = f"row {place} was served, but lengths has {len(wanted)} rows, from 0; give the lengths of all rows."
            raise LengthError(msg, row=place, rows=len(wanted))
        rows = np.unique(places)
        before = _states(wanted[rows], self._steps[rows], self._times[rows])
        np.add.at(self._steps, places, lengths)
        np.add.at(self._times, places, 1)
        after = _states(wanted[rows], self._steps[rows], self._times[rows])
        self._left += int(after[0].sum()) - int(before[0].sum())
        self._doubled += int(after[1].sum()) - int(before[1].sum())

    def _blame(self, places: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> None:
        """Note the longest row, with what its mates would be spared without it."""
        if len(lengths) < 2 or not self.most:
            return
        longest = int(lengths.argmax())
        second = int(np.partition(lengths, -2)[-2])
        padding = (int(lengths[longest]) - second) * (len(lengths) - 1)
        if padding:
            # Of equals the earlier batch is the worse: the smallest of the heap is the first to go.
            found = (padding, -self.report.batches, int(places[longest]), int(lengths[longest]))
            push = heapq.heappush if len(self._worst) < self.most else heapq.heappushpop
            push(self._worst, found)


def _one_a_row(lengths: npt.ArrayLike) -> npt.NDArray[np.int64]:
    checked = Lengths.of(lengths)
    if checked.sides != 1:
        msg = f"lengths must be one a row, but {checked.values.shape} arrived; a batch holds one sequence a row."
        raise LengthError(msg, shape=checked.values.shape)
    return checked.total()


def _states(
    wanted: npt.NDArray[np.int64], steps: npt.NDArray[np.int64], times: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which rows lack steps, or were not seen; and which had too many, or, of none, came twice."""
    return (steps < wanted) | (times == 0), (steps > wanted) | ((wanted == 0) & (times > 1))
