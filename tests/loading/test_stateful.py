"""torchdata's `StatefulDataLoader` over planned batches: from a state at any batch, the very same rest."""

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
from support.untyped import listed

# What it calls of torch is deprecated there.
pytestmark = [
    needs("torchdata"),
    pytest.mark.filterwarnings("ignore:.*set_vital", "ignore:This DataLoader will create"),
]

COUNTS = [random.Random(place).randint(0, 12) for place in range(40)]


def loader(workers: int) -> Any:
    """A loader over rows of such lengths."""
    rows = RowDataset([[place] * count for place, count in enumerate(COUNTS)], FromIds())
    made = import_module("torchdata.stateful_dataloader").StatefulDataLoader
    batches = PlannedBatches(COUNTS, Budget(40), seed=3)
    return made(rows, batch_sampler=batches, collate_fn=Pad(), num_workers=workers)


def places(batches: Any, count: int | None = None) -> list[list[int]]:
    """The rows of so many batches, or of all that are left."""
    return [listed(batch.metadata.places) for batch in islice(iter(batches), count)]


@pytest.fixture(scope="module")
def wanted() -> list[list[list[int]]]:
    """Two epochs."""
    batches = PlannedBatches(COUNTS, Budget(40), seed=3)
    return [list(batches), list(batches)]


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_resumed_at_any_batch(workers: int, wanted: list[list[list[int]]]) -> None:
    """Of the epoch, and of the next; with workers at the first batch, the last, and one between."""
    ends = len(wanted[0])
    for cut in range(ends + 1) if not workers else (1, ends // 2, ends):
        first = loader(workers)
        before = places(first, cut)
        state = pickle.loads(pickle.dumps(first.state_dict()))
        resumed = loader(workers)
        resumed.load_state_dict(state)
        rest = places(resumed)
        assert before + rest == wanted[0]
        assert places(resumed) == wanted[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_several_times(workers: int, wanted: list[list[list[int]]]) -> None:
    """Two batches, and again."""
    found = places(batches := loader(workers), 2)
    for _ in range(3):
        state = batches.state_dict()
        batches = loader(workers)
        batches.load_state_dict(state)
        found += places(batches, 2)
    assert found == wanted[0][:8]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_behind_the_last_batch_begins_the_next_epoch(workers: int, wanted: list[list[list[int]]]) -> None:
    """Once the loop has ended."""
    first = loader(workers)
    assert places(first) == wanted[0]
    resumed = loader(workers)
    resumed.load_state_dict(first.state_dict())
    assert places(resumed) == wanted[1]
