"""Whole models in DDP and FSDP train as one process does on the rows of all ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from support.ranked import run_on_ranks
from support.wrapped import LENGTHS, WRAPPERS, make_model, train_alone, train_on_rank

CASES = [
    *((kind, lengths, wrapper) for wrapper in WRAPPERS for kind in ("rows", "steps") for lengths in LENGTHS),
    *(("partly used", "even", wrapper) for wrapper in WRAPPERS if wrapper != "ddp"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str, str], Any]]:
    """Return the weights of all cases on each rank. They run together, since it takes seconds to start a process."""
    ranks = run_on_ranks(train_on_rank, 2, Path(tmp_path_factory.mktemp("ranks")), CASES)
    return [dict(zip(CASES, results, strict=True)) for results in ranks]


@pytest.mark.parametrize("case", CASES, ids=", ".join)
def test_wrapped_models_train_as_one_process(
    found: list[dict[tuple[str, str, str], Any]], case: tuple[str, str, str]
) -> None:
    """The weights after two optimizer steps are equal, also if a rank has only empty rows, and on both ranks."""
    kind, lengths, wrapper = case
    wanted = train_alone(kind, LENGTHS[lengths])
    tolerance = 2e-2 if "bfloat16" in wrapper else 1e-5
    for rank in found:
        assert_close(rank[case], wanted, rtol=tolerance, atol=tolerance)
    before = make_model(kind).state_dict()
    changed = {name for name, weight in wanted.items() if not torch.equal(weight, before[name])}
    assert changed == {name for name in wanted if "unused" not in name}
