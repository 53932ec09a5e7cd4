"""The error of a worker that raises, dies or hangs names the record that it was at."""

import time
from typing import Any

import pytest
from torch.utils.data import DataLoader

from pipeline import Pad
from pipeline.batching import Rows
from pipeline.errors import ValuesError, WorkerError
from pipeline.loading import Loader, PlannedBatches, RowDataset
from pipeline.loading.worker_failure import RemoteTracebackError
from support.dying import kills_workers
from support.needs import SLOW
from support.troubles import (
    TroubledSource,
    TroubledStage,
    UnpicklableError,
    collate_worker_and_row_ids,
    fail_to_start,
)

COUNTS = [1 + row % 5 for row in range(24)]
STARTS: list[Any] = ["fork", "forkserver"]


def make_loader(trouble: str, **options: Any) -> Loader[Any]:
    """Make a loader whose workers have trouble in reading record 13."""
    rows = RowDataset(TroubledSource(COUNTS, 13, trouble), TroubledStage(99, ""))
    return Loader(rows, PlannedBatches(COUNTS, Rows(4), seed=1), Pad(), num_workers=2, **options)


def make_staged_loader(trouble: str, *, one_by_one: bool = False, **options: Any) -> Loader[Any]:
    """Make a loader whose workers have trouble in preparing record 13."""
    rows = RowDataset(TroubledSource(COUNTS, 99, ""), TroubledStage(13, trouble), one_by_one=one_by_one)
    return Loader(rows, PlannedBatches(COUNTS, Rows(4), seed=1), Pad(), num_workers=2, **options)


def find_batch(record: int) -> tuple[int, list[int]]:
    """Return the number and the rows of the batch that holds a record."""
    batches = list(PlannedBatches(COUNTS, Rows(4), seed=1))
    return next((number, batch) for number, batch in enumerate(batches) if record in batch)


@pytest.mark.parametrize("start", STARTS)
def test_an_error_in_a_worker_is_raised_in_training(start: Any) -> None:
    """With its class, its details, and notes of record, batch and worker, after the batches before it."""
    number, batch = find_batch(13)
    given: list[Any] = []
    with pytest.raises(ValuesError, match=r"^bad record") as info:
        given.extend(make_staged_loader("reject", multiprocessing_context=start))
    assert len(given) == number
    assert info.value.details == {"step": 7}
    record, worker, which = info.value.__notes__
    assert record == "It is record 13 (rows.txt, line 14)."
    assert worker.startswith("It was raised in worker ")
    assert which.startswith(
        f"It was raised for batch {number}, which holds record {batch[0]} (rows.txt, line {batch[0] + 1}), rec"
    )
    assert isinstance(info.value.__cause__, RemoteTracebackError)
    assert "cause_trouble" in str(info.value.__cause__)


def test_errors_of_every_class_are_raised_in_training() -> None:
    """Also a `KeyError`, and one whose `__init__` takes other arguments than pickling gives it."""
    with pytest.raises(KeyError, match="a field") as info:
        list(make_loader("raise"))
    assert info.value.__notes__[0] == "It is record 13 (rows.txt, line 14)."
    with pytest.raises(UnpicklableError, match="^1 and 2") as unpicklable:
        list(make_loader("unpicklable"))
    assert unpicklable.value.args == ("1 and 2",)
    assert unpicklable.value.__notes__[0] == "It is record 13 (rows.txt, line 14)."
    with pytest.raises(
        WorkerError, match=r"raised LocalError, which cannot be pickled; its traceback is:\n(.*\n)*.*1 and 2"
    ):
        list(make_loader("local"))


@pytest.mark.parametrize("start", STARTS)
def test_an_error_at_the_start_of_a_worker_keeps_its_class(start: Any) -> None:
    """That of `worker_init_fn` is raised for the worker's first batch."""
    rows = RowDataset(TroubledSource(COUNTS, 99, ""), TroubledStage(99, ""))
    batches = PlannedBatches(COUNTS, Rows(4))
    options: dict[str, Any] = {"num_workers": 2, "worker_init_fn": fail_to_start, "multiprocessing_context": start}
    with pytest.raises(UnpicklableError, match="^0 and 2") as info:
        list(Loader(rows, batches, Pad(), **options))
    assert info.value.__notes__[0] == "It was raised in worker 0."


def test_an_error_in_collating_names_the_batch() -> None:
    """With the records of its rows."""
    batches = PlannedBatches(COUNTS, Rows(4), seed=1)
    rows = RowDataset(TroubledSource(COUNTS, 99, ""), TroubledStage(99, ""))
    for workers in (0, 2):
        short = Loader(rows, batches, Pad(max_length=4), num_workers=workers)
        with pytest.raises(ValueError, match="has 5 steps, but max_length is 4") as info:
            list(short)
        assert info.value.__notes__[-1].startswith("It was raised for batch ")


def test_errors_have_the_same_notes_without_workers() -> None:
    """Except that of the worker."""
    rows = RowDataset(TroubledSource(COUNTS, 13, "raise"), TroubledStage(99, ""))
    with pytest.raises(KeyError, match="a field") as info:
        list(Loader(rows, PlannedBatches(COUNTS, Rows(4), seed=1), Pad()))
    record, which = info.value.__notes__
    assert record == "It is record 13 (rows.txt, line 14)."
    assert which.startswith(f"It was raised for batch {find_batch(13)[0]}, which holds record ")


def test_a_stock_loader_names_the_record() -> None:
    """In the message that torch makes from the error."""
    rows = RowDataset(TroubledSource(COUNTS, 13, "raise"), TroubledStage(99, ""))
    stock = DataLoader(rows, batch_sampler=PlannedBatches(COUNTS, Rows(4)), collate_fn=Pad(), num_workers=2)
    with pytest.raises(KeyError, match=r"It is record 13 \(rows\.txt, line 14\)"):
        list(stock)


@kills_workers
@pytest.mark.parametrize(
    ("start", "trouble"),
    [
        ("fork", "kill"),
        ("fork", "crash"),
        pytest.param("forkserver", "kill", marks=SLOW),
        pytest.param("spawn", "kill", marks=SLOW),
    ],
)
def test_the_death_of_a_worker_names_the_record(start: Any, trouble: str) -> None:
    """Killed by the system, for example because memory ran out, or crashed."""
    number, _ = find_batch(13)
    with pytest.raises(
        WorkerError, match=rf"pid.*: worker \d was at record 13 \(rows\.txt, line 14\), in batch {number}\.$"
    ) as info:
        list(make_loader(trouble, multiprocessing_context=start))
    assert info.value.details["records"] == [13]


@kills_workers
def test_a_worker_that_exits_names_the_record() -> None:
    """There is no signal; torch checks every five seconds whether its workers live."""
    with pytest.raises(
        WorkerError, match=r"(exited unexpectedly|died while .*): worker \d was at record 13 \(rows\.txt, line 14\)"
    ):
        list(make_loader("leave"))


@kills_workers
def test_records_prepared_together_are_named_together() -> None:
    """With `one_by_one=True`, a single record is named."""
    number, batch = find_batch(13)
    with pytest.raises(
        WorkerError, match=rf"worker \d was reading batch {number}, which holds record {batch[0]} \(rows"
    ) as info:
        list(make_staged_loader("kill"))
    assert info.value.details["records"] == batch
    with pytest.raises(WorkerError, match=rf"worker \d was at record 13 \(rows\.txt, line 14\), in batch {number}\.$"):
        list(make_staged_loader("kill", one_by_one=True))


@SLOW
@kills_workers
def test_a_death_during_a_training_step_names_the_record() -> None:
    """The error is raised within the training step, with the same message."""
    number, _ = find_batch(13)
    assert number > 1
    batches = iter(make_loader("kill later", prefetch_factor=number))
    next(batches)
    with pytest.raises(WorkerError, match=r"was at record 13 \(rows\.txt, line 14\)"):
        time.sleep(20)


# A worker that is not forked from this process imports the library first, which takes seconds on a busy machine.
@pytest.mark.parametrize(("start", "timeout"), [("fork", 4), pytest.param("forkserver", 12, marks=SLOW)])
def test_a_hanging_worker_names_the_record(start: Any, timeout: int) -> None:
    """After the timeout; the other worker, which is idle, is not blamed."""
    number, _ = find_batch(13)
    with pytest.raises(
        WorkerError,
        match=rf"^DataLoader timed out after {timeout} seconds: worker \d was at record 13 \(rows\.txt, line 14\), in batch {number}\.$",
    ) as info:
        list(make_loader("hang", multiprocessing_context=start, timeout=timeout, prefetch_factor=1))
    assert info.value.details["records"] == [13]


@kills_workers
def test_parts_of_split_rows_are_named_by_their_record() -> None:
    """A split row has several numbers in a plan, but one in its file."""
    policy = Rows(3, longest=2, too_long="split")
    rows = RowDataset(TroubledSource(COUNTS, 13, "kill"), TroubledStage(99, ""))
    with pytest.raises(WorkerError, match=r"was at record 13 \(rows\.txt, line 14\)") as info:
        list(Loader(rows, PlannedBatches(COUNTS, policy), Pad(), num_workers=1))
    assert info.value.details["records"] == [13]


def test_workers_share_the_work() -> None:
    """Both of two workers make batches; otherwise the tests above would prove little."""
    rows = RowDataset(TroubledSource(COUNTS, 99, ""), TroubledStage(99, ""))
    found = list(Loader(rows, PlannedBatches(COUNTS, Rows(4)), collate_worker_and_row_ids, num_workers=2))
    assert {worker for worker, _ in found} == {0, 1}
    assert sorted(row for _, row_ids in found for row in row_ids) == list(range(24))


def test_a_timeout_before_the_first_batch_blames_no_worker() -> None:
    """And no record."""
    with pytest.raises(WorkerError, match="the workers had not started their first batch; give them more time"):
        list(make_loader("", multiprocessing_context="spawn", timeout=0.01))
