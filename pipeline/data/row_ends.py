"""The first and the last real step of each row, in either layout; zeros for an empty row."""

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pipeline.data.batches import Batch, Packed
from pipeline.data.rows import Hidden


def first_by_row(steps: Batch[Hidden]) -> Float[Tensor, "batch feature"]:
    """Each row's first step."""
    if isinstance(steps, Packed):
        return _at(steps, steps.order.first)
    if steps.width == 0:
        return row_zeros(steps)
    return steps.values[:, 0].masked_fill(is_empty(steps), 0)


def last_by_row(steps: Batch[Hidden]) -> Float[Tensor, "batch feature"]:
    """Each row's last real step."""
    if isinstance(steps, Packed):
        return _at(steps, steps.order.last)
    if steps.width == 0:
        return row_zeros(steps)
    if steps.order.fills(steps.width):
        return steps.values[:, -1]
    last = (steps.order.lengths_on_device - 1).clamp(min=0).reshape(-1, 1, 1).expand(-1, 1, steps.values.shape[2])
    return steps.values.gather(1, last).squeeze(1).masked_fill(is_empty(steps), 0)


def _at(steps: Packed[Hidden], chosen: Int64[Tensor, " occupied"]) -> Float[Tensor, "batch feature"]:
    """One packed step of each row that has any."""
    found, order = steps.values.index_select(0, chosen), steps.order
    if order.occupied == len(order.lengths):
        return found
    return row_zeros(steps).index_copy(0, order.some, found)


def is_empty(steps: Batch[Hidden]) -> Bool[Tensor, "batch 1"]:
    """True at the empty rows."""
    return (steps.order.lengths_on_device == 0).unsqueeze(-1)


def row_zeros(steps: Batch[Hidden]) -> Float[Tensor, "batch feature"]:
    """Return a zero vector for each row."""
    return steps.values.new_zeros(steps.lengths.shape[0], steps.values.shape[-1])
