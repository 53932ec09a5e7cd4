"""Each row's steps to one vector, in either layout, from real steps alone; zeros for a row of none."""

import math

from jaxtyping import Float, Int64
from torch import Tensor

from pipeline.sequences.batches import Batch, Packed
from pipeline.sequences.rows import Hidden


def first_by_row(steps: Batch[Hidden]) -> Float[Tensor, "batch feature"]:
    """Each row's first step."""
    if isinstance(steps, Packed):
        return _at(steps, steps.order.first)
    if steps.width == 0:
        return _zeros(steps)
    return steps.values[:, 0].masked_fill(_empty(steps), 0)


def last_by_row(steps: Batch[Hidden]) -> Float[Tensor, "batch feature"]:
    """Each row's last real step."""
    if isinstance(steps, Packed):
        return _at(steps, steps.order.last)
    if steps.width == 0:
        return _zeros(steps)
    if steps.order.fills(steps.width):
        return steps.values[:, -1]
    last = (steps.order.lengths_on_device - 1).clamp(min=0).reshape(-1, 1, 1).expand(-1, 1, steps.values.shape[2])
    return steps.values.gather(1, last).squeeze(1).masked_fill(_empty(steps), 0)


def sum_by_row(steps: Batch[Hidden]) -> Float[Tensor, "batch feature"]:
    """The sum of each row's steps.

    Example:
        >>> import torch
        >>> from pipeline import Padded
        >>> sum_by_row(Padded(Hidden, torch.ones(2, 3, 1), torch.tensor([2, 0]))).tolist()
        [[2.0], [0.0]]
    """
    if isinstance(steps, Packed):
        return _zeros(steps).index_add(0, steps.order.row, steps.values)
    return steps.cleared().values.sum(1)


def max_by_row(steps: Batch[Hidden]) -> Float[Tensor, "batch feature"]:
    """The largest of each feature over a row's steps; where several are equal, they share the gradient."""
    if isinstance(steps, Packed):
        rows = steps.order.row.unsqueeze(-1).expand_as(steps.values)
        return _zeros(steps).scatter_reduce(0, rows, steps.values, reduce="amax", include_self=False)
    if steps.width == 0:
        return _zeros(steps)
    return steps.cleared(-math.inf).values.amax(1).masked_fill(_empty(steps), 0)


def _at(steps: Packed[Hidden], chosen: Int64[Tensor, " occupied"]) -> Float[Tensor, "batch feature"]:
    """One packed step of each row that has any."""
    found, order = steps.values.index_select(0, chosen), steps.order
    if order.occupied == len(order.lengths):
        return found
    rows = (order.lengths > 0).nonzero().squeeze(1).to(found.device)
    return _zeros(steps).index_copy(0, rows, found)


def _empty(steps: Batch[Hidden]) -> Tensor:
    return (steps.order.lengths_on_device == 0).unsqueeze(-1)


def _zeros(steps: Batch[Hidden]) -> Float[Tensor, "batch feature"]:
    return steps.values.new_zeros(steps.lengths.shape[0], steps.values.shape[-1])
