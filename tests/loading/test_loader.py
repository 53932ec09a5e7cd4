"""Loaders: the same batches whoever makes them, and a state that is training's, not the workers'."""

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
from support.untyped import listed

# Four workers are more than torch would have on two processors.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

COUNTS = [random.Random(place).randint(0, 12) for place in range(60)]
SOURCE = [[place] * count for place, count in enumerate(COUNTS)]
POLICY = Budget(40, rows=8)


def planned(policy: Policy = POLICY) -> PlannedBatches:
    """The batches of one rank alone."""
    return PlannedBatches(COUNTS, policy, seed=3)


def loader(policy: Policy = POLICY, **options: Any) -> Loader[Padded[Ids]]:
    """A loader over the rows above."""
    return Loader(RowDataset(SOURCE, FromIds()), planned(policy), Pad(), **options)


def content(batch: Padded[Ids]) -> tuple[list[int], list[list[int]]]:
    """A batch's places and its values."""
    return listed(batch.metadata.row_ids), listed(batch.values)


def epochs(batches: Loader[Padded[Ids]], count: int = 2) -> list[list[Any]]:
    """What some epochs hold."""
    return [[content(batch) for batch in batches] for _ in range(count)]


HOW: list[dict[str, Any]] = [
    {"num_workers": 0},
    {"num_workers": 1},
    {"num_workers": 2},
    {"num_workers": 4, "prefetch_factor": 1},
    {"num_workers": 2, "persistent_workers": True},
    {"num_workers": 2, "multiprocessing_context": "spawn"},
    {"num_workers": 1, "multiprocessing_context": "spawn", "persistent_workers": True},
    {"num_workers": 2, "multiprocessing_context": "forkserver"},
]


@pytest.fixture(scope="module")
def wanted() -> list[list[Any]]:
    """Two epochs, row by row."""
    rows, batches = RowDataset(SOURCE, FromIds()), planned()
    return [[content(Pad()([rows[row] for row in batch])) for batch in batches] for _ in range(2)]


@pytest.mark.parametrize("options", HOW, ids=repr)
def test_the_same_batches_whoever_makes_them(options: dict[str, Any], wanted: list[list[Any]]) -> None:
    """In this process, in one worker or more, forked or spawned, kept or not: epoch after epoch."""
    assert epochs(loader(**options)) == wanted


@pytest.mark.parametrize("options", HOW[:6], ids=repr)
def test_a_stock_loader_makes_them_too(options: dict[str, Any], wanted: list[list[Any]]) -> None:
    """With the sampler as its batch sampler."""
    stock = DataLoader(RowDataset(SOURCE, FromIds()), batch_sampler=planned(), collate_fn=Pad(), **options)
    assert [[content(batch) for batch in stock] for _ in range(2)] == wanted


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_a_state_is_that_of_the_training_loop(workers: int, wanted: list[list[Any]]) -> None:
    """Whatever the workers have made ahead; resumed at every batch, by a loader of another number of workers."""
    every = list(range(len(wanted[0]) + 1))
    for cut in every if not workers else every[:: max(1, len(every) // 3)]:
        first = loader(num_workers=workers)
        before = [content(batch) for batch in islice(iter(first), cut)]
        state = json.loads(json.dumps(first.state_dict()))
        resumed = loader(num_workers=(workers + 1) % 3)
        resumed.load_state_dict(state)
        assert len(resumed) == len(wanted[0])
        assert before + [content(batch) for batch in resumed] == wanted[0]
        assert resumed.epoch == 1
        assert [content(batch) for batch in resumed] == wanted[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_several_times(workers: int, wanted: list[list[Any]]) -> None:
    """One batch, and again; with workers that are kept."""
    found: list[Any] = []
    state = loader().state_dict()
    for _ in range(4):
        resumed = loader(num_workers=workers, persistent_workers=workers > 0)
        resumed.load_state_dict(state)
        found += [content(batch) for batch in islice(iter(resumed), 3)]
        state = resumed.state_dict()
    assert found == wanted[0][:12]


def test_a_loop_that_was_left_begins_again(wanted: list[list[Any]]) -> None:
    """With workers kept as without."""
    for options in HOW[:2] + HOW[4:5]:
        batches = loader(**options)
        assert content(next(iter(batches))) == wanted[0][0]
        assert content(next(iter(batches))) == wanted[0][0]
        assert epochs(batches) == wanted


def test_epochs_can_be_said(wanted: list[list[Any]]) -> None:
    """As to a sampler."""
    batches = loader(num_workers=1)
    batches.set_epoch(1)
    assert [content(batch) for batch in batches] == wanted[1]
    assert batches.epoch == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_long_rows_are_cut_by_the_loader(workers: int) -> None:
    """As the policy says; a stock loader does it with `CutRows`."""
    for too_long in ("split", "truncate"):
        policy = Budget(5, too_long=too_long)
        found = [content(batch) for batch in loader(policy, num_workers=workers)]
        rows = CutRows(RowDataset(SOURCE, FromIds()), planned(policy).splits)
        stock = DataLoader(rows, batch_sampler=planned(policy), collate_fn=Pad())
        assert found == [content(batch) for batch in stock]
        steps = sum(len(row) for _, values in found for row in values)
        assert all(len(values) * len(values[0]) <= 5 for _, values in found if values[0])
        assert steps >= sum(min(count, 5) if too_long == "truncate" else count for count in COUNTS)


def test_the_running_report_is_data() -> None:
    """The sum of the batches so far, begun anew with each epoch; of batches that say nothing, what the plan says."""
    batches = loader()
    sums = Report()
    for batch in batches:
        sums += batch.report()
        assert batches.report == sums
    assert sums == planned().plan.report()
    assert batches.progress() == {
        "rows": 60,
        "steps": sum(COUNTS),
        "padded": sums.padded,
        "wasted": pytest.approx(sums.wasted, abs=1e-4),
    }
    plain = Loader(SOURCE, planned(), len)
    assert sum(plain) == 60
    assert plain.report == sums


class Still:
    """What cannot move."""


def test_batches_move_to_a_device() -> None:
    """Ours, and tensors; what cannot move is refused."""
    for batch in loader(device="meta"):
        assert batch.values.device.type == "meta"
        assert batch.lengths.device.type == "cpu"
    tensors = Loader(SOURCE, planned(), lambda rows: torch.zeros(len(rows)), device="meta")
    assert all(tensor.device.type == "meta" for tensor in tensors)
    with pytest.raises(OptionError, match="device=meta needs batches that can move, with a `to`, but a Still arrived"):
        next(iter(Loader(SOURCE, planned(), lambda _: Still(), device="meta")))


def test_a_loader_asks_batches_to_be_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch asks whatever has a `pin_memory`: told that there is a device, since only then it does."""
    asked: list[Padded[Ids]] = []

    def pin(batch: Padded[Ids]) -> Padded[Ids]:
        asked.append(batch)
        return batch

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(Padded, "pin_memory", pin)
    given = list(loader(pin_memory=True))
    assert asked == given
    assert len(given) > 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("workers", [0, 2])
def test_pinned_batches_go_to_a_device_unawaited(workers: int, wanted: list[list[Any]]) -> None:
    """Page-locked, and there with the same content."""
    pinned = loader(pin_memory=True, num_workers=workers)
    assert all(batch.values.is_pinned() for batch in pinned)
    moved = loader(pin_memory=True, num_workers=workers, device="cuda")
    found = list(moved)
    torch.cuda.synchronize()
    assert all(batch.values.is_cuda for batch in found)
    assert [content(batch) for batch in found] == wanted[0]


def test_no_rows_make_no_batches() -> None:
    """And no error."""
    nothing: list[list[int]] = []
    assert list(Loader(RowDataset(nothing, FromIds()), PlannedBatches([], Rows(2)), Pad(), num_workers=1)) == []


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: loader(timeout=3), "timeout is for workers, but num_workers is 0; leave it out"),
    (lambda: loader(prefetch_factor=2), "prefetch_factor is for workers, but num_workers is 0"),
    (lambda: loader(multiprocessing_context="spawn"), "multiprocessing_context is for workers, but num_workers is 0"),
    (lambda: loader(num_workers=-1), "num_workers must be a whole number, 0 or more, but -1 arrived"),
    (
        lambda: Loader(SOURCE, PlannedBatches(COUNTS, POLICY, split_by_rank=False), len),
        "batches were made with split_by_rank=False, for what deals them out to the ranks by itself, which a Loader does not",
    ),
    (
        lambda: list(Loader(SOURCE[1:], planned(), len)),
        "batches were planned of 60 lengths, but the dataset has 59 rows; give each row its length, and no other",
    ),
    (
        lambda: list(Loader(SOURCE, planned(Budget(5, too_long="split")), len)),
        "the policy cuts long rows, which needs a dataset of rows, but a list arrived; cut them before",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), REFUSED)
def test_what_does_not_go_together_is_refused(wrong: Callable[[], object], message: str) -> None:
    """With the rule, what arrived, and what to do."""
    with pytest.raises(OptionError, match=message):
        wrong()
