"""Prepare what workers run: options, seeds, and datasets and collate functions that report progress and errors.

A worker that raises sends the error back in place of its batch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from operator import le
from typing import Final, Generic, TypeVar, cast, final

import torch
from torch.utils.data import Dataset, Sampler, get_worker_info
from typing_extensions import override

from pipeline.batching.arrays import SeededRandom
from pipeline.batching.lengths import Lengths, RowSplits
from pipeline.batching.plan import Plan
from pipeline.checks.options import check_int
from pipeline.data.kinds import Kind, list_lengths
from pipeline.data.rows import Row
from pipeline.errors import LengthError, OptionError
from pipeline.loading.progress import ProgressTable, WorkerPhase, report_phase
from pipeline.loading.records import (
    Indexable,
    add_record_note,
    cut_rows,
    fetch,
    find_lengths,
)
from pipeline.loading.worker_failure import WorkerFailure

R = TypeVar("R")

T = TypeVar("T")


def check_worker_options(workers: int, options: Mapping[str, object]) -> None:
    """Reject options for workers if there are no workers.

    Raises:
        OptionError: for such an option, or if `workers` is below 0.
    """
    check_int("num_workers", workers, minimum=0)
    given = [name for name, option in options.items() if option]
    if given and not workers:
        msg = f"{given[0]} is for workers, but num_workers is 0; leave it out, or set num_workers to 1 or more."
        raise OptionError(msg, option=given[0])


def shut_down_workers(iterator: object) -> None:
    """Shut down the workers of a `DataLoader`'s iterator now, not when it is garbage-collected.

    A traceback can keep an iterator alive. If the garbage collector finds it later, the queues that the workers wait on
    are gone before the workers are asked to stop: workers that are still starting then fail, and torch reports that
    from within whatever code runs at that moment.
    """
    shut_down = getattr(iterator, "_shutdown_workers", None)
    # Errors of workers that are being stopped do not matter any more; torch terminates those that are left. A forked
    # worker may collect an iterator of its parent: multiprocessing then asserts that it is not theirs.
    with suppress(RuntimeError, AssertionError):
        if callable(shut_down):
            shut_down()


@final
class WorkerSeeds:
    """Generator that gives a `DataLoader` the seed of its workers, instead of the global generator of torch.

    Args:
        generator: the generator to use; None for one of the epoch.
        seed: the seed of that one, together with the epoch.
    """

    def __init__(self, generator: torch.Generator | None, seed: int | None) -> None:
        self._generator: Final = generator
        self._seed: Final = seed or 0

    def for_epoch(self, epoch: int) -> torch.Generator:
        """Return the generator for an epoch."""
        if self._generator is not None:
            return self._generator
        # torch draws on its default device.
        generator = torch.Generator(torch.get_default_device())
        return generator.manual_seed(SeededRandom(self._seed, (epoch,)).uint32(1).item())


@final
class NumberedBatches(Sampler[list[int]]):
    """Batch sampler that adds the number of each batch in the plan and the planned lengths, for a `MonitoredDataset`.

    Args:
        plan: the batches. With persistent workers, it is replaced before each epoch.
        lengths: the planned lengths of whole rows; None to leave them out.
    """

    def __init__(self, plan: Plan, lengths: Lengths | None) -> None:
        self.plan = plan
        self.lengths: Final = lengths

    @override
    def __iter__(self) -> Iterator[list[int]]:
        for number, batch in enumerate(self.plan):
            lengths: list[int] = (
                [] if self.lengths is None else self.lengths.values[self.plan.splits.rows_of(batch)].ravel().tolist()
            )
            yield [number, *batch.tolist(), *lengths]

    def get_records(self, batch: int) -> list[int]:
        """Return the records that a batch holds, whole or in part."""
        records: list[int] = self.plan.splits.rows_of(self.plan[batch]).tolist()
        return records


@final
class MonitoredInit:
    """Function that is called first in each worker, and keeps its error for the first batch instead of raising it.

    torch would build a new error from the text of this one, without its details.
    """

    def __init__(self, function: Callable[[int], object]) -> None:
        self._function: Final = function

    def __call__(self, worker: int) -> None:
        """Call the function with the worker's number."""
        try:
            self._function(worker)
        except Exception as error:  # noqa: BLE001 - it is raised in the training process
            _init_failures.append(WorkerFailure.from_error(error, worker))


_init_failures: Final[list[WorkerFailure]] = []
"""The error of this worker's `worker_init_fn`, if it raised one. Each worker has a copy of its own."""


@final
class MonitoredDataset(Dataset[R]):
    """Dataset that reports its progress in a worker, and returns an error instead of raising it.

    Args:
        dataset: whole rows, or other items if they are not cut.
        progress: the table in which workers report; None without workers.
        splits: the meaning of the numbers in a batch.
        per_row: the number of planned lengths that each batch has per row, which the rows must not exceed; 0 for none.
    """

    def __init__(
        self, dataset: Indexable[R], progress: ProgressTable | None, splits: RowSplits, *, per_row: int
    ) -> None:
        self._dataset: Final = dataset
        self._progress: Final = progress
        self._splits: Final = splits
        self._per_row: Final = per_row

    @override
    def __getitem__(self, index: int) -> R:
        return self._dataset[index]

    def __getitems__(self, indices: Sequence[int]) -> list[R] | WorkerFailure:
        """Return the rows of a batch, or the error that reading them raised in a worker.

        Args:
            indices: the batch's number, and its rows, from `NumberedBatches`.

        Raises:
            LengthError: if a row is longer than planned.
        """
        batch, *numbers = indices
        worker = get_worker_info()
        if worker is None or self._progress is None:
            return self._fetch(numbers)
        self._progress.start_batch(worker.id, batch)
        if _init_failures:
            return _init_failures[0]
        try:
            return self._fetch(numbers)
        except Exception as error:  # noqa: BLE001 - it is raised in the training process
            return WorkerFailure.from_error(error, worker.id)

    def _fetch(self, numbers: Sequence[int]) -> list[R]:
        count = len(numbers) // (1 + self._per_row)
        numbers, lengths = numbers[:count], numbers[count:]
        if self._splits.limit is None:
            rows = fetch(self._dataset, numbers)
            self._check_lengths(numbers, rows, lengths)
            return rows
        slices = [self._splits[number] for number in numbers]
        records = [part.row for part in slices]
        rows = fetch(self._dataset, records)
        self._check_lengths(records, rows, lengths)
        return cast("list[R]", cut_rows(cast("list[Row[Kind]]", rows), slices))

    def _check_lengths(self, records: Sequence[int], rows: Sequence[R], lengths: Sequence[int]) -> None:
        """Reject rows longer than planned: their batch would exceed the budget, or the steps in excess be cut off."""
        # Fast path: one length per row, and no row is longer.
        if set(map(type, rows)) == {Row} and self._per_row == 1:
            steps = list_lengths([row.sequence for row in cast("Sequence[Row[Kind]]", rows)])
            if all(map(le, steps, lengths)):
                return
        # Rows that are truncated at the limit of the policy may have any length beyond it.
        truncated_at = None if len(self._splits.extra_rows) else self._splits.limit
        for place, (record, row) in enumerate(zip(records, rows, strict=False) if self._per_row else ()):
            planned = lengths[place * self._per_row : (place + 1) * self._per_row]
            found = find_lengths(row, self._per_row)
            if all(map(le, found, planned)) or (truncated_at is not None and planned[0] >= truncated_at):
                continue
            msg = (
                f"row {record} has {' and '.join(map(str, found))} steps, but was planned with "
                f"{' and '.join(map(str, planned))}; plan with the lengths of the rows that the dataset gives: "
                "lengths_of(source, input_stage)."
            )
            got, wanted = (found, list(planned)) if self._per_row > 1 else (found[0], planned[0])
            error = LengthError(msg, row=record, length=got, planned=wanted)
            add_record_note(error, self._dataset, record)
            raise error


@final
class MonitoredCollate(Generic[R, T]):
    """Collate function that reports its progress in a worker, and returns an error instead of raising it."""

    def __init__(self, collate: Callable[[list[R]], T]) -> None:
        self._collate: Final = collate

    def __call__(self, rows: list[R] | WorkerFailure) -> T | WorkerFailure:
        """Return a batch of rows, or the error that reading or collating them raised in a worker."""
        if isinstance(rows, WorkerFailure):
            return rows
        worker = get_worker_info()
        if worker is None:
            return self._collate(rows)
        report_phase(WorkerPhase.COLLATING)
        try:
            return self._collate(rows)
        except Exception as error:  # noqa: BLE001 - it is raised in the training process
            return WorkerFailure.from_error(error, worker.id)
        finally:
            # The worker still has to send the batch; if it dies now, the batch is known but no record is.
            report_phase(WorkerPhase.DONE)
