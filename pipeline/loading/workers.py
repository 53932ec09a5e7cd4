"""Name the record at which a worker raised, died or hung.

A worker that raises sends the error back in place of its batch. A worker that dies or hangs sends nothing, so its last
entry in the shared `ProgressTable` says which record it was reading.

torch learns of a worker's death from the signal SIGCHLD, and raises wherever the training process happens to be: often
in the middle of a training step and not in the loader. So its signal handler is wrapped in one of ours, which replaces
torch's error by one that names the record.
"""

import copy
import pickle
import re
import signal
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing import active_children
from operator import le
from types import FrameType
from typing import Final, Generic, TypeVar, cast, final
from weakref import WeakSet

import attrs
import torch
from torch.utils.data import Dataset, Sampler, get_worker_info
from typing_extensions import override

from pipeline.batching.arrays import SeededRandom
from pipeline.batching.lengths import Lengths, RowSplits
from pipeline.batching.plan import Plan
from pipeline.checks.options import check_int
from pipeline.data.kinds import Kind
from pipeline.data.rows import Row
from pipeline.errors import LengthError, OptionError, WorkerError
from pipeline.loading.progress import ProgressTable, WorkerPhase, WorkerProgress, report_phase
from pipeline.loading.records import (
    Indexable,
    add_record_note,
    cut_rows,
    describe_record,
    describe_records,
    fetch,
    find_lengths,
)

R = TypeVar("R")
T = TypeVar("T")

_PIDS: Final = re.compile(r"pid(?:\(s\))? ([\d, ]+)\)")
"""The part of torch's messages that names the processes of workers that died."""

_TIMEOUT: Final = "timed out"
"""The part of torch's messages that says that no batch came within `timeout`."""

_BUSY: Final = {WorkerPhase.READING, WorkerPhase.COLLATING}

_PIPE_GRACE: Final = 2.0
"""Seconds to wait for a death after a broken pipe: the pipe closes before the system reports that the worker ended."""


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


class RemoteTracebackError(Exception):
    """Traceback in the worker: the cause of the error that is raised in the training process."""


@final
@attrs.frozen
class WorkerFailure:
    """An error raised in a worker, sent in place of its batch.

    Attributes:
        error: the error itself; None if its class cannot be pickled.
        name: the name of its class.
        text: its formatted traceback, with message and notes.
        worker: the worker's number.
    """

    error: "Exception | _ErrorParts | None"
    name: str
    text: str
    worker: int

    @classmethod
    def from_error(cls, error: Exception, worker: int) -> "WorkerFailure":
        """Prepare an error for sending to the training process."""
        text = "".join(traceback.format_exception(error))
        return cls(_prepare_for_pickling(error), type(error).__name__, text, worker)

    def to_error(self) -> Exception:
        """Return the error to raise in the training process: of its own class with its details, if it was picklable."""
        error = self.error.to_error() if isinstance(self.error, _ErrorParts) else self.error
        if error is None:
            msg = f"worker {self.worker} raised {self.name}, which cannot be pickled; its traceback is:\n{self.text}"
            error = WorkerError(msg, worker=self.worker, raised=self.name)
        error.add_note(f"It was raised in worker {self.worker}.")
        error.__cause__ = RemoteTracebackError(f"\n{self.text}")
        return error


@final
@attrs.frozen
class _ErrorParts:
    """The class, arguments and attributes of an error that cannot be pickled as it is."""

    cls: type[Exception]
    args: tuple[object, ...]
    attributes: dict[str, object]

    def to_error(self) -> Exception:
        """Build the error without calling its `__init__`, which may take other arguments than `args`."""
        error = self.cls.__new__(self.cls, *self.args)
        error.args = self.args
        error.__dict__.update(self.attributes)
        return error


def _prepare_for_pickling(error: Exception) -> Exception | _ErrorParts | None:
    """Return the error, or its parts if only these can be pickled; attributes that cannot are sent as text."""
    if _survives_pickling(error):
        return error
    args = tuple(value if _can_be_pickled(value) else repr(value) for value in error.args)
    given: dict[str, object] = vars(error)
    attributes: dict[str, object] = {
        name: value if _can_be_pickled(value) else repr(value) for name, value in given.items()
    }
    parts = _ErrorParts(type(error), args, attributes)
    try:
        rebuilt = parts.to_error()
    except Exception:  # noqa: BLE001 - a class with an unusual `__new__`
        return None
    return parts if _can_be_pickled(parts) and type(rebuilt) is type(error) else None


def _can_be_pickled(value: object) -> bool:
    try:
        pickle.loads(pickle.dumps(value))  # noqa: S301 - just pickled
    except Exception:  # noqa: BLE001 - any error means that it cannot be sent
        return False
    return True


def _survives_pickling(error: Exception) -> bool:
    """Return whether an error is the same after pickling.

    Exceptions are rebuilt from `args`, so one whose `__init__` takes other arguments fails to unpickle or changes its
    message. `copy.copy` rebuilds it in the same way as unpickling.
    """
    try:
        pickle.dumps(error)
        rebuilt = copy.copy(error)
    except Exception:  # noqa: BLE001 - any error in rebuilding means that it cannot be sent
        return False
    return type(rebuilt) is type(error) and str(rebuilt) == str(error)


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


class WorkerMonitor(ABC):
    """View of a loader's workers from the training process: turns torch's errors into ones that name the record.

    Args:
        progress: the table in which the workers report.
    """

    def __init__(self, progress: ProgressTable) -> None:
        self._progress: Final = progress
        self._reported: Final[set[int]] = set()
        _monitors.add(self)

    def explain(self, error: Exception) -> WorkerError | None:
        """Return an error that names the record, if this loader's worker died or hung; None for any other error."""
        # A worker that dies while it sends a batch breaks the pipe, which is an error of the system and not of torch.
        if isinstance(error, OSError | EOFError):
            return self._explain_broken_pipe()
        if not isinstance(error, RuntimeError) or isinstance(error, WorkerError):
            return None
        message = str(error).strip().rstrip(".")
        if pids := _find_pids(error):
            return self._blame(message, pids)
        if _TIMEOUT in message:
            # Idle workers and those that have finished their batch wait for the training process: they do not hang.
            busy = {progress.pid for progress in self._progress if progress.phase in _BUSY}
            return self._blame(message, busy) or _describe_idle_timeout(message)
        return None

    def has_reported(self, error: Exception) -> bool:
        """Return whether an error repeats deaths already reported: torch raises again while other workers end."""
        pids = _find_pids(error)
        return bool(pids) and self._reported.issuperset(pids)

    def _explain_broken_pipe(self) -> WorkerError | None:
        """Find the worker that died while it sent a batch; wait a moment, because its pipe breaks first."""
        deadline = time.monotonic() + _PIPE_GRACE
        try:
            while time.monotonic() < deadline:
                alive = {child.pid for child in active_children()}
                if dead := {progress.pid for progress in self._progress} - alive - {0}:
                    names = ", ".join(map(str, sorted(dead)))
                    return self._blame(f"DataLoader worker (pid {names}) died while it sent a batch", dead)
                time.sleep(0.02)
        except WorkerError as error:  # raised by the signal handler during the wait
            return error
        return None

    def _blame(self, message: str, pids: set[int]) -> WorkerError | None:
        """Build the error that says at which records the workers with these process ids were, if they are ours."""
        self._reported.update(pids)
        blamed = [(worker, progress) for worker, progress in enumerate(self._progress) if progress.pid in pids]
        if not blamed:
            return None
        details = "; ".join(f"worker {worker} {self._describe(progress)}" for worker, progress in blamed)
        # Workers of a stream may read the same records, and die at the same one.
        records = list(dict.fromkeys(record for _, progress in blamed for record in self._get_records(progress)))
        return WorkerError(f"{message}: {details}.", workers=[worker for worker, _ in blamed], records=records)

    @abstractmethod
    def _describe(self, progress: WorkerProgress) -> str:
        """Return what a worker was doing, with its records."""

    @abstractmethod
    def _get_records(self, progress: WorkerProgress) -> list[int]:
        """Return the records that a worker was at."""


@final
class PlanMonitor(WorkerMonitor):
    """Monitor of workers that make the batches of a plan.

    Args:
        progress: the table in which the workers report.
        dataset: the dataset, which names records.
        batches: the batches that the workers make.
    """

    def __init__(self, progress: ProgressTable, dataset: object, batches: NumberedBatches) -> None:
        super().__init__(progress)
        self._dataset: Final = dataset
        self._batches: Final = batches

    @override
    def _describe(self, progress: WorkerProgress) -> str:
        match progress:
            case WorkerProgress(phase=WorkerPhase.READING, record=int(record)):
                return f"was at {describe_record(self._dataset, record)}, in batch {progress.batch}"
            case WorkerProgress(phase=WorkerPhase.DONE):
                activity = "had just finished"
            case _:
                activity = "was reading" if progress.phase is WorkerPhase.READING else "was collating"
        records = describe_records(self._dataset, self._get_records(progress))
        return f"{activity} batch {progress.batch}, which holds {records}"

    @override
    def _get_records(self, progress: WorkerProgress) -> list[int]:
        return self._batches.get_records(progress.batch) if progress.record is None else [progress.record]


def _find_pids(error: Exception) -> set[int]:
    found = _PIDS.search(str(error))
    return {int(pid) for pid in found[1].split(",")} if found else set()


def _describe_idle_timeout(message: str) -> WorkerError:
    msg = (
        f"{message}: the workers had not started their first batch; give them more time to start with a larger timeout."
    )
    return WorkerError(msg, workers=[], records=[])


_monitors: "WeakSet[WorkerMonitor]" = WeakSet()
"""The monitors of all loaders of this process: a signal does not say to which of them a worker belongs."""


def install_sigchld_handler() -> None:
    """Wrap torch's handler of SIGCHLD, once, so that a worker's death names the record.

    Does nothing where that is impossible: on systems without the signal, and outside the main thread.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if not callable(handler) or isinstance(handler, _SigchldHandler):
        return
    signal.signal(signal.SIGCHLD, _SigchldHandler(handler))


@final
class _SigchldHandler:
    def __init__(self, wrapped: Callable[[int, FrameType | None], object]) -> None:
        self._wrapped: Final = wrapped

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            self._wrapped(number, frame)
        except RuntimeError as error:
            monitors = list(_monitors)
            # After the first error, torch ends the other workers, and each of these deaths is signalled once more with
            # the same process ids. Raising again would hide the error that names the record.
            if any(monitor.has_reported(error) for monitor in monitors):
                return
            explained = next((found for monitor in monitors if (found := monitor.explain(error)) is not None), None)
            if explained is None:
                raise
            raise explained from error
