"""What each worker has in hand, in memory that its loader sees too: it is there still when the worker is not."""

import os
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, final

import attrs
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Stage(IntEnum):
    """What a worker does with a batch."""

    IDLE = 0
    READING = 1
    COLLATING = 2
    GIVEN = 3


_COLUMNS: Final = 4
"""The worker's process, the batch's number, what is done with it, and the record that is read, or -1."""


@final
@attrs.frozen
class Hand:
    """What one worker has in hand.

    Attributes:
        process: the worker's process; 0 as long as it was given no batch.
        batch: which batch of the plan.
        stage: what it does with that.
        record: the record that it reads; None if it reads several at once.
    """

    process: int
    batch: int
    stage: Stage
    record: int | None


@final
class Hands:
    """A place for each worker, in shared memory.

    Args:
        workers: how many there are.
    """

    def __init__(self, workers: int) -> None:
        self._table: Final[Tensor] = torch.zeros(workers, _COLUMNS, dtype=torch.int64).share_memory_()

    def __iter__(self) -> Iterator[Hand]:
        for process, batch, stage, record in self._table.tolist():
            yield Hand(process, batch, Stage(stage), None if record < 0 else record)

    def take(self, worker: int, batch: int) -> None:
        """Say that this process, which is that worker, begins with a batch."""
        global _mine
        _mine = self._table[worker].numpy()
        _mine[:] = os.getpid(), batch, Stage.READING, -1


_mine: npt.NDArray[np.int64] | None = None
"""This process's place, if it is a worker."""


def reading(record: int) -> None:
    """Say which record this worker reads next. Elsewhere, nothing."""
    if _mine is not None:
        _mine[3] = record


def now(stage: Stage) -> None:
    """Say what this worker does next with its batch. Elsewhere, nothing."""
    if _mine is not None:
        _mine[2:] = stage, -1
