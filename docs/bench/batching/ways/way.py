"""What a way to make batches is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TypeAlias

import attrs
import torch
from torch import Tensor

from bench.batching.corpus import BUDGET, Lengths
from bench.batching.epoch import Batch

Loading: TypeAlias = Callable[[], Iterator[Tensor]]
"""Gives the ids of each batch of an epoch, rows x time, at every call."""


@attrs.frozen
class Room:
    """What a batch may hold.

    Attributes:
        rows: how many rows, for a way that counts no steps;
        max_padded_steps: how many padded steps, for one that does; None if it is to count rows as well.
    """

    rows: int = 64
    max_padded_steps: int | None = BUDGET

    def __str__(self) -> str:
        return f"{self.rows} rows" if self.max_padded_steps is None else f"{self.max_padded_steps:,} padded steps"


class Way(ABC):
    """A way to make batches of rows.

    What it takes to make one is done before training, and is timed nowhere.

    Args:
        lengths: how many steps each row has.
        room: what a batch may hold.
    """

    def __init__(self, lengths: Lengths, room: Room) -> None:
        self.lengths = lengths
        self.room = room

    @abstractmethod
    def batches(self, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """The batches of an epoch that one rank gets."""

    def drawn(self, epoch: int) -> Iterator[object]:
        """The same as a loader gets them, whatever they are: what making them costs is timed so."""
        return self.batches(epoch)

    def resumed(self, epoch: int, steps: int) -> Iterator[Batch]:
        """The batches that are left of an epoch after so many: where there is no state, those are left out."""
        return islice(self.batches(epoch), steps, None)

    @abstractmethod
    def loading(self, ids: Sequence[list[int]]) -> Loading:
        """Rows of ids as batches, in this process; each row is held as the way would have it."""


def tensors(ids: Sequence[list[int]]) -> list[Tensor]:
    """Rows of ids, each a tensor of its own."""
    return [torch.tensor(row) for row in ids]
