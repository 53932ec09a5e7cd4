"""Accelerate splits the batches of all ranks, returns a `Loader` unchanged, and does not split batches twice."""

import random
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from pipeline import Bucket, FromIds, Ids, Pad, Padded
from pipeline.batching import Budget, Plan
from pipeline.errors import OptionError
from pipeline.loading import Loader, PlannedBatches, StreamDataset, StreamLoader
from support.needs import needs
from support.prepared import make_rows, make_stock_loader, prepare_on_rank
from support.ranked import run_on_ranks
from support.untyped import to_list

pytestmark = [needs("accelerate"), pytest.mark.filterwarnings("ignore")]

COUNTS = [random.Random(row).randint(1, 12) for row in range(61)]


@pytest.mark.parametrize("even", [True, False])
def test_prepare_splits_the_batches_of_all_ranks(even: bool, tmp_path: Path) -> None:
    """Each rank gets its own batches of the plan, epoch after epoch, with and without `even_batches`."""
    for rank, found in enumerate(run_on_ranks(prepare_on_rank, 2, tmp_path, COUNTS, even)):
        for epoch in range(2):
            plan = Plan.of(COUNTS, Budget(40), seed=3, epoch=epoch, world_size=2)
            wanted = [batch.tolist() for batch in plan.rank(rank)]
            assert found["prepared"][epoch] == wanted
            assert found["ours"][epoch] == wanted
        assert "these batches already belong to one rank of 2; splitting them again would drop" in found["twice"]
        assert found["unchanged"]
        assert "batch_size" in found["split"]


def make_loader() -> Loader[Padded[Ids]]:
    """Make a `Loader`."""
    return Loader(make_rows(COUNTS), PlannedBatches(COUNTS, Budget(40), seed=3), Pad())


def make_stream() -> StreamDataset[Any, Padded[Ids]]:
    """Make a stream of the same rows."""
    source = [[row] * count for row, count in enumerate(COUNTS)]
    return StreamDataset(source, FromIds() >> Bucket(max_padded_steps=40) >> Pad())


def test_skipping_batches_of_our_loaders_is_rejected() -> None:
    """They resume from a state; of a stock loader, the right batches are skipped."""
    skip: Any = import_module("accelerate").skip_first_batches
    for loader, message in (
        (make_loader(), r"Loader has no sampler, so .*skip_first_batches cannot skip.*Loader.load_state_dict\(state\)"),
        (StreamLoader(make_stream()), "StreamLoader has no dataset, so .*skip_first_batches cannot skip"),
    ):
        with pytest.raises(OptionError, match=message):
            skip(loader, 2)
    assert not hasattr(make_loader(), "sampler")
    wanted = [batch.tolist() for batch in Plan.of(COUNTS, Budget(40), seed=3)]
    planned = make_stock_loader(COUNTS)
    assert [batch.metadata.row_ids.tolist() for batch in skip(planned, 2)] == wanted[2:]
    streamed = [to_list(batch.metadata.row_ids) for batch in make_stream()]
    stock = DataLoader(make_stream(), batch_size=None)
    assert [batch.metadata.row_ids.tolist() for batch in skip(stock, 2)] == streamed[2:]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("dispatch", [True, False])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_is_not_split_again(processes: int, dispatch: bool, workers: int) -> None:
    """Accelerate would cut its batches, or distribute them once more; without either it serves them all."""
    from_prepare: Any = import_module("accelerate").data_loader.prepare_data_loader
    loader = DataLoader(make_stream(), batch_size=None, num_workers=workers)
    prepared = from_prepare(
        loader, num_processes=processes, process_index=0, dispatch_batches=dispatch, put_on_device=True
    )
    if processes == 1 and not dispatch:
        assert sorted(row for batch in prepared for row in batch.metadata.row_ids.tolist()) == list(range(61))
        return
    with pytest.raises(OptionError, match="a StreamDataset shares its rows among the ranks itself, and accelerator"):
        list(prepared)


def test_the_state_of_our_loaders_is_kept_by_accelerate(tmp_path: Path) -> None:
    """`prepare` returns them as they are, and `register_for_checkpointing` saves their state."""
    for make in (make_loader, lambda: StreamLoader(make_stream())):
        wanted = [to_list(batch.metadata.row_ids) for batch in make()]
        first, resumed = (import_module("accelerate").Accelerator(cpu=True) for _ in range(2))
        loader, other = first.prepare(make()), resumed.prepare(make())
        first.register_for_checkpointing(loader)
        resumed.register_for_checkpointing(other)
        before = [batch.metadata.row_ids.tolist() for batch in islice(loader, 3)]
        first.save_state(str(tmp_path / type(loader).__name__))
        resumed.load_state(str(tmp_path / type(loader).__name__))
        assert before + [batch.metadata.row_ids.tolist() for batch in other] == wanted


def test_on_one_rank_prepare_changes_nothing() -> None:
    """Without `split_by_rank=False` too."""
    from_prepare: Any = import_module("accelerate").data_loader.prepare_data_loader
    loader = make_stock_loader(COUNTS)
    found = [batch.metadata.row_ids.tolist() for batch in from_prepare(loader, num_processes=1, process_index=0)]
    assert found == [batch.tolist() for batch in Plan.of(COUNTS, Budget(40), seed=3)]
