"""Gradients that shall be differentiated themselves, for engines whose backward pass cannot be."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from pipeline.data.batches import Carry
from pipeline.data.order import Order
from pipeline_recurrent.engines.run import Answer, Weights

Again: TypeAlias = Callable[[Tensor, Order, Sequence[Weights], Carry | None], Answer]
"""A layer of operations that have second derivatives: input, order, weights, initial states."""


def gradients_again(
    layer: Callable[[], Answer],
    tensors: Sequence[Tensor | None],
    gradients: Sequence[Tensor],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients of a layer as a graph of their own: it is computed once more, of what has second derivatives.

    Args:
        layer: computes it, of operations that autograd can differentiate twice.
        tensors: all that it is computed from.
        gradients: those of its output and of each state that it ended with.
        wanted: by which of the tensors gradients are asked for.
    """
    output, ended = layer()
    asked = [tensor for tensor, want in zip(tensors, wanted, strict=True) if want and tensor is not None]
    given = iter(torch.autograd.grad((output, *ended), asked, gradients, create_graph=True, allow_unused=True))
    return [next(given) if want else None for want in wanted]
