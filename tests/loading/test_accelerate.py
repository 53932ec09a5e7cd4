"""Accelerate splits the batches of all ranks, returns a `Loader` unchanged, and does not split batches twice."""

import random
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pipeline.batching import Budget, Plan
from support.needs import needs
from support.prepared import prepare_on_rank
from support.ranked import run_on_ranks

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


def test_on_one_rank_prepare_changes_nothing() -> None:
    """Without `split_by_rank=False` too."""
    from_prepare: Any = import_module("accelerate").data_loader.prepare_data_loader
    loader = import_module("support.prepared").make_stock_loader(COUNTS)
    found = [batch.metadata.row_ids.tolist() for batch in from_prepare(loader, num_processes=1, process_index=0)]
    assert found == [batch.tolist() for batch in Plan.of(COUNTS, Budget(40), seed=3)]
