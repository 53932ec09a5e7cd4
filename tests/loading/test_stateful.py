"""torchdata's `StatefulDataLoader` over planned batches resumes exactly at any batch."""

import pickle
import random
from importlib import import_module
from itertools import islice
from typing import Any

import pytest

from pipeline import FromIds, Pad
from pipeline.batching import Budget
from pipeline.loading import PlannedBatches, RowDataset
from support.needs import needs
from support.untyped import to_list

# torchdata calls a deprecated function of torch.
pytestmark = [
    needs("torchdata"),
    pytest.mark.filterwarnings("ignore:.*set_vital", "ignore:This DataLoader will create"),
]

COUNTS = [random.Random(row).randint(0, 12) for row in range(40)]


def make_loader(workers: int) -> Any:
    """Make a loader over rows of these lengths."""
    rows = RowDataset([[row] * count for row, count in enumerate(COUNTS)], FromIds())
    kind = import_module("torchdata.stateful_dataloader").StatefulDataLoader
    batches = PlannedBatches(COUNTS, Budget(40), seed=3)
    return kind(rows, batch_sampler=batches, collate_fn=Pad(), num_workers=workers)


def take(batches: Any, count: int | None = None) -> list[list[int]]:
    """Return the row ids of the next `count` batches, or of all that are left."""
    return [to_list(batch.metadata.row_ids) for batch in islice(iter(batches), count)]


@pytest.fixture(scope="module")
def wanted() -> list[list[list[int]]]:
    """Return the row ids of two epochs."""
    batches = PlannedBatches(COUNTS, Budget(40), seed=3)
    return [list(batches), list(batches)]


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_a_state_at_any_batch_resumes_exactly(workers: int, wanted: list[list[list[int]]]) -> None:
    """The rest of the epoch, and the next; with workers, at the first batch, the last, and one between."""
    ends = len(wanted[0])
    for cut in range(ends + 1) if not workers else (1, ends // 2, ends):
        first = make_loader(workers)
        before = take(first, cut)
        state = pickle.loads(pickle.dumps(first.state_dict()))
        resumed = make_loader(workers)
        resumed.load_state_dict(state)
        rest = take(resumed)
        assert before + rest == wanted[0]
        assert take(resumed) == wanted[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_several_times(workers: int, wanted: list[list[list[int]]]) -> None:
    """After every two batches."""
    found = take(batches := make_loader(workers), 2)
    for _ in range(3):
        state = batches.state_dict()
        batches = make_loader(workers)
        batches.load_state_dict(state)
        found += take(batches, 2)
    assert found == wanted[0][:8]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_after_the_last_batch_starts_the_next_epoch(workers: int, wanted: list[list[list[int]]]) -> None:
    """It is saved after the loop has ended."""
    first = make_loader(workers)
    assert take(first) == wanted[0]
    resumed = make_loader(workers)
    resumed.load_state_dict(first.state_dict())
    assert take(resumed) == wanted[1]
