"""Two results held against each other, and their gradients."""

from collections.abc import Callable, Sequence
from operator import methodcaller
from typing import Final

import torch
from torch import Tensor

from pipeline.data.order import ints
from pipeline.laws.law import FaultError

ROUNDING: Final = 1e-10
"""By how much two float64 results that should be equal may differ, relative to the larger numbers among them."""


def same(
    ours: Sequence[Tensor], wanted: Sequence[Tensor], of: str, *, remedy: str = "", rounding: float = ROUNDING
) -> None:
    """Make sure that two lists of results, one a row, are equal.

    Args:
        ours: what is tried.
        wanted: what it should be.
        of: what was done, for the message.
        remedy: what is usually the cause, and what to do.
        rounding: by how much they may differ; 0 for not in one bit.

    Raises:
        FaultError: if they are not. Nothing equals NaN.
    """
    if len(ours) != len(wanted):
        msg = f"{of}: {len(ours)} results came, where {len(wanted)} were wanted.{_after(remedy)}"
        raise FaultError(msg)
    for index, (one, other) in enumerate(zip(ours, wanted, strict=True)):
        if one.shape != other.shape:
            msg = f"{of}: result {index} is {tuple(one.shape)}, wanted {tuple(other.shape)}.{_after(remedy)}"
            raise FaultError(msg, row=index)
        if not other.numel():
            continue
        gap = (one - other).detach().abs()
        allowed = rounding * max(1.0, float(other.detach().abs().max()))
        right = gap <= allowed
        if not bool(right.all()):
            at = tuple(ints((~right).nonzero()[0]))
            limit = f"{allowed:.2g} is allowed" if rounding else "no bit may change"
            came, due = (float(tensor.detach()[at]) for tensor in (one, other))
            msg = (
                f"{of}: result {index} has {came:.6g} at {at} where {due:.6g} was wanted, and "
                f"{int((~right).sum())} of its {right.numel()} numbers differ, where {limit}.{_after(remedy)}"
            )
            raise FaultError(msg, row=index, gap=float(gap.max()))


numbers: Callable[[Tensor], list[float]] = methodcaller("tolist")
"""A tensor's numbers, for a message; torch leaves the type of `tolist` open."""


def _after(remedy: str) -> str:
    return f" {remedy}" if remedy else ""


def weighed(results: Sequence[Tensor]) -> Tensor:
    """A sum that weighs every number differently, so that no two of them, or of their gradients, swap unseen."""
    flat = torch.cat([result.flatten() for result in results])
    return (flat * torch.linspace(-1, 1, len(flat), dtype=flat.dtype)).sum()


def gradients(results: Sequence[Tensor], inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Gradients of all results together; zeros for what they do not depend on."""
    total = weighed(results)
    if not total.requires_grad:
        return [torch.zeros_like(tensor) for tensor in inputs]
    return torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
