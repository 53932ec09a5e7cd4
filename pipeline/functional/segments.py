"""Operations on the real steps of each row, in either layout: sum, maximum, softmax, and rows sorted by length."""

import math
from collections.abc import Callable
from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import FunctionCtx

from pipeline.data.batches import Batch, Packed, Padded, derive_padded
from pipeline.data.kinds import Hidden
from pipeline.data.states import MaybeCausal, States, empty_rows_mask, zeros_by_row
from pipeline.functional.transforms import name_transform


def compact(steps: Batch[Hidden]) -> Batch[Hidden]:
    """Return the same steps without padding: packed, unless there is no padding or a graph is traced.

    Copying the real steps takes less time than processing the padding in the forward and the backward pass. Graphs
    keep the rectangle, because their shapes may not depend on the lengths.
    """
    if isinstance(steps, Packed) or torch.compiler.is_compiling() or steps.order.is_full(steps.width):
        return steps
    return steps.packed()


def sum_by_row(steps: Batch[Hidden]) -> Float[Tensor, "batch feature"]:
    """Return the sum of each row's steps.

    Example:
        >>> from pipeline import Padded
        >>> sum_by_row(Padded(Hidden, torch.ones(2, 3, 1), torch.tensor([2, 0]))).tolist()
        [[2.0], [0.0]]
    """
    return sum_wide_by_row(steps).to(steps.values.dtype)


def mean_by_row(steps: Batch[Hidden]) -> Float[Tensor, "batch feature"]:
    """Return the mean of each row's steps.

    In half precision it is right even if the sum overflows.

    Example:
        >>> from pipeline import Padded
        >>> mean_by_row(Padded(Hidden, torch.tensor([[[1.0], [3.0]], [[9.0], [9.0]]]), torch.tensor([2, 0]))).tolist()
        [[2.0], [0.0]]
    """
    mean = sum_wide_by_row(steps) / steps.order.lengths_on_device.clamp(min=1).unsqueeze(-1)
    return mean.to(steps.values.dtype)


def widen(values: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Return values in the dtype in which sums accumulate: float32 for half precision, else unchanged.

    A sum in bfloat16 stops growing at 256 times its terms.
    """
    return values.float() if values.dtype.itemsize < 4 else values


def sum_wide_by_row(steps: Batch[Hidden]) -> Float[Tensor, "batch feature"]:
    """Return the sum of each row's steps in the dtype of `widen`, in which it does not overflow."""
    steps = compact(steps)
    if isinstance(steps, Packed):
        return widen(zeros_by_row(steps)).index_add(0, steps.order.locate_steps(steps.values)[0], widen(steps.values))
    return widen(steps.fill_padding(0).values).sum(1)


def max_by_row(steps: Batch[Hidden]) -> Float[Tensor, "batch feature"]:
    """Return the maximum of each feature over a row's steps. Equal maxima share the gradient."""
    steps = compact(steps)
    if isinstance(steps, Packed):
        # Packed rows of one length, such as a lone row, are a rectangle of time x batch: no index is needed.
        if not torch.compiler.is_compiling() and steps.order.longest and steps.order.is_full(steps.order.longest):
            return steps.values.reshape(steps.order.longest, -1, steps.values.shape[1]).amax(0)
        return segment_max(steps.values, steps.order.locate_steps(steps.values)[0], steps.lengths.shape[0])
    if steps.width == 0:
        return zeros_by_row(steps)
    # Empty rows have a maximum of -inf, which is replaced by 0 afterwards.
    return steps.fill_padding(-math.inf).values.amax(1).masked_fill(empty_rows_mask(steps), 0)


def softmax_by_row(steps: Packed[Hidden], scores: Float[Tensor, "steps *heads"]) -> Float[Tensor, "steps *heads"]:
    """Return the softmax of each step's score over the steps of its row; in float32 for scores in half precision.

    A step may have several scores, each with a softmax of its own.

    Example:
        >>> steps = Packed(Hidden, torch.ones(3, 1), torch.tensor([1, 2]))
        >>> softmax_by_row(steps, torch.zeros(3)).tolist()
        [0.5, 1.0, 0.5]
    """
    scores = widen(scores)
    row, zeros = steps.order.locate_steps(scores)[0], scores.new_zeros(steps.lengths.shape[0], *scores.shape[1:])
    # The maximum is subtracted so that `exp` cannot overflow. The result does not depend on it, hence no gradient.
    rows = row.reshape(-1, *[1] * (scores.ndim - 1)).expand_as(scores)
    maximum = zeros.scatter_reduce(0, rows, scores.detach(), reduce="amax", include_self=False)
    powers = (scores - maximum.index_select(0, row)).exp()
    return powers / zeros.index_add(0, row, powers).index_select(0, row)


def sort_by_length(states: States[MaybeCausal]) -> Float[Tensor, "nonempty time hidden"]:
    """Return the nonempty rows as a rectangle, the longest row first, with zeros in the padding.

    If all rows have one length, the result is a view.

    Example:
        >>> states = States.from_padded(torch.tensor([[[1.0], [9.0]], [[2.0], [3.0]]]), torch.tensor([1, 2]))
        >>> sort_by_length(states).squeeze(2).tolist()
        [[2.0, 3.0], [1.0, 0.0]]
    """
    steps, order = states.steps, states.steps.order
    if isinstance(steps, Padded) and order.is_full(steps.values.shape[1]):
        return steps.values
    values, cells = steps.packed().values, order.longest * order.nonempty_count
    if order.steps < cells:
        values = values.new_zeros(cells, values.shape[1]).index_copy_(0, order.sorted_flat_indices, values)
    return values.reshape(order.longest, order.nonempty_count, values.shape[1]).transpose(0, 1)


def restore_order(values: Float[Tensor, "nonempty time hidden"], states: States[MaybeCausal]) -> Batch[Hidden]:
    """Return the vectors of a rectangle in the order of `sort_by_length` as steps in the layout of the states."""
    steps, order = states.steps, states.steps.order
    if isinstance(steps, Padded) and order.is_full(steps.values.shape[1]):
        return derive_padded(Hidden, values, steps, None)
    flat = values.transpose(0, 1).flatten(0, 1)
    if order.steps < len(flat):
        flat = flat.index_select(0, order.sorted_flat_indices)
    packed = steps.packed().with_values(flat)
    return packed.padded() if isinstance(steps, Padded) else packed


def segment_max(
    values: Float[Tensor, "steps feature"], row: Int64[Tensor, " steps"], rows: int
) -> Float[Tensor, "batch feature"]:
    """Return the maximum of each feature over the steps of each row; equal maxima share the gradient.

    An empty row gives zeros. NaN counts as the maximum, and its gradient is NaN.

    Args:
        values: the values of all steps.
        row: the row index of each step.
        rows: the number of rows.

    Example:
        >>> segment_max(torch.tensor([[1.0], [5.0], [2.0]]), torch.tensor([0, 2, 0]), 3).tolist()
        [[2.0], [0.0], [5.0]]
    """
    # Graphs and transforms use torch's own derivative: a custom function would break them. It is three times slower.
    reduce = _reduce_max if torch.compiler.is_compiling() or name_transform() else _segment_max
    return reduce(values, row, rows)


def _reduce_max(values: Tensor, row: Tensor, rows: int) -> Tensor:
    zeros = values.new_zeros(rows, values.shape[1])
    return zeros.scatter_reduce(0, row.unsqueeze(1).expand_as(values), values, reduce="amax", include_self=False)


class _SegmentMax(torch.autograd.Function):
    """Maximum by row. The backward pass compares the values with the maxima, instead of saving indices."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor, row: Tensor, rows: int) -> Tensor:
        """Return the maximum of each row."""
        maximum = _reduce_max(values, row, rows)
        save: Callable[..., None] = ctx.save_for_backward
        save(values, row, maximum)
        return maximum

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of each step: that of its row's maximum, divided by the number of equal maxima."""
        saved: tuple[Tensor, Tensor, Tensor] = getattr(ctx, "saved_tensors")  # noqa: B009
        values, row, maximum = saved
        # Counted in float32 at least: bfloat16 cannot count beyond 256.
        is_maximum = torch.empty_like(values, dtype=widen(maximum).dtype)
        # Written as numbers: a comparison of its own, and then a conversion, take six times as long.
        torch.eq(values.detach(), maximum.detach().index_select(0, row), out=is_maximum)
        count = torch.zeros_like(maximum, dtype=is_maximum.dtype).index_add_(0, row, is_maximum)
        # Empty rows have no step that reads their gradient, but 0 / 0 would give NaN in the second derivative. Rows
        # with a NaN, which equals nothing, keep the count 0: their gradient shall be NaN.
        count.masked_fill_((count == 0) & ~maximum.detach().isnan(), 1)
        return (gradients[0] / count).index_select(0, row).mul_(is_maximum).to(values.dtype), None, None


_segment_max: Final[Callable[[Tensor, Tensor, int], Tensor]] = getattr(_SegmentMax, "apply")  # noqa: B009
"""`_SegmentMax.apply` with a type. It is differentiable twice."""
