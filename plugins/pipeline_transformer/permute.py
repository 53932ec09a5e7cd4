"""Reorder steps, with a gradient that reorders them back."""

from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import FunctionCtx


def permute(
    steps: Float[Tensor, "steps feature"], order: Int64[Tensor, " steps"], inverse: Int64[Tensor, " steps"]
) -> Float[Tensor, "steps feature"]:
    """Return `steps[order]`.

    Args:
        steps: the vectors.
        order: the index of each result among the steps; a permutation.
        inverse: the inverse permutation.

    Example:
        >>> order = torch.tensor([2, 0, 1])
        >>> permute(torch.tensor([[1.0], [2.0], [3.0]]), order, order.argsort()).flatten().tolist()
        [3.0, 1.0, 2.0]
    """
    return _permute(steps, order, inverse)


class _Permute(torch.autograd.Function):
    """The gradient selects as well. That of `index_select` adds up step by step, which takes several times as long."""

    @staticmethod
    def forward(ctx: FunctionCtx, steps: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        """Return the steps in the order."""
        save: Callable[..., None] = ctx.save_for_backward
        save(order, inverse)
        return steps.index_select(0, order)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients in the inverse order."""
        saved: tuple[Tensor, Tensor] = getattr(ctx, "saved_tensors")  # noqa: B009 - torch does not declare it
        order, inverse = saved
        return permute(gradients[0], inverse, order), None, None


_permute: Final[Callable[[Tensor, Tensor, Tensor], Tensor]] = getattr(_Permute, "apply")  # noqa: B009
"""`_Permute.apply` with a type. It is differentiable any number of times."""
