"""`Loader`: the same batches for any workers, and a state that is that of the training loop."""

import json
import random
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from pipeline import FromIds, Ids, Pad, Padded, Report
from pipeline.batching import Budget, Policy, Rows
from pipeline.errors import OptionError
from pipeline.loading import CutRows, Loader, PlannedBatches, RowDataset
from support.untyped import to_list

# Torch warns if there are more workers than processors.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

COUNTS = [random.Random(row).randint(0, 12) for row in range(60)]
SOURCE = [[row] * count for row, count in enumerate(COUNTS)]
POLICY = Budget(40, rows=8)


def make_batches(policy: Policy = POLICY) -> PlannedBatches:
    """Plan the batches of a single rank."""
    return PlannedBatches(COUNTS, policy, seed=3)


def make_loader(policy: Policy = POLICY, **options: Any) -> Loader[Padded[Ids]]:
    """Make a loader over the rows above."""
    return Loader(RowDataset(SOURCE, FromIds()), make_batches(policy), Pad(), **options)


def get_content(batch: Padded[Ids]) -> tuple[list[int], list[list[int]]]:
    """Return a batch's row ids and values."""
    return to_list(batch.metadata.row_ids), to_list(batch.values)


def load_epochs(batches: Loader[Padded[Ids]], count: int = 2) -> list[list[Any]]:
    """Return the contents of some epochs."""
    return [[get_content(batch) for batch in batches] for _ in range(count)]


WORKERS: list[dict[str, Any]] = [
    {"num_workers": 0},
    {"num_workers": 1},
    {"num_workers": 2},
    {"num_workers": 4, "prefetch_factor": 1},
    {"num_workers": 2, "persistent_workers": True},
    {"num_workers": 2, "multiprocessing_context": "forkserver"},
    {"num_workers": 1, "multiprocessing_context": "spawn", "persistent_workers": True},
]


@pytest.fixture(scope="module")
def wanted() -> list[list[Any]]:
    """Make two epochs row by row."""
    rows, batches = RowDataset(SOURCE, FromIds()), make_batches()
    return [[get_content(Pad()([rows[row] for row in batch])) for batch in batches] for _ in range(2)]


@pytest.mark.parametrize("options", WORKERS, ids=repr)
def test_batches_do_not_depend_on_workers(options: dict[str, Any], wanted: list[list[Any]]) -> None:
    """In this process, in one or more workers, forked or spawned, persistent or not: epoch after epoch."""
    assert load_epochs(make_loader(**options)) == wanted


@pytest.mark.parametrize("options", WORKERS[:6], ids=repr)
def test_a_stock_loader_makes_the_same_batches(options: dict[str, Any], wanted: list[list[Any]]) -> None:
    """With `PlannedBatches` as its batch sampler."""
    stock = DataLoader(RowDataset(SOURCE, FromIds()), batch_sampler=make_batches(), collate_fn=Pad(), **options)
    assert [[get_content(batch) for batch in stock] for _ in range(2)] == wanted


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_a_state_is_that_of_the_training_loop(workers: int, wanted: list[list[Any]]) -> None:
    """Whatever workers have prepared ahead; resumed at every batch, with another number of workers."""
    every = list(range(len(wanted[0]) + 1))
    for cut in every if not workers else every[:: max(1, len(every) // 3)]:
        first = make_loader(num_workers=workers)
        before = [get_content(batch) for batch in islice(iter(first), cut)]
        state = json.loads(json.dumps(first.state_dict()))
        resumed = make_loader(num_workers=(workers + 1) % 3)
        resumed.load_state_dict(state)
        assert len(resumed) == len(wanted[0])
        assert before + [get_content(batch) for batch in resumed] == wanted[0]
        assert resumed.epoch == 1
        assert [get_content(batch) for batch in resumed] == wanted[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_several_times(workers: int, wanted: list[list[Any]]) -> None:
    """After every three batches, with persistent workers."""
    found: list[Any] = []
    state = make_loader().state_dict()
    for _ in range(4):
        resumed = make_loader(num_workers=workers, persistent_workers=workers > 0)
        resumed.load_state_dict(state)
        found += [get_content(batch) for batch in islice(iter(resumed), 3)]
        state = resumed.state_dict()
    assert found == wanted[0][:12]


def test_the_next_epoch_follows_one_that_was_left_early(wanted: list[list[Any]]) -> None:
    """With persistent workers as without; the epoch starts again if it is set."""
    for options in WORKERS[:2] + WORKERS[4:5]:
        batches = make_loader(**options)
        assert get_content(next(iter(batches))) == wanted[0][0]
        assert get_content(next(iter(batches))) == wanted[1][0]
        batches.set_epoch(0)
        assert get_content(next(iter(batches))) == wanted[0][0]
        batches.set_epoch(0)
        assert load_epochs(batches) == wanted


def test_the_epoch_can_be_set(wanted: list[list[Any]]) -> None:
    """As in a sampler."""
    batches = make_loader(num_workers=1)
    batches.set_epoch(1)
    assert [get_content(batch) for batch in batches] == wanted[1]
    assert batches.epoch == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_long_rows_are_cut_by_the_loader(workers: int) -> None:
    """As the policy says; a stock loader needs `CutRows`."""
    for too_long in ("split", "truncate"):
        policy = Budget(5, too_long=too_long)
        found = [get_content(batch) for batch in make_loader(policy, num_workers=workers)]
        rows = CutRows(RowDataset(SOURCE, FromIds()), make_batches(policy).splits)
        stock = DataLoader(rows, batch_sampler=make_batches(policy), collate_fn=Pad())
        assert found == [get_content(batch) for batch in stock]
        steps = sum(len(row) for _, values in found for row in values)
        assert all(len(values) * len(values[0]) <= 5 for _, values in found if values[0])
        assert steps >= sum(min(count, 5) if too_long == "truncate" else count for count in COUNTS)


def test_the_report_adds_up_the_batches_so_far() -> None:
    """It starts again with each epoch; for batches without a report, the plan's figures are added."""
    batches = make_loader()
    sums = Report()
    for batch in batches:
        sums += batch.report()
        assert batches.report == sums
    assert sums == make_batches().plan.report()
    assert batches.progress() == {
        "rows": 60,
        "steps": sum(COUNTS),
        "padded": sums.padded,
        "wasted": pytest.approx(sums.wasted, abs=1e-4),
    }
    plain = Loader(SOURCE, make_batches(), len)
    assert sum(plain) == 60
    assert plain.report == sums


class Immovable:
    """A batch without a method `to`."""


def test_batches_move_to_a_device() -> None:
    """Batches and tensors do; other objects are rejected."""
    for batch in make_loader(device="meta"):
        assert batch.values.device.type == "meta"
        assert batch.lengths.device.type == "cpu"
    tensors = Loader(SOURCE, make_batches(), lambda rows: torch.zeros(len(rows)), device="meta")
    assert all(tensor.device.type == "meta" for tensor in tensors)
    with pytest.raises(OptionError, match="device=meta needs batches with a method `to`, got .*Immovable"):
        next(iter(Loader(SOURCE, make_batches(), lambda _: Immovable(), device="meta")))


def test_a_loader_pins_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch calls `pin_memory` of every batch if there is a device, which is simulated here."""
    pinned: list[Padded[Ids]] = []

    def pin(batch: Padded[Ids]) -> Padded[Ids]:
        pinned.append(batch)
        return batch

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(Padded, "pin_memory", pin)
    given = list(make_loader(pin_memory=True))
    assert pinned == given
    assert len(given) > 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("workers", [0, 2])
def test_pinned_batches_are_copied_to_a_device_without_blocking(workers: int, wanted: list[list[Any]]) -> None:
    """They are page-locked, and have the same content on the device."""
    pinned = make_loader(pin_memory=True, num_workers=workers)
    assert all(batch.values.is_pinned() for batch in pinned)
    moved = make_loader(pin_memory=True, num_workers=workers, device="cuda")
    found = list(moved)
    torch.cuda.synchronize()
    assert all(batch.values.is_cuda for batch in found)
    assert [get_content(batch) for batch in found] == wanted[0]


def test_no_rows_make_no_batches() -> None:
    """And raise no error."""
    nothing: list[list[int]] = []
    assert list(Loader(RowDataset(nothing, FromIds()), PlannedBatches([], Rows(2)), Pad(), num_workers=1)) == []


REJECTED: list[tuple[Callable[[], object], str]] = [
    (lambda: make_loader(timeout=3), "timeout is for workers, but num_workers is 0; leave it out"),
    (lambda: make_loader(prefetch_factor=2), "prefetch_factor is for workers, but num_workers is 0"),
    (
        lambda: make_loader(multiprocessing_context="spawn"),
        "multiprocessing_context is for workers, but num_workers is 0",
    ),
    (lambda: make_loader(num_workers=-1), "num_workers must be .*-1"),
    (
        lambda: Loader(SOURCE, PlannedBatches(COUNTS, POLICY, split_by_rank=False), len),
        "batches must be those of one rank, got split_by_rank=False",
    ),
    (
        lambda: list(Loader(SOURCE[1:], make_batches(), len)),
        "dataset must have the 60 rows that batches were planned for, got 59 rows",
    ),
    (
        lambda: list(Loader(SOURCE, make_batches(Budget(5, too_long="split")), len)),
        "dataset must hold rows, because the policy cuts long ones, got .*list",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), REJECTED)
def test_contradictory_options_are_rejected(wrong: Callable[[], object], message: str) -> None:
    """The message has the rule and the value."""
    with pytest.raises(OptionError, match=message):
        wrong()
