"""Each row's steps to one vector, in either layout, from real steps alone; zeros for a row of none."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.data.batches import Batch, Packed
from pipeline.data.row_ends import is_empty, row_zeros
from pipeline.data.rows import Hidden
from pipeline.functional.segment_max import largest


def compact(steps: Batch[Hidden]) -> Batch[Hidden]:
    """The same steps without padding: packed, unless there is none, or a graph is made, which is of rectangles.

    To copy real steps alone takes less time than to go through the padding, forward and backward.
    """
    if isinstance(steps, Packed) or torch.compiler.is_compiling() or steps.order.fills(steps.width):
        return steps
    return steps.packed()


def sum_by_row(steps: Batch[Hidden]) -> Float[Tensor, "batch feature"]:
    """The sum of each row's steps.

    Example:
        >>> from pipeline import Padded
        >>> sum_by_row(Padded(Hidden, torch.ones(2, 3, 1), torch.tensor([2, 0]))).tolist()
        [[2.0], [0.0]]
    """
    steps = compact(steps)
    if isinstance(steps, Packed):
        return row_zeros(steps).index_add(0, steps.order.row, steps.values)
    return steps.fill_padding(0).values.sum(1)


def max_by_row(steps: Batch[Hidden]) -> Float[Tensor, "batch feature"]:
    """The largest of each feature over a row's steps; where several are equal, they share the gradient."""
    steps = compact(steps)
    if isinstance(steps, Packed):
        return largest(steps.values, steps.order.row, len(steps.lengths))
    if steps.width == 0:
        return row_zeros(steps)
    return steps.fill_padding(-math.inf).values.amax(1).masked_fill(is_empty(steps), 0)


def softmax_by_row(steps: Packed[Hidden], scores: Float[Tensor, " steps"]) -> Float[Tensor, " steps"]:
    """The share of each step in its row: the softmax of its score over those of the row's steps.

    Example:
        >>> steps = Packed(Hidden, torch.ones(3, 1), torch.tensor([1, 2]))
        >>> softmax_by_row(steps, torch.zeros(3)).tolist()
        [0.5, 1.0, 0.5]
    """
    row, none = steps.order.row, scores.new_zeros(steps.lengths.shape[0])
    # What is taken away from all scores of a row changes no share, and so has no gradient.
    top = none.scatter_reduce(0, row, scores.detach(), reduce="amax", include_self=False)
    powers = (scores - top.index_select(0, row)).exp()
    return powers / none.index_add(0, row, powers).index_select(0, row)
