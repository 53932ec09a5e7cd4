"""Learning rates at every optimizer step."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.errors import OptionError
from pipeline.training.schedules import make_schedule
from support.untyped import as_any


def follow(schedule: Any, *, warmup: float, total: int | None, count: int = 8) -> list[float]:
    """Return the learning rates of the first optimizer steps."""
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=2.0)
    scheduler = make_schedule(optimizer, schedule, warmup=warmup, total=total)
    rates: list[float] = []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        as_any(optimizer).step()
        if scheduler is not None:
            scheduler.step()
    return rates


def test_a_constant_rate_after_warm_up() -> None:
    """A number of optimizer steps, or their share."""
    assert follow("constant", warmup=0, total=None) == [2.0] * 8
    wanted = pytest.approx([0.5, 1.0, 1.5, 2, 2, 2, 2, 2])
    assert follow("constant", warmup=4, total=None) == wanted
    assert follow("constant", warmup=0.5, total=8) == wanted


def test_linear_and_cosine_fall_to_zero_at_the_end() -> None:
    """And stay there."""
    assert follow("linear", warmup=0, total=4)[:6] == pytest.approx([2.0, 1.5, 1.0, 0.5, 0.0, 0.0])
    cosine = [1 + math.cos(math.pi * done / 6) for done in range(6)]
    assert follow("cosine", warmup=2, total=8) == pytest.approx([1.0, 2.0, *cosine])


def test_any_scheduler_of_torch() -> None:
    """It gets the number of all optimizer steps."""

    def make(optimizer: Any, total: int) -> Any:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=total)

    rates = follow(make, warmup=0, total=12)
    assert max(rates) == pytest.approx(1.0, rel=0.1)


def make_number(optimizer: Any, total: int) -> Any:
    """Return something else than a scheduler."""
    del optimizer
    return total


@pytest.mark.parametrize(
    ("schedule", "warmup", "total", "message"),
    [
        ("linear", 0, None, "needs the number of batches, which is not known"),
        ("constant", 0.1, None, "needs the number of batches"),
        ("cosine", 9, 8, "warmup must be at most the 8 optimizer steps of all epochs, got 9"),
        (make_number, 0, 8, "schedule must return a scheduler of torch's, got an int"),
    ],
)
def test_wrong_schedules_are_rejected(schedule: Any, warmup: float, total: int | None, message: str) -> None:
    """With the fix."""
    with pytest.raises(OptionError, match=message):
        follow(schedule, warmup=warmup, total=total)
