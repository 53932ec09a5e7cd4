"""Functions that torch leaves untyped, with types."""

from collections.abc import Callable
from operator import methodcaller
from typing import Any

import torch
from torch import Tensor

to_list: Callable[[Tensor], Any] = methodcaller("tolist")
"""Return a tensor as nested lists."""

seed: Callable[[int], object] = getattr(torch, "manual_seed")  # noqa: B009
"""Seed torch's random numbers."""


compile_graph: Callable[..., Callable[..., Tensor]] = getattr(torch, "compile")  # noqa: B009
"""Compile a model or function with torch.compile."""


def untyped(function: Callable[..., object]) -> Callable[..., object]:
    """Return a function without the types of its parameters, to call it as code without a type checker would."""
    return function


def as_any(value: object) -> Any:
    """Return a value without its type, for what torch leaves untyped, and for wrong uses on purpose."""
    return value


_step: Callable[[torch.optim.Optimizer], object] = methodcaller("step")


def train_step(loss: Tensor, optimizer: torch.optim.Optimizer) -> float:
    """Take one optimizer step, and return the loss as a number."""
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    _step(optimizer)
    return float(loss.detach())


def count_distinct_rows(values: Tensor) -> int:
    """Return the number of distinct rows of a matrix."""
    return len({tuple(row) for row in to_list(values)})
