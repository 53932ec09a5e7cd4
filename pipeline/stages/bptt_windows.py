"""Cut long rows into windows, side by side in lanes, for truncated back-propagation through time."""

from collections.abc import Iterable, Iterator
from typing import Final, Generic, cast, final, overload

import attrs
from typing_extensions import override

from pipeline.batching.builder import compute_digest
from pipeline.batching.cursor import StreamCursor
from pipeline.checks.options import check_int
from pipeline.core.stage import Spec
from pipeline.data.iteration import iterate
from pipeline.data.kinds import Ids, K, Kind
from pipeline.data.rows import Row, RowCutter, is_row, make_filler, reject_split
from pipeline.errors import LengthError, OptionError
from pipeline.stages.resumable import Resumable, check_row


@final
class BPTTWindows(Resumable[Row[K], list[Row[K]]]):
    """Cut long rows into windows; the window at each index of a batch continues the one at that index before.

    An index of the batch is a lane. A lane takes one row after another, in the order of the input, and gives one window
    per batch. When its row ends, it takes the next row of the input, so no lane is idle while rows are left. At the
    end, lanes without a row give empty rows, which have no weight in a loss and no prediction. A window never spans two
    rows, so the last window of a row may be shorter. Nothing is shuffled; shuffle the source.
    `Padded.with_carry` passes states from window to window.

    Targets per step are cut too; a class of the whole row goes with each of its windows.

    Source: Williams and Peng 1990, "An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network
    Trajectories", doi:10.1162/neco.1990.2.4.490; lanes with carried states as in Merity, Keskar and Socher 2017,
    "Regularizing and Optimizing LSTM Language Models", arXiv:1708.02182. Their lanes run across the ends of texts; ours
    start from an empty state there.

    Args:
        kind: the kind of the rows; `Ids` by default.
        rows: the number of lanes, which is the number of rows of every batch.
        steps: the maximum number of steps of a window.

    Raises:
        OptionError: if a number is below 1, or for rows with `Sides`, which cannot be split.

    Example:
        >>> import torch
        >>> rows = [Row(Ids(torch.arange(n)), row_id=row) for row, n in enumerate((5, 2, 3))]
        >>> for batch in BPTTWindows(rows=2, steps=2)(rows):
        ...     print([(row.row_id, row.start_step, len(row)) for row in batch])
        [(0, 0, 2), (1, 0, 2)]
        [(0, 2, 2), (2, 0, 2)]
        [(0, 4, 1), (2, 2, 1)]
    """

    stepwise = True

    @overload
    def __init__(self: "BPTTWindows[Ids]", *, rows: int, steps: int) -> None: ...
    @overload
    def __init__(self, kind: type[K], *, rows: int, steps: int) -> None: ...
    def __init__(self, kind: type[Kind] = Ids, *, rows: int, steps: int) -> None:
        reject_split(kind)
        self.kind: Final = kind
        self.rows: Final = check_int("rows", rows, minimum=1)
        self.steps: Final = check_int("steps", steps, minimum=1)

    @override
    def build(self, spec: Spec, /) -> Spec:
        return spec

    @override
    def __call__(self, values: Iterable[Row[K]], /) -> Iterator[list[Row[K]]]:
        """Yield batches of one window per lane.

        Raises:
            ShapeError: for an item that is not a row of the kind.
            TargetError: for a row with targets per step, but not one per step.
        """
        return (batch for batch, _ in self.resume(values, StreamCursor()))

    @override
    def predict_batches(self, values: Iterable[Row[K]], /) -> Iterator[list[Row[K]]]:
        """Yield batches of whole rows.

        Raises:
            LengthError: for a row longer than a window: a row has one prediction.
        """
        return self(self._check_length(row) for row in iterate(values))

    @override
    def get_recipe(self, world_size: int = 1) -> str:
        options = {"stage": "BPTTWindows", "rows": self.rows, "steps": self.steps, "world_size": world_size}
        return compute_digest(options)

    @override
    def resume(
        self, values: Iterable[Row[K]], at: StreamCursor, /, *, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[list[Row[K]], StreamCursor]]:
        at = attrs.evolve(at, recipe=self._check_cursor(at, rank, world_size))
        rows = (
            cast("Row[K]", check_row(row, self.kind, number))
            for number, row in enumerate(iterate(values), start=at.rows)
        )
        # The lanes of all ranks, so that every rank knows which rows the others take.
        lanes = _resume_lanes(rows, at, self.rows * world_size)
        return self._make_batches(lanes, at, slice(rank * self.rows, (rank + 1) * self.rows))

    def _make_batches(
        self, lanes: "_Lanes[K]", at: StreamCursor, of_rank: slice
    ) -> Iterator[tuple[list[Row[K]], StreamCursor]]:
        while lanes.fill():
            windows = lanes.cut_windows(self.steps)[of_rank]
            yield windows, lanes.get_cursor(at)

    def _check_length(self, row: Row[K]) -> Row[K]:
        if is_row(row) and len(row) > self.steps:
            msg = (
                f"row {row.row_id} has {len(row)} steps, but a window has {self.steps}, and a row has one prediction; "
                "predict with Bucket instead of BPTTWindows."
            )
            raise LengthError(msg, row=row.row_id, length=len(row), steps=self.steps)
        return row


@attrs.frozen(eq=False)
class _Lane(Generic[K]):
    """A lane's row, its number in the source, and the step at which its next window begins."""

    cutter: RowCutter[K]
    number: int
    start: int = 0


@attrs.define(eq=False)
class _Lanes(Generic[K]):
    """All lanes (None for one without a row), the rows to come, and the number of rows read so far."""

    rows: Iterator[Row[K]]
    lanes: list[_Lane[K] | None]
    read: int

    def fill(self) -> bool:
        """Give each lane without a row the next row; return False if no lane has a row then."""
        for index, lane in enumerate(self.lanes):
            if lane is not None:
                continue
            row = next(self.rows, None)
            if row is None:
                break
            self.lanes[index] = _Lane(RowCutter(row), self.read)
            self.read += 1
        return any(lane is not None for lane in self.lanes)

    def cut_windows(self, steps: int) -> list[Row[K]]:
        """Return the next window of each lane, and advance the lanes."""
        any_row = next(lane.cutter.row for lane in self.lanes if lane is not None)
        windows = [
            make_filler(any_row) if lane is None else lane.cutter.cut(lane.start, lane.start + steps)
            for lane in self.lanes
        ]
        self.lanes = [_advance(lane, steps) for lane in self.lanes]
        return windows

    def get_cursor(self, at: StreamCursor) -> StreamCursor:
        """Return the cursor. Its rows end before the first row that a lane still uses.

        Its position holds the number of rows read since then, and for each lane its row's number, counted from 1 since
        then, and its next step; 0, 0 for a lane without a row.
        """
        # Rows before the first one in use need not be read again; rows after it that have ended are skipped.
        first = min((lane.number for lane in self.lanes if lane is not None), default=self.read)
        position = [self.read - first]
        for lane in self.lanes:
            position += [0, 0] if lane is None else [lane.number - first + 1, lane.start]
        return attrs.evolve(at, rows=first, position=tuple(position))


def _advance(lane: _Lane[K] | None, steps: int) -> _Lane[K] | None:
    if lane is None or lane.start + steps >= len(lane.cutter.row):
        return None
    return _Lane(lane.cutter, lane.number, lane.start + steps)


def _resume_lanes(rows: Iterator[Row[K]], at: StreamCursor, count: int) -> _Lanes[K]:
    """Return the lanes at a cursor. Rows after `at.rows` that have ended already are read and skipped."""
    lanes: list[_Lane[K] | None] = [None] * count
    if not at.position:
        return _Lanes(rows, lanes, at.rows)
    read, *numbers = at.position
    positions = list(zip(numbers[::2], numbers[1::2], strict=True))
    if len(positions) != count:
        msg = f"the cursor has {len(positions)} lanes, got {count}; resume with the number of lanes that wrote it."
        raise OptionError(msg, lanes=count)
    lane_of_row = {number - 1: (lane, start) for lane, (number, start) in enumerate(positions) if number}
    for number in range(read):
        row = next(rows, None)
        if row is None:
            msg = f"the cursor is after row {at.rows + number}, but the source ends before it; pass the same source."
            raise OptionError(msg, row=at.rows + number)
        if number in lane_of_row:
            lane, start = lane_of_row[number]
            lanes[lane] = _Lane(RowCutter(row), at.rows + number, start)
    return _Lanes(rows, lanes, at.rows + read)
