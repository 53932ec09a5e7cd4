"""Group rows of like length into batches, so that little of a batch is padding."""

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, Literal, cast, final, overload

from torch.utils.data import Sampler
from typing_extensions import override

from pipeline.borders.checked import described
from pipeline.errors import LengthError, OptionError, ShapeError
from pipeline.sequences.rows import Ids, K, Kind, Row, is_row
from pipeline.stage import Flow, Stream

LongRows = Literal["refuse", "alone"]


@final
class Bucket(Stream[Row[K], list[Row[K]]]):
    """Rows in, batches of rows of like length out, shuffled; no row lost or doubled.

    Rows are read ahead a pool at a time, sorted by length, cut into batches, and the batches
    shuffled: sorting saves padding, but must not become an order of training. Each call is
    an epoch with an order of its own, fixed by the seed.

    Args:
        kind: what the rows are; ids if left out.
        max_steps: how many padded steps a batch may have: its rows times its longest one.
        rows: how many rows a batch may have. Give this, `max_steps` or both.
        look_ahead: how many rows are read before batches are made of them: what is held in memory,
            and as far as an endless input is read ahead.
        seed: what the shuffling starts from. None keeps each pool's batches in order of length.
        long_rows: what becomes of a row longer than `max_steps`: `refuse` it with an error, or let it stand
            `alone` in a batch over the budget.

    Raises:
        OptionError: if neither `max_steps` nor `rows` is given, or a number is below 1.

    Example:
        >>> import torch
        >>> rows = [Row(Ids(torch.ones(n, dtype=torch.int64))) for n in (4, 1, 5, 2)]
        >>> [[len(row) for row in batch] for batch in Bucket(max_steps=10, seed=None)(rows)]
        [[5, 4], [2, 1]]
    """

    @overload
    def __init__(
        self: "Bucket[Ids]",
        *,
        max_steps: int | None = None,
        rows: int | None = None,
        look_ahead: int = 10_000,
        seed: int | None = 0,
        long_rows: LongRows = "refuse",
    ) -> None: ...
    @overload
    def __init__(
        self,
        kind: type[K],
        *,
        max_steps: int | None = None,
        rows: int | None = None,
        look_ahead: int = 10_000,
        seed: int | None = 0,
        long_rows: LongRows = "refuse",
    ) -> None: ...
    def __init__(
        self,
        kind: type[Kind] = Ids,
        *,
        max_steps: int | None = None,
        rows: int | None = None,
        look_ahead: int = 10_000,
        seed: int | None = 0,
        long_rows: LongRows = "refuse",
    ) -> None:
        if max_steps is None and rows is None:
            msg = "Bucket needs max_steps, rows or both, but neither arrived; Bucket(max_steps=4096) is a fair start."
            raise OptionError(msg)
        for name, number in (("max_steps", max_steps), ("rows", rows), ("look_ahead", look_ahead)):
            if number is not None and number < 1:
                msg = f"{name} must be 1 or more, but {number} arrived."
                raise OptionError(msg, **{name: number})
        self.kind: Final = kind
        self.max_steps = max_steps
        self.rows = rows
        self.look_ahead = look_ahead
        self.seed = seed
        self.long_rows: LongRows = long_rows
        self.epoch: int = 0
        """How many times the bucket was called: with the seed, what fixes the next order."""

    @override
    def fit(self, flow: Flow, /) -> Flow:
        return flow

    @override
    def __call__(self, values: Iterable[Row[K]], /) -> Iterator[list[Row[K]]]:
        """Batches of like length, shuffled within each pool.

        Raises:
            ShapeError: for what is no row of the bucket's kind.
            LengthError: for a row longer than `max_steps`, unless long rows may stand alone.
        """
        return self._batches(values, self.next_order())

    @override
    def serve(self, values: Iterable[Row[K]], /) -> Iterator[list[Row[K]]]:
        """Batches of like length, pool after pool, nothing shuffled; the epoch does not move."""
        return self._batches(values, None)

    def sampler(self, lengths: Sequence[int]) -> "BucketSampler":
        """The same grouping as a batch sampler of a stock `DataLoader`.

        Args:
            lengths: each row's length; all of them are one pool.

        Example:
            >>> sampler = Bucket(max_steps=10, seed=None).sampler([4, 1, 5, 2])
            >>> list(sampler)
            [[2, 0], [3, 1]]
        """
        return BucketSampler(self, lengths)

    def _batches(self, values: Iterable[Row[K]], order: random.Random | None) -> Iterator[list[Row[K]]]:
        rows = self._checked(values)
        while pool := list(islice(rows, self.look_ahead)):
            for group in self.groups([len(row) for row in pool], [row.place for row in pool], order):
                yield [pool[index] for index in group]

    def _checked(self, values: Iterable[object]) -> Iterator[Row[K]]:
        """The rows as they come, each of them a row, and of the bucket's kind."""
        for place, row in enumerate(values):
            if not is_row(row) or not isinstance(row.sequence, self.kind):
                came = f"{type(row.sequence).__name__} in a Row" if is_row(row) else described(row)
                msg = (
                    f"item {place} must be a Row of {self.kind.__name__}, but {came} arrived; "
                    "begin with a door, such as Tokenize, Numbers or Frames."
                )
                raise ShapeError(msg, row=place)
            yield cast("Row[K]", row)

    def next_order(self) -> random.Random | None:
        """What shuffles the next epoch, and one epoch on; None if nothing is shuffled."""
        # Of its own, not the global generator: nothing else that draws numbers changes the batches.
        order = None if self.seed is None else random.Random(f"{self.seed}/{self.epoch}")
        self.epoch += 1
        return order

    def groups(self, lengths: Sequence[int], places: Sequence[int], order: random.Random | None) -> list[list[int]]:
        """Indices of the rows of one pool in groups of like length, none over the budget, shuffled by `order`."""
        indices = list(range(len(lengths)))
        groups: list[list[int]] = []
        if order is not None:
            # Rows of one length meet other mates each epoch: the sort is stable, and keeps this order among them.
            order.shuffle(indices)
        for index in sorted(indices, key=lambda index: -lengths[index]):
            if not groups or len(groups[-1]) >= self._room(lengths[groups[-1][0]]):
                self._check_fits(lengths[index], places[index])
                groups.append([])
            groups[-1].append(index)
        if order is not None:
            order.shuffle(groups)
        return groups

    def _room(self, longest: int) -> int:
        """How many rows a batch may have whose longest row has so many steps. Rows of no steps cost one."""
        by_steps = self.max_steps // max(longest, 1) if self.max_steps is not None else self.rows
        return max(1, min(room for room in (by_steps, self.rows) if room is not None))

    def _check_fits(self, length: int, place: int) -> None:
        if self.max_steps is not None and length > self.max_steps and self.long_rows == "refuse":
            msg = (
                f"row {place} has {length} steps, but a batch may have max_steps={self.max_steps}; truncate it "
                'at its door (max_length), raise max_steps, or let it stand alone: Bucket(long_rows="alone").'
            )
            raise LengthError(msg, row=place, length=length, max_steps=self.max_steps)


@final
class BucketSampler(Sampler[list[int]]):
    """Lists of row numbers, a list a batch: made by `Bucket.sampler` for a `DataLoader`'s `batch_sampler`."""

    def __init__(self, bucket: Bucket[K], lengths: Sequence[int]) -> None:
        self._bucket = bucket
        self._lengths = [int(length) for length in lengths]

    def __len__(self) -> int:
        return len(self._groups(None))

    @override
    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._groups(self._bucket.next_order()))

    def _groups(self, order: random.Random | None) -> list[list[int]]:
        return self._bucket.groups(self._lengths, range(len(self._lengths)), order)
