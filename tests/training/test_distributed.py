"""`fit` on several ranks trains as one process on the rows of all of them; and what happens if a rank fails."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from support.rank_fits import (
    CASES,
    fit_on_rank,
    train_alone,
)
from support.ranked import run_on_ranks
from support.trainable import TRAINABLE

WORLD_SIZES = (2, 3)


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """Return the results of all cases on each rank. They run together, since it takes seconds to start a process."""
    return {size: run_on_ranks(fit_on_rank, size, Path(tmp_path_factory.mktemp("ranks"))) for size in WORLD_SIZES}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_ranks_have_the_weights_of_one_process(fits: Any, case: str, world_size: int) -> None:
    """That takes the batches of all ranks in each step; ranks get the weights of rank 0 at the beginning."""
    wanted = train_alone(case, world_size)
    for rank in fits[world_size]:
        assert_close(rank[case]["weights"], wanted, rtol=1e-9, atol=1e-9)
    untrained = TRAINABLE[CASES[case][0]].make().double().state_dict()
    assert all(not torch.equal(untrained[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_the_history_counts_the_rows_of_all_ranks(fits: Any, world_size: int) -> None:
    """Each row once, and all ranks have the same history."""
    first, *others = (rank["classifier"]["history"] for rank in fits[world_size])
    assert [epoch["rows"] for epoch in first["epochs"]] == [len(TRAINABLE["classifier"].examples)] * 2
    assert all(other == first for other in others)
