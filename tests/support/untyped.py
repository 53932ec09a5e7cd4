"""Functions of torch whose types torch leaves open, with types."""

from collections.abc import Callable
from operator import methodcaller
from typing import Any

import torch
from torch import Tensor

listed: Callable[[Tensor], Any] = methodcaller("tolist")
"""A tensor's numbers as lists."""

seed: Callable[[int], object] = getattr(torch, "manual_seed")  # noqa: B009
"""Fix what torch draws."""


graphed: Callable[..., Callable[..., Tensor]] = getattr(torch, "compile")  # noqa: B009
"""A model or function as a compiled graph."""


def loosely(function: Callable[..., object]) -> Callable[..., object]:
    """A function as a caller without a type checker sees it: it takes anything."""
    return function


_step: Callable[[torch.optim.Optimizer], object] = methodcaller("step")


def learn(loss: Tensor, optimiser: torch.optim.Optimizer) -> float:
    """Take one step down a loss, and give the loss back as a number."""
    optimiser.zero_grad()
    torch.autograd.backward(loss)
    _step(optimiser)
    return float(loss.detach())


def distinct(values: Tensor) -> int:
    """How many different rows a matrix has."""
    return len({tuple(row) for row in listed(values)})
