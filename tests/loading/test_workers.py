"""A worker that raises, dies or hangs names the record that it was at."""

import time
from typing import Any

import pytest
from torch.utils.data import DataLoader

from pipeline import Pad
from pipeline.batching import Rows
from pipeline.errors import ValuesError, WorkerError
from pipeline.loading import Loader, PlannedBatches, RowDataset
from pipeline.loading.workers import RemoteTracebackError
from support.troubles import Stumbling, Troubled, workers_places

COUNTS = [1 + place % 5 for place in range(24)]
STARTS: list[Any] = ["fork", "spawn"]


def at_reading(trouble: str, **options: Any) -> Loader[Any]:
    """A loader whose workers come to grief when they read record 13."""
    rows = RowDataset(Troubled(COUNTS, 13, trouble), Stumbling(99, ""))
    return Loader(rows, PlannedBatches(COUNTS, Rows(4), seed=1), Pad(), num_workers=2, **options)


def at_the_door(trouble: str, *, one_by_one: bool = False, **options: Any) -> Loader[Any]:
    """A loader whose workers come to grief when they prepare record 13."""
    rows = RowDataset(Troubled(COUNTS, 99, ""), Stumbling(13, trouble), one_by_one=one_by_one)
    return Loader(rows, PlannedBatches(COUNTS, Rows(4), seed=1), Pad(), num_workers=2, **options)


def batch_of(record: int) -> tuple[int, list[int]]:
    """The batch that holds a record, and its number."""
    batches = list(PlannedBatches(COUNTS, Rows(4), seed=1))
    return next((number, batch) for number, batch in enumerate(batches) if record in batch)


@pytest.mark.parametrize("start", STARTS)
def test_what_a_worker_raises_arrives_as_it_is(start: Any) -> None:
    """Its class, its details, and notes of the record, the batch and the worker; batches before it are given."""
    number, batch = batch_of(13)
    given: list[Any] = []
    with pytest.raises(ValuesError, match=r"^it is no good") as info:
        given.extend(at_the_door("raise", multiprocessing_context=start))
    assert len(given) == number
    assert info.value.details == {"step": 7}
    record, worker, which = info.value.__notes__
    assert record == "It is record 13 (rows.txt, line 14)."
    assert worker.startswith("It was raised in worker ")
    assert which.startswith(
        f"It was raised for batch {number}, of record {batch[0]} (rows.txt, line {batch[0] + 1}), rec"
    )
    assert isinstance(info.value.__cause__, RemoteTracebackError)
    assert "in_trouble" in str(info.value.__cause__)


def test_errors_of_every_sort_arrive() -> None:
    """A `KeyError` too; one that no pipe brings back, as what it said."""
    with pytest.raises(KeyError, match="a field") as info:
        list(at_reading("raise"))
    assert info.value.__notes__[0] == "It is record 13 (rows.txt, line 14)."
    with pytest.raises(
        WorkerError, match=r"raised UnkindError, which cannot leave its process; it said:\n(.*\n)*.*1 and 2"
    ):
        list(at_reading("unkind"))


def test_what_collating_raises_names_the_batch() -> None:
    """Rows that do not fit together, by their records."""
    batches = PlannedBatches(COUNTS, Rows(4), seed=1)
    rows = RowDataset(Troubled(COUNTS, 99, ""), Stumbling(99, ""))
    for workers in (0, 2):
        short = Loader(rows, batches, Pad(max_length=4), num_workers=workers)
        with pytest.raises(ValueError, match="has 5 steps, but max_length is 4") as info:
            list(short)
        assert info.value.__notes__[-1].startswith("It was raised for batch ")


def test_without_workers_errors_say_the_same() -> None:
    """But for the worker."""
    rows = RowDataset(Troubled(COUNTS, 13, "raise"), Stumbling(99, ""))
    with pytest.raises(KeyError, match="a field") as info:
        list(Loader(rows, PlannedBatches(COUNTS, Rows(4), seed=1), Pad()))
    record, which = info.value.__notes__
    assert record == "It is record 13 (rows.txt, line 14)."
    assert which.startswith(f"It was raised for batch {batch_of(13)[0]}, of record ")


def test_a_stock_loader_names_the_record_as_well() -> None:
    """In the message that torch makes of an error."""
    rows = RowDataset(Troubled(COUNTS, 13, "raise"), Stumbling(99, ""))
    stock = DataLoader(rows, batch_sampler=PlannedBatches(COUNTS, Rows(4)), collate_fn=Pad(), num_workers=2)
    with pytest.raises(KeyError, match=r"It is record 13 \(rows\.txt, line 14\)"):
        list(stock)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("trouble", ["kill", "crash"])
def test_a_worker_that_dies_names_the_record_that_it_was_at(start: Any, trouble: str) -> None:
    """Killed from outside, as for want of memory, or by an error of its own."""
    number, _ = batch_of(13)
    with pytest.raises(
        WorkerError, match=rf"pid.*: worker \d was at record 13 \(rows\.txt, line 14\), in batch {number}\.$"
    ) as info:
        list(at_reading(trouble, multiprocessing_context=start))
    assert info.value.details["records"] == [13]


def test_a_worker_that_goes_away_names_the_record_too() -> None:
    """It gives no sign, and torch looks after it every five seconds."""
    with pytest.raises(
        WorkerError, match=r"(exited unexpectedly|died while .*): worker \d was at record 13 \(rows\.txt, line 14\)"
    ):
        list(at_reading("leave"))


def test_records_that_are_prepared_together_are_named_together() -> None:
    """Or one by one, where that is asked for."""
    number, batch = batch_of(13)
    with pytest.raises(
        WorkerError, match=rf"worker \d was reading batch {number}, of record {batch[0]} \(rows"
    ) as info:
        list(at_the_door("kill"))
    assert info.value.details["records"] == batch
    with pytest.raises(WorkerError, match=rf"worker \d was at record 13 \(rows\.txt, line 14\), in batch {number}\.$"):
        list(at_the_door("kill", one_by_one=True))


def test_a_death_during_a_training_step_names_the_record() -> None:
    """The loop is then elsewhere: the error comes where it is, and says the same."""
    number, _ = batch_of(13)
    assert number > 1
    batches = iter(at_reading("kill", prefetch_factor=number))
    next(batches)
    with pytest.raises(WorkerError, match=r"was at record 13 \(rows\.txt, line 14\)"):
        time.sleep(20)


# A spawned worker imports torch first, which takes seconds on a busy machine.
@pytest.mark.parametrize(("start", "patience"), [("fork", 2), ("spawn", 20)])
def test_a_worker_that_hangs_names_the_record_that_it_is_at(start: Any, patience: int) -> None:
    """After the time that is allowed; the other worker, which waits for work, is not blamed."""
    number, _ = batch_of(13)
    with pytest.raises(
        WorkerError,
        match=rf"^DataLoader timed out after {patience} seconds: worker \d was at record 13 \(rows\.txt, line 14\), in batch {number}\.$",
    ) as info:
        list(at_reading("hang", multiprocessing_context=start, timeout=patience, prefetch_factor=1))
    assert info.value.details["records"] == [13]


def test_pieces_are_named_by_their_record() -> None:
    """A split row has many numbers in a plan, and one in its file."""
    policy = Rows(3, longest=2, too_long="split")
    rows = RowDataset(Troubled(COUNTS, 13, "kill"), Stumbling(99, ""))
    with pytest.raises(WorkerError, match=r"was at record 13 \(rows\.txt, line 14\)") as info:
        list(Loader(rows, PlannedBatches(COUNTS, policy), Pad(), num_workers=1))
    assert info.value.details["records"] == [13]


def test_workers_share_the_work() -> None:
    """Both of two make batches: else the tests above say little."""
    rows = RowDataset(Troubled(COUNTS, 99, ""), Stumbling(99, ""))
    found = list(Loader(rows, PlannedBatches(COUNTS, Rows(4)), workers_places, num_workers=2))
    assert {worker for worker, _ in found} == {0, 1}
    assert sorted(place for _, places in found for place in places) == list(range(24))


def test_workers_that_have_no_time_to_begin_are_not_blamed() -> None:
    """Nor is a record."""
    with pytest.raises(
        WorkerError, match="no worker was at a record, since they had not begun yet; give them more time"
    ):
        list(at_reading("", multiprocessing_context="spawn", timeout=0.01))
