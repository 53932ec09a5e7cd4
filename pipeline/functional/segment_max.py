"""The largest of each row's steps, with a backward pass that looks at each step once."""

from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import FunctionCtx


def largest(
    values: Float[Tensor, "steps feature"], row: Int64[Tensor, " steps"], rows: int
) -> Float[Tensor, "batch feature"]:
    """The largest of each feature over the steps of a row; where several are equal, they share the gradient.

    Zeros for a row of none. A NaN is the largest, and its gradient is NaN.

    Args:
        values: what is compared.
        row: the row of each step.
        rows: how many there are.

    Example:
        >>> largest(torch.tensor([[1.0], [5.0], [2.0]]), torch.tensor([0, 2, 0]), 3).tolist()
        [[2.0], [0.0], [5.0]]
    """
    # In a graph torch's own derivative, which takes three times as long.
    make = _forward if torch.compiler.is_compiling() else _differentiable
    return make(values, row, rows)


def _forward(values: Tensor, row: Tensor, rows: int) -> Tensor:
    found = values.new_zeros(rows, values.shape[1])
    return found.scatter_reduce(0, row.unsqueeze(1).expand_as(values), values, reduce="amax", include_self=False)


class _Largest(torch.autograd.Function):
    """The largest, whose gradient is shared out by comparing once more."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, row: Tensor, rows: int) -> Tensor:
        """The largest of each row."""
        found = _forward(values, row, rows)
        save: Callable[..., None] = ctx.save_for_backward
        save(values, row, found)
        return found

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Each row's gradient, in equal parts to the steps that are as large as its largest."""
        saved: tuple[Tensor, Tensor, Tensor] = getattr(ctx, "saved_tensors")  # noqa: B009
        values, row, found = saved
        share = (values.detach() == found.detach().index_select(0, row)).to(values.dtype)
        count = torch.zeros_like(found).index_add_(0, row, share)
        return (gradients[0] / count).index_select(0, row).mul(share), None, None


_differentiable: Final[Callable[[Tensor, Tensor, int], Tensor]] = getattr(_Largest, "apply")  # noqa: B009
"""The largest of each row, with gradients, and with theirs."""
