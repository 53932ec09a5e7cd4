"""A `DataLoader` over a plan that knows where training stands, and what its workers are at."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Generic, Literal, TypeVar, cast, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from typing_extensions import override

from pipeline.batching.plan import Plan
from pipeline.checks.shapes import described
from pipeline.data.batches import is_batch
from pipeline.data.report import Report
from pipeline.data.rows import Kind, Row, is_row
from pipeline.errors import OptionError, WorkerError
from pipeline.loading.cut_rows import CutRows
from pipeline.loading.deaths import Watch, heed_deaths
from pipeline.loading.ending import end_workers
from pipeline.loading.failures import Failure
from pipeline.loading.fetching import Numbered
from pipeline.loading.fitting import check_rows, check_workers
from pipeline.loading.hands import Hands
from pipeline.loading.naming import listed
from pipeline.loading.sampler import PlannedBatches
from pipeline.loading.watched import Collate, Watched

R = TypeVar("R")
T = TypeVar("T")

Start = Literal["fork", "spawn", "forkserver"]
"""How the processes of workers begin."""


@final
class Loader(Generic[T]):
    """Batches of a plan, read and collated in this process or in workers: the same batches, in the same order.

    A stock `DataLoader` does the work. This counts what training has taken, not what workers have made ahead, so its
    state is that of the training loop; and an error names the record that a worker was at: where it raised, where it
    died, and, with a `timeout`, where it hangs.

    Args:
        dataset: rows by number, such as a `RowDataset`; or anything else that `collate` takes.
        batches: which rows make a batch. From here on, it stands where training does.
        collate: what makes a batch of rows, such as `Pad()`.
        num_workers: how many processes read and collate; 0 for this one alone.
        multiprocessing_context: how they begin; None for Python's own choice.
        timeout: after how many seconds without a batch a worker is taken to hang; 0 waits for ever.
        prefetch_factor: how many batches a worker makes ahead; None for two.
        persistent_workers: keep the workers from epoch to epoch.
        worker_init_fn: what each worker calls first, with its number.
        pin_memory: put batches into page-locked memory, from which copies to a device overlap with work.
        device: where batches go, without waiting until they are there; None leaves them on the CPU.

    Raises:
        OptionError: if the batches are for what deals them out by itself (`split_by_rank=False`), or if an option is one for
            workers and there are none; and, when batches are asked for, if the dataset has not the rows that were
            planned.

    Example:
        >>> from pipeline import FromIds, Pad
        >>> from pipeline.batching import Budget
        >>> from pipeline.loading import RowDataset
        >>> source = [[1, 2, 3, 4], [5], [6, 7, 8, 9, 10], [11, 12]]
        >>> batches = PlannedBatches([len(row) for row in source], Budget(10), seed=None)
        >>> loader = Loader(RowDataset(source, FromIds()), batches, Pad())
        >>> [batch.metadata.places.tolist() for batch in loader]
        [[2, 0], [3, 1]]
        >>> print(loader.report)
        4 rows in 2 batches: 12 real steps, 14 padded, 14.3% of the padded work wasted
    """

    def __init__(
        self,
        dataset: Numbered[R],
        batches: PlannedBatches,
        collate: Callable[[list[R]], T],
        *,
        num_workers: int = 0,
        multiprocessing_context: Start | None = None,
        timeout: float = 0,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        worker_init_fn: Callable[[int], object] | None = None,
        pin_memory: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        options = {
            "multiprocessing_context": multiprocessing_context,
            "timeout": timeout,
            "prefetch_factor": prefetch_factor,
            "persistent_workers": persistent_workers,
            "worker_init_fn": worker_init_fn,
        }
        check_workers(num_workers, options)
        if not batches.split_by_rank:
            msg = (
                "batches were made with split_by_rank=False, for what deals them out to the ranks by itself, which a Loader "
                "does not; leave that out."
            )
            raise OptionError(msg)
        self.dataset: Final[Numbered[object]] = dataset
        self.batch_sampler: Final = batches
        self.device: Final = device
        self._collate: Final[Callable[[Any], T | Failure]] = Collate(collate)
        self._options: Final[dict[str, Any]] = {**options, "num_workers": num_workers, "pin_memory": pin_memory}
        self._kept: _Running[T] | None = None
        self.report: Report = Report()
        """Real and padded steps of the batches that the newest iteration has given."""

    @property
    def epoch(self) -> int:
        """The epoch that is under way, or comes next."""
        return self.batch_sampler.epoch

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, as `PlannedBatches.set_epoch`."""
        self.batch_sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, object]:
        """Where training stands: behind the batch that was given last. Numbers, lists and text, for JSON."""
        return self.batch_sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on behind the batch that was given last when the state was taken, on however many ranks there are now.

        Raises:
            OptionError: if it is no such state, or belongs to other lengths, another policy or seed.
        """
        self.batch_sampler.load_state_dict(state)

    def progress(self) -> dict[str, float]:
        """The running report as numbers by name, for a progress bar or a log: `bar.set_postfix(loader.progress())`."""
        report = self.report
        return {"rows": report.rows, "steps": report.steps, "padded": report.padded, "wasted": round(report.wasted, 4)}

    def __len__(self) -> int:
        """How many batches the epoch has for this rank, those before a state that was loaded among them."""
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[T]:
        """The batches of an epoch; of the rest of one, behind a state that was loaded.

        Raises:
            WorkerError: if a worker dies, or hangs.
        """
        counted = iter(self.batch_sampler)
        running = self._running(self.batch_sampler.plan)
        self.report = Report()
        for number, (batch, _) in enumerate(zip(running, counted, strict=True)):
            self.report += batch.report() if is_batch(batch) else _planned(running.plan, number)
            yield self._moved(batch)

    def _running(self, plan: Plan) -> "_Running[T]":
        check_rows(self.dataset, plan)
        if self._kept is not None:
            self._kept.follow(plan)
            return self._kept
        running = _Running(self.dataset, plan, self._collate, self._options)
        if self._options["persistent_workers"]:
            self._kept = running
        return running

    def _moved(self, batch: T) -> T:
        if self.device is None:
            return batch
        if isinstance(batch, Tensor):
            return cast("T", batch.to(self.device, non_blocking=True))
        to: Callable[[torch.device | str], T] | None = getattr(batch, "to", None)
        if to is None:
            msg = f"device={self.device} needs batches that can move, with a `to`, but {described(batch)} arrived."
            raise OptionError(msg, device=str(self.device))
        return to(self.device)


@final
class _Running(Generic[T]):
    """A stock `DataLoader` at work on a plan, and on further ones after it."""

    def __init__(
        self,
        dataset: Numbered[object],
        plan: Plan,
        collate: Callable[[Any], T | Failure],
        options: dict[str, Any],
    ) -> None:
        self._dispatched: Final = _Dispatched(plan)
        self._dataset: Final = dataset
        self._persistent: Final[bool] = options["persistent_workers"]
        workers: int = options["num_workers"]
        hands = Hands(workers) if workers else None
        self._watch: Final = None if hands is None else Watch(hands, dataset, plan)
        rows = dataset if plan.pieces.limit is None else CutRows(_rows(dataset), plan.pieces)
        self._loader: Final = DataLoader[Any](
            Watched(rows, hands), batch_sampler=self._dispatched, collate_fn=collate, **options
        )

    @property
    def plan(self) -> Plan:
        """Whose batches it makes."""
        return self._dispatched.plan

    def follow(self, plan: Plan) -> None:
        """Make the batches of another plan from now on."""
        self._dispatched.plan = plan
        if self._watch is not None:
            self._watch.plan = plan

    def __iter__(self) -> Iterator[T]:
        answers = iter(self._loader)
        if self._watch is not None:
            heed_deaths()
        try:
            for number in range(len(self.plan)):
                yield self._answer(answers, number)
            next(answers, None)  # there is none
        finally:
            if not self._persistent:
                end_workers(answers)

    def _answer(self, answers: Iterator[T | Failure], number: int) -> T:
        """The next answer of the workers, raised if it is a failure.

        What is raised in this process, where there are no workers, is an error of the same batch.
        """
        try:
            answer = next(answers)
        except WorkerError:
            raise
        except Exception as error:
            told = None if self._watch is None else self._watch.explained(error)
            if told is not None:
                raise told from error
            self._note(error, number)
            raise
        if isinstance(answer, Failure):
            raised = answer.raised()
            self._note(raised, number)
            raise raised
        return answer

    def _note(self, error: Exception, number: int) -> None:
        records = self.plan.pieces.rows_of(self.plan[number]).tolist()
        error.add_note(f"It was raised for batch {number}, of {listed(self._dataset, records)}.")


@final
class _Dispatched(Sampler[list[int]]):
    """Each batch's number in its plan, and behind it its records."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    @override
    def __iter__(self) -> Iterator[list[int]]:
        for number, batch in enumerate(self.plan):
            yield [number, *batch.tolist()]


def _rows(dataset: Numbered[object]) -> Numbered[Row[Kind]]:
    """A dataset as one of rows, if it is one.

    Raises:
        OptionError: if it is not, so that nothing can be cut.
    """
    if len(dataset) and not is_row(first := dataset[0]):
        msg = (
            f"the policy cuts long rows, which needs a dataset of rows, but {described(first)} arrived; cut "
            "them before."
        )
        raise OptionError(msg)
    return cast("Numbered[Row[Kind]]", dataset)


def _planned(plan: Plan, number: int) -> Report:
    """What a plan says of one of its batches."""
    rows, *widths = plan.shapes[number].tolist()
    return Report(1, len(plan[number]), int(plan.steps[number]), rows * sum(widths))
