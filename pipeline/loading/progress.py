"""Progress of each worker, in memory shared with the training process: it can be read after the worker has died."""

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

from pipeline.data.tensors import to_ints

share_memory: Final[Callable[[Tensor], Tensor]] = methodcaller("share_memory_")
"""Move a tensor into memory that all processes share; typed here, because torch's own signature is untyped."""

_COLUMNS: Final = 5
"""The worker's process id, the batch number, the phase, the record being read or -1, and the first without a row."""


class WorkerPhase(IntEnum):
    """Phase of the batch that a worker handles."""

    IDLE = 0
    READING = 1
    COLLATING = 2
    DONE = 3


@final
@attrs.frozen
class WorkerProgress:
    """Progress of one worker.

    Attributes:
        pid: the worker's process id; 0 until it starts its first batch.
        batch: the number of its batch in the plan; of a stream, the number of its own batch.
        phase: the phase of that batch.
        record: the record that it reads; None if it reads several at once. Of a stream, the last one that it read.
        first: of a stream, the first record of its shard that gave no row yet.
    """

    pid: int
    batch: int
    phase: WorkerPhase
    record: int | None
    first: int = 0


@final
class ProgressTable:
    """One row of progress per worker, in shared memory.

    Args:
        workers: the number of workers.
    """

    def __init__(self, workers: int) -> None:
        # A tensor, because torch passes its shared memory on to workers under every start method. There are no locks:
        # each worker writes only its own row, and the reader may see a row that is half updated. It reads after a death
        # or a timeout, when the worker has not written for a while.
        self._table: Final = share_memory(torch.zeros(workers, _COLUMNS, dtype=torch.int64, device="cpu"))

    def __iter__(self) -> Iterator[WorkerProgress]:
        for worker in range(len(self._table)):
            pid, batch, phase, record, first = to_ints(self._table[worker])
            yield WorkerProgress(pid, batch, WorkerPhase(phase), None if record < 0 else record, first)

    def start_batch(self, worker: int, batch: int) -> None:
        """Record that this process, which is the given worker, starts a batch."""
        entry = self._table[worker].numpy()
        entry[:4] = os.getpid(), batch, WorkerPhase.READING, -1
        _own.entry = entry


@final
class _OwnEntry:
    """This process's entry of the table, if it is a worker. Each process has its own copy of this object."""

    entry: npt.NDArray[np.int64] | None = None


_own: Final = _OwnEntry()


def is_tracked() -> bool:
    """Return whether this process is a worker that records its progress."""
    return _own.entry is not None


def report_record(record: int) -> None:
    """Record which record this worker reads next, -1 for none in particular. Does nothing outside a worker."""
    if _own.entry is not None:
        _own.entry[3] = record


def report_phase(phase: WorkerPhase) -> None:
    """Record the next phase of this worker's batch. Does nothing outside a worker."""
    if _own.entry is not None:
        # No single record is being read any more.
        _own.entry[2:4] = phase, -1


def report_stream_record(record: int, *, is_read: bool) -> None:
    """Record which record of a stream this worker reads, or has read last. Does nothing outside a worker."""
    if _own.entry is not None:
        _own.entry[2:4] = WorkerPhase.COLLATING if is_read else WorkerPhase.READING, record


def report_stream_rows(first: int) -> None:
    """Record the first record of a stream that gave no row yet. Does nothing outside a worker."""
    if _own.entry is not None:
        _own.entry[4] = first
