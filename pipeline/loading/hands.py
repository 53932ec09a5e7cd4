"""What each worker has in hand, in memory that its loader sees too: it is there still when the worker is not."""

import os
from collections.abc import Callable, Iterator
from enum import IntEnum
from operator import methodcaller
from typing import Final, final

import attrs
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.data.order import ints


class Stage(IntEnum):
    """What a worker does with a batch."""

    IDLE = 0
    READING = 1
    COLLATING = 2
    GIVEN = 3


# Typed by hand: torch's own signature is open.
_shared: Callable[[Tensor], Tensor] = methodcaller("share_memory_")

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
        self._table: Final = _shared(torch.zeros(workers, _COLUMNS, dtype=torch.int64))

    def __iter__(self) -> Iterator[Hand]:
        for worker in range(len(self._table)):
            process, batch, stage, record = ints(self._table[worker])
            yield Hand(process, batch, Stage(stage), None if record < 0 else record)

    def take(self, worker: int, batch: int) -> None:
        """Say that this process, which is that worker, begins with a batch."""
        _mine.place = self._table[worker].numpy()
        _mine.place[:] = os.getpid(), batch, Stage.READING, -1


@final
class _Mine:
    """This process's place, if it is a worker."""

    place: npt.NDArray[np.int64] | None = None


_mine: Final = _Mine()


def watched() -> bool:
    """Whether this process is a worker of which it is known what it has in hand."""
    return _mine.place is not None


def reading(record: int) -> None:
    """Say which record this worker reads next. Elsewhere, nothing."""
    if _mine.place is not None:
        _mine.place[3] = record


def now(stage: Stage) -> None:
    """Say what this worker does next with its batch. Elsewhere, nothing."""
    if _mine.place is not None:
        _mine.place[2:] = stage, -1
