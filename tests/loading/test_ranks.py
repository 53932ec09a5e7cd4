"""Two joined ranks get the same number of batches, every row once, and never wait for each other forever."""

import random
from pathlib import Path

import pytest
import torch

from pipeline import Pad
from pipeline.batching import Budget, Plan
from pipeline.loading import Loader, PlannedBatches, RowDataset
from pipeline.stages.input_stage import FromIds
from support.ranked import run_on_ranks
from support.steps import train_on_rank

COUNTS = [random.Random(row).randint(1, 12) for row in range(61)]


@pytest.mark.parametrize("workers", [0, 1])
def test_distributed_training_takes_one_step_per_batch(workers: int, tmp_path: Path) -> None:
    """Two epochs with exchanged gradients: the ranks end together with the same weights, after every row."""
    first, second = run_on_ranks(train_on_rank, 2, tmp_path, COUNTS, workers)
    for epoch in range(2):
        mine, theirs = first["row_ids"][epoch], second["row_ids"][epoch]
        plan = Plan.of(COUNTS, Budget(40), seed=3, epoch=epoch, world_size=2)
        assert mine == [batch.tolist() for batch in plan.rank(0)]
        assert theirs == [batch.tolist() for batch in plan.rank(1)]
        assert len(mine) == len(theirs)
        assert sorted(row for batch in mine + theirs for row in batch) == list(range(61))
    assert first["state"] == second["state"]
    for one, other in zip(first["weights"], second["weights"], strict=True):
        assert torch.equal(one, other)
    resumed = Loader(
        RowDataset([[1] * count for count in COUNTS], FromIds()), PlannedBatches(COUNTS, Budget(40), seed=3), Pad()
    )
    resumed.load_state_dict(first["state"])
    assert resumed.epoch == 2
