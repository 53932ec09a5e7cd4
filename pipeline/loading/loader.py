"""A `DataLoader` over a plan whose state is that of the training loop, and whose errors name the record."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Generic, Literal, NoReturn, TypeVar, cast, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline.batching.lengths import Lengths
from pipeline.batching.plan import Plan
from pipeline.checks.hints import describe
from pipeline.data.batches import is_batch
from pipeline.data.iteration import by_position, check_ordered
from pipeline.data.report import Report
from pipeline.data.rows import is_row
from pipeline.errors import OptionError, WorkerError
from pipeline.loading.frameworks import find_pending_state, make_skip_error
from pipeline.loading.progress import ProgressTable
from pipeline.loading.records import Indexable, describe_records
from pipeline.loading.sampler import PlannedBatches
from pipeline.loading.worker_failure import WorkerFailure
from pipeline.loading.worker_monitor import PlanMonitor, install_sigchld_handler
from pipeline.loading.workers import (
    MonitoredCollate,
    MonitoredDataset,
    MonitoredInit,
    NumberedBatches,
    WorkerSeeds,
    check_worker_options,
    shut_down_workers,
)

R = TypeVar("R")
T = TypeVar("T")

Start = Literal["fork", "spawn", "forkserver"]
"""Start method of worker processes."""


@final
class Loader(Generic[T]):
    """Load the batches of a plan in this process or in workers: the same batches in the same order.

    A stock `DataLoader` does the work. This class adds a state that counts the batches that training has received, not
    those that workers have prepared ahead; and errors that name the record at which a worker raised, died or, with a
    `timeout`, hung.

    Args:
        dataset: rows by number, such as a `RowDataset`, or any other items that `collate` takes.
        batches: the batches by row numbers. From now on, its state is that of the training loop.
        collate: makes a batch of rows, such as `Pad()`.
        num_workers: the number of processes that read and collate; 0 does both in this process.
        multiprocessing_context: how workers are started; None for Python's default.
        timeout: the number of seconds without a batch after which a worker counts as hung; 0 waits forever.
        prefetch_factor: the number of batches that each worker prepares ahead; None for two.
        persistent_workers: keep the workers from epoch to epoch.
        worker_init_fn: called first in each worker, with its number.
        generator: draws the seed of the workers' own random generators once per epoch. By default it follows from the
            seed of `batches` and the epoch. The global random generators of this process are not used.
        pin_memory: put batches into page-locked memory, from which copies to a device overlap with computation.
        device: the device to which batches are copied without blocking; None leaves them on the CPU.

    Raises:
        OptionError: if `batches` was created with `split_by_rank=False`, if an option for workers is given without
            workers, or if the dataset has no fixed order; and, when batches are requested, if the dataset does not have
            the planned number of rows.

    Example:
        >>> from pipeline import FromIds, Pad
        >>> from pipeline.batching import Budget
        >>> from pipeline.loading import RowDataset
        >>> source = [[1, 2, 3, 4], [5], [6, 7, 8, 9, 10], [11, 12]]
        >>> batches = PlannedBatches([len(row) for row in source], Budget(10), seed=None)
        >>> loader = Loader(RowDataset(source, FromIds()), batches, Pad())
        >>> [batch.metadata.row_ids.tolist() for batch in loader]
        [[2, 0], [3, 1]]
        >>> loader.report.rows, loader.report.batches, loader.report.steps
        (4, 2, 12)
    """

    def __init__(
        self,
        dataset: Indexable[R],
        batches: PlannedBatches,
        collate: Callable[[list[R]], T],
        *,
        num_workers: int = 0,
        multiprocessing_context: Start | None = None,
        timeout: float = 0,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        worker_init_fn: Callable[[int], object] | None = None,
        generator: torch.Generator | None = None,
        pin_memory: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        options = {
            "multiprocessing_context": multiprocessing_context,
            "timeout": timeout,
            "prefetch_factor": prefetch_factor,
            "persistent_workers": persistent_workers,
            "worker_init_fn": None if worker_init_fn is None else MonitoredInit(worker_init_fn),
        }
        check_worker_options(num_workers, options)
        if not batches.split_by_rank:
            msg = (
                "batches must be those of one rank, got split_by_rank=False, which is for libraries that distribute "
                "batches themselves; a Loader does not, so leave split_by_rank out."
            )
            raise OptionError(msg)
        check_ordered(dataset)
        self.dataset: Final[Indexable[object]] = dataset
        self.batch_sampler: Final = batches
        self.device: Final = device
        self._collate: Final[Callable[[Any], T | WorkerFailure]] = MonitoredCollate(collate)
        self._generator: Final = WorkerSeeds(generator, batches.seed)
        self._options: Final[dict[str, Any]] = {**options, "num_workers": num_workers, "pin_memory": pin_memory}
        self._persistent: _MonitoredLoader[T] | None = None
        self.report: Report = Report()
        """Real and padded steps of the batches that the newest iteration has yielded."""

    @property
    def epoch(self) -> int:
        """The current epoch, or the next one if none has begun."""
        return self.batch_sampler.epoch

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, up to its first batch, as `PlannedBatches.set_epoch` does."""
        self.batch_sampler.set_epoch(epoch)

    @property
    def sampler(self) -> NoReturn:
        """Not supported: `accelerate.skip_first_batches` reads it."""
        raise make_skip_error(self, "sampler")

    def state_dict(self) -> dict[str, object]:
        """Return the state after the last batch that was yielded, as numbers, lists and text, for JSON."""
        return self.batch_sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue after the last batch that was yielded when the state was saved, on any number of ranks.

        Raises:
            OptionError: if it is not such a state, or belongs to other lengths, another policy or another seed.
        """
        self.batch_sampler.load_state_dict(state)

    def progress(self) -> dict[str, float]:
        """Return the running report as numbers by name, for a progress bar: `bar.set_postfix(loader.progress())`."""
        report = self.report
        return {"rows": report.rows, "steps": report.steps, "padded": report.padded, "wasted": round(report.wasted, 4)}

    def __len__(self) -> int:
        """Return this rank's number of batches in the epoch, including those before a loaded state."""
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[T]:
        """Yield the batches of an epoch, or the rest of one after a loaded state.

        Raises:
            WorkerError: if a worker dies or hangs.
            LengthError: if a row is longer than planned, and the policy limits lengths.
        """
        if (state := find_pending_state(self)) is not None:
            self.load_state_dict(state)
            if not len(self.batch_sampler.plan):
                # Lightning has counted the complete epoch, and starts the next one.
                self.set_epoch(self.epoch + 1)
        # The sampler is iterated here, in step with training; the workers follow the plan by themselves.
        counted = self.batch_sampler.start()
        loader = self._start(self.batch_sampler.plan)
        self.report = Report()
        plan = loader.batches.plan
        for number, (batch, _) in enumerate(zip(loader, counted, strict=True)):
            self.report += batch.report() if is_batch(batch) else _planned_report(plan, number)
            yield self._move_to_device(batch)

    def _start(self, plan: Plan) -> "_MonitoredLoader[T]":
        if len(self.dataset) != plan.rows:
            # Nothing would fail otherwise, but batches would hold other rows than planned.
            msg = (
                f"dataset must have the {plan.rows} rows that batches were planned for, got {len(self.dataset)} rows; "
                "plan with one length per row of the dataset."
            )
            raise OptionError(msg, rows=len(self.dataset), lengths=plan.rows)
        if self._persistent is not None:
            self._persistent.batches.plan = plan
            return self._persistent
        options = {**self._options, "generator": self._generator.for_epoch(self.epoch)}
        loader = _MonitoredLoader(self.dataset, self._number(plan), self._collate, options)
        if self._options["persistent_workers"]:
            self._persistent = loader
        return loader

    def _number(self, plan: Plan) -> NumberedBatches:
        # Without a limit, lengths only sort the rows, and need not be exact.
        limited = self.batch_sampler.policy.limit() is not None
        return NumberedBatches(plan, Lengths.of(self.batch_sampler.lengths) if limited else None)

    def _move_to_device(self, batch: T) -> T:
        if self.device is None:
            return batch
        if isinstance(batch, Tensor):
            return cast("T", batch.to(self.device, non_blocking=True))
        to: Callable[[torch.device | str], T] | None = getattr(batch, "to", None)
        if to is None:
            msg = (
                f"device={self.device} needs batches with a method `to`, got {describe(batch)}; leave device out, or "
                "give such batches in collate."
            )
            raise OptionError(msg, device=str(self.device))
        return to(self.device)


@final
class _MonitoredLoader(Generic[T]):
    """Stock `DataLoader` over a plan, with a monitor of its workers. Persistent workers get one plan after another."""

    def __init__(
        self,
        dataset: Indexable[object],
        batches: NumberedBatches,
        collate: Callable[[Any], T | WorkerFailure],
        options: dict[str, Any],
    ) -> None:
        self.batches: Final = batches
        self._dataset: Final = dataset
        self._keep_workers: Final[bool] = options["persistent_workers"]
        workers: int = options["num_workers"]
        progress = ProgressTable(workers) if workers else None
        self._monitor: Final = None if progress is None else PlanMonitor(progress, dataset, self.batches)
        # Rows are cut in the workers. The monitor gets the whole dataset, which knows the records by their numbers.
        splits = batches.plan.splits
        if splits.limit is not None:
            _check_rows(dataset)
        per_row = 0 if batches.lengths is None else batches.lengths.per_row
        self._loader: Final = DataLoader[Any](
            MonitoredDataset(by_position(dataset), progress, splits, per_row=per_row),
            batch_sampler=self.batches,
            collate_fn=collate,
            **options,
        )

    def __iter__(self) -> Iterator[T]:
        batches = iter(self._loader)
        if self._monitor is not None:
            # After the workers have started: torch installs its own handler with the first ones.
            install_sigchld_handler()
        try:
            for number in range(len(self.batches.plan)):
                yield self._next_batch(batches, number)
            next(batches, None)  # the iterator must reach its end before persistent workers can start the next epoch
        finally:
            if not self._keep_workers:
                shut_down_workers(batches)

    def _next_batch(self, batches: Iterator[T | WorkerFailure], number: int) -> T:
        """Return the next batch, or raise the error that a worker sent in its place, with a note of the batch."""
        try:
            batch = next(batches)
        except WorkerError:  # raised by the signal handler, and already explained
            raise
        except Exception as error:
            explained = None if self._monitor is None else self._monitor.explain(error)
            if explained is not None:
                raise explained from error
            self._add_batch_note(error, number)
            raise
        if isinstance(batch, WorkerFailure):
            failure = batch.to_error()
            self._add_batch_note(failure, number)
            raise failure
        return batch

    def _add_batch_note(self, error: Exception, number: int) -> None:
        records = self.batches.get_records(number)
        error.add_note(f"It was raised for batch {number}, which holds {describe_records(self._dataset, records)}.")


def _check_rows(dataset: Indexable[object]) -> None:
    """Reject a dataset whose items are not rows, and cannot be cut.

    Raises:
        OptionError: if they are not.
    """
    if len(dataset) and not is_row(first := by_position(dataset)[0]):
        msg = (
            f"dataset must hold rows, because the policy cuts long ones, got {describe(first)}; give a RowDataset, or "
            "cut the items before planning."
        )
        raise OptionError(msg)


def _planned_report(plan: Plan, number: int) -> Report:
    """Return the report of a planned batch, for batches without a report of their own."""
    rows, *widths = plan.shapes[number].tolist()
    return Report(1, len(plan[number]), int(plan.steps[number]), rows * sum(widths))
