"""Implementations that make batches: the library's plans, and those of other packages."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeAlias

import attrs
import torch
from torch import Tensor
from typing_extensions import override

from bench.batching.data import BUDGET, Batch, Lengths
from pipeline import Ids, Pad, Row
from pipeline.batching import Budget, Cursor, Plan, Policy, Rows
from pipeline.loading import Loader, PlannedBatches

LoadEpoch: TypeAlias = Callable[[], Iterator[Tensor]]
"""Yields the padded ids, batch x time, of each batch of an epoch; at every call."""


@attrs.frozen
class BatchLimit:
    """The largest batch.

    Attributes:
        rows: the number of rows, for implementations without a budget of steps.
        max_padded_steps: the budget of padded steps; None if all implementations get a number of rows.
    """

    rows: int = 64
    max_padded_steps: int | None = BUDGET

    def __str__(self) -> str:
        return f"{self.rows} rows" if self.max_padded_steps is None else f"{self.max_padded_steps:,} padded steps"


class Implementation(ABC):
    """Makes the batches of an epoch.

    The constructor prepares the data as the package wants it. That happens once before training and is not timed.

    Args:
        lengths: the length of each row.
        limit: the largest batch.
    """

    def __init__(self, lengths: Lengths, limit: BatchLimit) -> None:
        self.lengths = lengths
        self.limit = limit

    @abstractmethod
    def batches(self, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """Yield the batches of an epoch for one rank, as indices of rows."""

    def sample(self, epoch: int) -> Iterator[object]:
        """Yield the batches of an epoch as a loader gets them, in the package's own type. This is timed."""
        return self.batches(epoch)

    def resume(self, epoch: int, batches_done: int) -> Iterator[Batch]:
        """Yield the remaining batches of an epoch. Without a state to restore, the first batches are skipped."""
        return islice(self.batches(epoch), batches_done, None)

    @abstractmethod
    def make_loader(self, ids: Sequence[list[int]]) -> LoadEpoch:
        """Return a loader of padded batches without worker processes; rows are held in the package's own type."""


def to_tensors(ids: Sequence[list[int]]) -> list[Tensor]:
    """Convert each row of ids to a tensor."""
    return [torch.tensor(row) for row in ids]


class Ours(Implementation):
    """The library's plans, with the default policy."""

    def __init__(self, lengths: Lengths, limit: BatchLimit) -> None:
        super().__init__(lengths, limit)
        self.policy: Policy = Rows(limit.rows) if limit.max_padded_steps is None else Budget(limit.max_padded_steps)

    def plan(self, epoch: int, world_size: int = 1) -> Plan:
        """Plan an epoch."""
        return Plan.of(self.lengths, self.policy, epoch=epoch, world_size=world_size)

    @override
    def batches(self, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        return iter(self.plan(epoch, world_size).rank(rank))

    @override
    def resume(self, epoch: int, batches_done: int) -> Iterator[Batch]:
        return iter(Plan.of(self.lengths, self.policy, after=Cursor(epoch, ((1, batches_done),))))

    @override
    def make_loader(self, ids: Sequence[list[int]]) -> LoadEpoch:
        rows = [Row(Ids(values), row_id=row) for row, values in enumerate(to_tensors(ids))]
        loader = Loader(rows, PlannedBatches(self.lengths, self.policy), Pad())

        def load_epoch() -> Iterator[Tensor]:
            return (batch.values for batch in loader)

        return load_epoch


class OursSorted(Ours):
    """The library's plans with all rows sorted together: the least padding, and the least randomness."""

    def __init__(self, lengths: Lengths, limit: BatchLimit) -> None:
        super().__init__(lengths, limit)
        self.policy = (
            Rows(limit.rows, batches_per_sort=None)
            if limit.max_padded_steps is None
            else Budget(limit.max_padded_steps, batches_per_sort=None)
        )
