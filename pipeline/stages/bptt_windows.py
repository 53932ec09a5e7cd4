"""Rows played side by side in windows, for truncated back-propagation through time."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Generic, cast, final, overload

import attrs
from typing_extensions import override

from pipeline.batching.making import digest_of
from pipeline.batching.numbers import whole
from pipeline.batching.stream_cursor import StreamCursor
from pipeline.core.stage import Spec
from pipeline.data.rows import Ids, K, Kind, Row, is_row
from pipeline.data.windows import filler_like, window_of
from pipeline.errors import LengthError, OptionError
from pipeline.stages.incoming import checked_row
from pipeline.stages.resumable import Resumable


@final
class BPTTWindows(Resumable[Row[K], list[Row[K]]]):
    """Long rows in, batches of windows out, each going on where the window at its index in the batch before ended.

    A lane plays one row after another, in the order of the input, a window a batch. A lane whose row has ended takes
    the next row of the input, so none is idle while rows are left; at the end, lanes that ran out hold rows of no
    steps, which weigh nothing and of which there is no answer. A window never spans two rows: the last one of a row
    may be shorter. Nothing is shuffled; shuffle the source. `Padded.carrying` takes states from window to window.

    Targets of steps are cut along; a class of the whole row goes with each of its windows.

    Source: Williams and Peng 1990, "An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network
    Trajectories", doi:10.1162/neco.1990.2.4.490; lanes with states carried on as in Merity, Keskar and Socher 2017,
    "Regularizing and Optimizing LSTM Language Models", arXiv:1708.02182. Their lanes run on over the ends of texts;
    ours begin anew there.

    Args:
        kind: what the rows are; ids if left out.
        rows: how many lanes there are: the rows of every batch.
        steps: how many steps a window has at most.

    Raises:
        OptionError: if a number is below 1.

    Example:
        >>> import torch
        >>> rows = [Row(Ids(torch.arange(n)), place=place) for place, n in enumerate((5, 2, 3))]
        >>> for batch in BPTTWindows(rows=2, steps=2)(rows):
        ...     print([(row.place, row.begin, len(row)) for row in batch])
        [(0, 0, 2), (1, 0, 2)]
        [(0, 2, 2), (2, 0, 2)]
        [(0, 4, 1), (2, 2, 1)]
    """

    @overload
    def __init__(self: "BPTTWindows[Ids]", *, rows: int, steps: int) -> None: ...
    @overload
    def __init__(self, kind: type[K], *, rows: int, steps: int) -> None: ...
    def __init__(self, kind: type[Kind] = Ids, *, rows: int, steps: int) -> None:
        self.kind: Final = kind
        self.rows: Final = whole("rows", rows, least=1)
        self.steps: Final = whole("steps", steps, least=1)

    @override
    def build(self, spec: Spec, /) -> Spec:
        return spec

    @override
    def __call__(self, values: Iterable[Row[K]], /) -> Iterator[list[Row[K]]]:
        """Batches of one window a lane.

        Raises:
            ShapeError: for what is no row of the lanes' kind.
            TargetError: for a row whose steps do not have one target each.
        """
        return (batch for batch, _ in self.marked(values, StreamCursor()))

    @override
    def predict_batches(self, values: Iterable[Row[K]], /) -> Iterator[list[Row[K]]]:
        """Batches of whole rows.

        Raises:
            LengthError: for a row of more than one window: it has one answer.
        """
        return self(map(self._whole, values))

    @override
    def recipe(self, world_size: int = 1) -> str:
        return digest_of({"stage": "BPTTWindows", "rows": self.rows, "steps": self.steps, "world_size": world_size})

    @override
    def marked(
        self, values: Iterable[Row[K]], at: StreamCursor, /, *, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[list[Row[K]], StreamCursor]]:
        at = attrs.evolve(at, recipe=self._check_mine(at, rank, world_size))
        lanes = _resumed(self._checked(values, at.rows), at, self.rows * world_size)
        return self._played(lanes, at, slice(rank * self.rows, (rank + 1) * self.rows))

    def _played(self, lanes: "_Dealt[K]", at: StreamCursor, mine: slice) -> Iterator[tuple[list[Row[K]], StreamCursor]]:
        while lanes.deal():
            windows = lanes.windows(self.steps)[mine]
            yield windows, lanes.cursor(at)

    def _checked(self, values: Iterable[object], first: int) -> Iterator[Row[K]]:
        return (cast("Row[K]", checked_row(row, self.kind, place)) for place, row in enumerate(values, start=first))

    def _whole(self, row: Row[K]) -> Row[K]:
        if is_row(row) and len(row) > self.steps:
            msg = (
                f"row {row.row_id} has {len(row)} steps, but a window has {self.steps}, and a prediction of a row is "
                "one answer; predict with Bucket in place of BPTTWindows."
            )
            raise LengthError(msg, row=row.row_id, length=len(row), steps=self.steps)
        return row


@attrs.frozen(eq=False)
class _Playing(Generic[K]):
    """What a lane plays: a row, its number among those that were read, and the step that comes next."""

    row: Row[K]
    number: int
    begin: int = 0


@attrs.define(eq=False)
class _Dealt(Generic[K]):
    """BPTTWindows, and the rows that are dealt to them."""

    rows: Iterator[Row[K]]
    lanes: list[_Playing[K] | None]
    read: int

    def deal(self) -> bool:
        """Give each lane that has none a row, while there are some; False if no lane has one then."""
        for index, playing in enumerate(self.lanes):
            if playing is not None:
                continue
            row = next(self.rows, None)
            if row is None:
                break
            self.lanes[index] = _Playing(row, self.read)
            self.read += 1
        return any(playing is not None for playing in self.lanes)

    def windows(self, steps: int) -> list[Row[K]]:
        """The next window of each lane."""
        model = next(playing.row for playing in self.lanes if playing is not None)
        windows = [filler_like(model) if playing is None else _window(playing, steps) for playing in self.lanes]
        self.lanes = [_next(playing, steps) for playing in self.lanes]
        return windows

    def cursor(self, at: StreamCursor) -> StreamCursor:
        """Where the lanes stand: the first row that one is playing, how many were read, and what each one plays."""
        first = min((playing.number for playing in self.lanes if playing is not None), default=self.read)
        inside = [self.read - first]
        for playing in self.lanes:
            inside += [0, 0] if playing is None else [playing.number - first + 1, playing.begin]
        return attrs.evolve(at, rows=first, inside=tuple(inside))


def _window(playing: _Playing[K], steps: int) -> Row[K]:
    return window_of(playing.row, playing.begin, playing.begin + steps)


def _next(playing: _Playing[K] | None, steps: int) -> _Playing[K] | None:
    if playing is None or playing.begin + steps >= len(playing.row):
        return None
    return attrs.evolve(playing, begin=playing.begin + steps)


def _resumed(rows: Iterator[Row[K]], at: StreamCursor, lanes: int) -> _Dealt[K]:
    """The lanes as a cursor says, their rows read again; rows in between that have ended are read over."""
    dealt: list[_Playing[K] | None] = [None] * lanes
    if not at.inside:
        return _Dealt(rows, dealt, at.rows)
    played = _pairs(at.inside[1:])
    if len(played) != lanes:
        msg = f"the cursor has {len(played)} lanes, but there are {lanes}; give what these lanes gave."
        raise OptionError(msg, lanes=lanes)
    lane_of = {number - 1: (lane, begin) for lane, (number, begin) in enumerate(played) if number}
    for number in range(at.inside[0]):
        row = next(rows, None)
        if row is None:
            msg = f"the cursor stands behind row {at.rows + number}, but the source ends before; give the same source."
            raise OptionError(msg, row=at.rows + number)
        if number in lane_of:
            lane, begin = lane_of[number]
            dealt[lane] = _Playing(row, at.rows + number, begin)
    return _Dealt(rows, dealt, at.rows + at.inside[0])


def _pairs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(numbers[::2], numbers[1::2], strict=True))
