"""Accelerate: it deals out what is made for that, leaves our loader alone, and does not deal out twice."""

import random
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pipeline.batching import Budget, Plan
from support.needs import needs
from support.prepared import prepared_on_a_rank
from support.ranked import on_ranks

pytestmark = [needs("accelerate"), pytest.mark.filterwarnings("ignore")]

COUNTS = [random.Random(place).randint(1, 12) for place in range(61)]


@pytest.mark.parametrize("even", [True, False])
def test_what_is_not_dealt_out_is_dealt_out_by_prepare(even: bool, tmp_path: Path) -> None:
    """Each rank gets its own batches of the plan, epoch after epoch, whether Accelerate is to even them or not."""
    for rank, found in enumerate(on_ranks(prepared_on_a_rank, 2, tmp_path, COUNTS, even)):
        for epoch in range(2):
            plan = Plan.of(COUNTS, Budget(40), seed=3, epoch=epoch, world_size=2)
            wanted = [batch.tolist() for batch in plan.rank(rank)]
            assert found["prepared"][epoch] == wanted
            assert found["ours"][epoch] == wanted
        assert "are the batches of one rank of 2 already, but what reads drop_last" in found["twice"]
        assert found["left alone"]
        assert "batch_size" in found["split"]


def test_on_one_rank_prepare_changes_nothing() -> None:
    """Nor does it need to be told."""
    from_prepare: Any = import_module("accelerate").data_loader.prepare_data_loader
    loader = import_module("support.prepared").stock(COUNTS)
    found = [batch.metadata.places.tolist() for batch in from_prepare(loader, num_processes=1, process_index=0)]
    assert found == [batch.tolist() for batch in Plan.of(COUNTS, Budget(40), seed=3)]
