"""One rule for epochs in samplers, buckets and loaders, which leave the global random generators alone."""

import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Protocol, cast

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from pipeline import Bucket, FromIds, Ids, Pad, Padded
from pipeline.batching import Rows
from pipeline.batching.epochs import EpochState
from pipeline.errors import OptionError
from pipeline.loading import Loader, PlannedBatches, RowDataset, StreamDataset, StreamLoader
from support.untyped import to_list

# Torch warns if there are more workers than processors.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

SOURCE = [[row + 1] * (row % 3 + 1) for row in range(24)]
LENGTHS = [len(row) for row in SOURCE]


class Epochs(Protocol):
    """The methods that samplers, buckets and loaders share."""

    @property
    def epoch(self) -> int:
        """The epoch."""
        ...

    def set_epoch(self, epoch: int, /) -> None:
        """Set the epoch."""
        ...


Case = tuple[Epochs, Callable[[], Iterator[list[int]]]]
"""An object with epochs, and a function that starts an iteration of its batches as row ids."""


def make_planned() -> Case:
    """Make a sampler."""
    batches = PlannedBatches(LENGTHS, Rows(4), seed=2)
    return batches, lambda: iter(batches)


def make_loader(workers: int) -> Case:
    """Make a loader over planned batches."""
    loader = Loader(RowDataset(SOURCE, FromIds()), PlannedBatches(LENGTHS, Rows(4), seed=2), Pad(), num_workers=workers)
    return loader, lambda: (to_list(batch.metadata.row_ids) for batch in loader)


def make_stream_loader(workers: int) -> Case:
    """Make a loader over a stream."""
    data = FromIds() >> Bucket(rows=4, seed=2) >> Pad()
    loader = StreamLoader(StreamDataset(SOURCE, data), num_workers=workers)
    return loader, lambda: (to_list(batch.metadata.row_ids) for batch in loader)


def make_bucket() -> Case:
    """Make a bucket in a chain."""
    bucket = Bucket(rows=4, seed=2)
    data = FromIds() >> bucket >> Pad()
    return bucket, lambda: (to_list(batch.metadata.row_ids) for batch in data(SOURCE))


CASES: list[Callable[[], Case]] = [
    make_planned,
    lambda: make_loader(0),
    lambda: make_loader(2),
    lambda: make_stream_loader(0),
    lambda: make_stream_loader(2),
    make_bucket,
]
each_case = pytest.mark.parametrize(
    "make", CASES, ids=["PlannedBatches", "Loader", "Loader 2", "StreamLoader", "StreamLoader 2", "Bucket"]
)


@each_case
def test_iterations_are_epochs_whether_complete_or_left_early(make: Callable[[], Case]) -> None:
    """Each starts at the beginning of the epoch after the last one."""
    _, start = make()
    epochs = [list(start()) for _ in range(4)]
    assert all(sorted(row for batch in epoch for row in batch) == list(range(24)) for epoch in epochs)
    assert len({str(epoch) for epoch in epochs}) == 4
    counted, start = make()
    assert counted.epoch == 0
    assert list(islice(start(), 2)) == epochs[0][:2]
    assert counted.epoch == 0
    assert list(islice(start(), len(epochs[1]))) == epochs[1]
    assert list(start()) == epochs[2]
    assert counted.epoch == 3
    assert list(start()) == epochs[3]


@each_case
def test_an_epoch_that_is_set_starts_at_its_beginning(make: Callable[[], Case]) -> None:
    """Again and again, after complete iterations and after some that were left early."""
    _, start = make()
    epochs = [list(start()) for _ in range(3)]
    counted, start = make()
    for epoch in (1, 1, 0, 2):
        counted.set_epoch(epoch)
        assert counted.epoch == epoch
        assert list(islice(start(), 2)) == epochs[epoch][:2]
        counted.set_epoch(epoch)
        assert list(start()) == epochs[epoch]
    with pytest.raises(OptionError, match="epoch must be an integer of at least 0, got -1"):
        counted.set_epoch(-1)


@each_case
def test_an_epoch_can_be_set_until_the_first_batch(make: Callable[[], Case]) -> None:
    """As in torch's samplers; later it counts for the next iteration, and the running one stays as it is."""
    _, start = make()
    epochs = [list(start()) for _ in range(4)]
    counted, start = make()
    batches = start()
    counted.set_epoch(1)
    assert next(batches) == epochs[1][0]
    counted.set_epoch(3)
    assert list(batches) == epochs[1][1:]
    assert list(start()) == epochs[3]


@each_case
def test_announcing_the_running_epoch_changes_nothing(make: Callable[[], Case]) -> None:
    """Frameworks do so after they took the first batch."""
    _, start = make()
    epochs = [list(start()) for _ in range(2)]
    counted, start = make()
    batches = start()
    first = next(batches)
    counted.set_epoch(0)
    assert [first, *batches] == epochs[0]
    assert list(start()) == epochs[1]


def test_the_samplers_of_torch_have_the_same_rule() -> None:
    """`DistributedSampler` starts at the beginning, and reads its epoch when the first batch is requested."""

    def draw(epoch: int, later: int) -> list[list[int]]:
        dataset = cast("Dataset[int]", range(24))
        sampler: DistributedSampler[int] = DistributedSampler(dataset, 1, 0, seed=0)
        sampler.set_epoch(epoch)
        batches = iter(BatchSampler(sampler, 4, drop_last=False))
        sampler.set_epoch(later)
        return list(batches)

    assert draw(0, 1) == draw(1, 1) != draw(0, 0)


def test_stock_loaders_read_the_epoch_late() -> None:
    """A stock `DataLoader` over planned batches, and one over a stream."""
    planned = PlannedBatches(LENGTHS, Rows(4), seed=2)
    stream = StreamDataset(SOURCE, FromIds() >> Bucket(rows=4, seed=2) >> Pad())
    read_row_ids: Any = _read_row_ids  # torch's type wants a list
    loaders: list[tuple[Epochs, DataLoader[Any]]] = [
        (planned, DataLoader(RowDataset(SOURCE, FromIds()), batch_sampler=planned, collate_fn=_get_row_ids)),
        (stream, DataLoader(stream, batch_size=None, collate_fn=read_row_ids)),
    ]
    for counted, loader in loaders:
        counted.set_epoch(1)
        wanted = list(loader)
        counted.set_epoch(0)
        batches = iter(loader)
        counted.set_epoch(1)
        assert list(batches) == wanted


def _read_row_ids(batch: Padded[Ids]) -> list[int]:
    row_ids: list[int] = to_list(batch.metadata.row_ids)
    return row_ids


def _get_row_ids(rows: list[object]) -> list[int]:
    return [int(getattr(row, "row_id", -1)) for row in rows]


@each_case
def test_the_rest_of_a_loaded_epoch_is_not_lost(make: Callable[[], Case]) -> None:
    """`set_epoch` of another epoch raises until the rest has begun; that of the same epoch has no effect."""
    first, start = make()
    if isinstance(first, Bucket):
        return  # has no state: its position is that of a StreamDataset
    assert isinstance(first, PlannedBatches | Loader | StreamLoader)
    wanted = list(start())
    first.set_epoch(0)
    list(islice(start(), 2))
    resumed, start = make()
    assert isinstance(resumed, PlannedBatches | Loader | StreamLoader)
    resumed.load_state_dict(first.state_dict())
    with pytest.raises(OptionError, match="epoch must be 0, because the loaded state is within that epoch"):
        resumed.set_epoch(1)
    resumed.set_epoch(0)
    batches = start()
    assert next(batches) == wanted[2]
    resumed.set_epoch(0)
    assert list(batches) == wanted[3:]
    assert resumed.epoch == 1


def test_a_state_after_set_epoch_is_the_beginning_of_the_epoch() -> None:
    """Also if that epoch was left early."""
    counted, start = make_loader(0)
    assert isinstance(counted, Loader)
    wanted = list(start())
    counted.set_epoch(0)
    list(islice(start(), 3))
    counted.set_epoch(0)
    resumed, start = make_loader(0)
    assert isinstance(resumed, Loader)
    resumed.load_state_dict(counted.state_dict())
    assert list(start()) == wanted


def test_an_older_iterator_does_not_move_the_position() -> None:
    """Two iterators are two epochs, and the newer one has the state."""
    state = EpochState[tuple[int, int]](lambda epoch: (epoch, 0))
    old = state.begin()
    state.move(old, (0, 1))
    new = state.begin()
    state.move(new, (1, 1))
    state.move(old, (0, 2))
    state.end(old)
    assert (state.epoch, state.position) == (1, (1, 1))
    state.end(new)
    assert (state.epoch, state.position) == (2, (2, 0))


def get_global_states() -> list[object]:
    """Return the states of all global random generators."""
    return [to_list(torch.get_rng_state()), random.getstate(), str(np.random.get_state())]  # noqa: NPY002


@each_case
def test_global_generators_are_not_used(make: Callable[[], Case]) -> None:
    """With and without workers: a resumed run must see the same dropout masks."""
    counted, start = make()
    before = get_global_states()
    list(start())
    counted.set_epoch(3)
    list(islice(start(), 2))
    assert get_global_states() == before


def seed_globally(seed: int) -> None:
    """Seed torch's global generator, whose function has no types."""
    torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())


def draw_in_worker(_: object) -> int:
    """Draw from the global generator of a worker."""
    return int(torch.randint(1 << 40, ()))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_generator_seeds_the_workers(workers: int) -> None:
    """By default the seed and the epoch do, and not the state of the global generator."""

    def draw(generator: torch.Generator | None = None, seed: int = 0, epoch: int = 0) -> list[int]:
        loader = Loader(
            SOURCE,
            PlannedBatches(LENGTHS, Rows(12), seed=seed),
            draw_in_worker,
            num_workers=workers,
            generator=generator,
        )
        loader.set_epoch(epoch)
        return list(loader)

    seed_globally(1)
    usual = draw()
    seed_globally(2)
    assert draw() == usual
    given = draw(torch.Generator().manual_seed(7))
    assert given == draw(torch.Generator().manual_seed(7))
    assert len({tuple(found) for found in (usual, given, draw(seed=1), draw(epoch=1))}) == 4


def test_a_stream_loader_takes_a_generator() -> None:
    """It draws one number from it per epoch."""
    generator = torch.Generator().manual_seed(3)
    loader = StreamLoader(StreamDataset(SOURCE, FromIds() >> Bucket(rows=4) >> Pad()), generator=generator)
    before = generator.get_state()
    list(loader)
    assert not torch.equal(before, generator.get_state())
