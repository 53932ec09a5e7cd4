"""The layouts in which rows are convolved: a rectangle, or all rows one after the other with zeros between them."""

from typing import final

import attrs
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pipeline.extend import Batch, Hidden, Packed, PackingOrder, Vectors


@final
@attrs.define(eq=False, slots=False)  # not frozen: a compiled graph cannot make such an object
class Rows:
    """Rows as a tensor that a convolution along its second axis reads: no step of a row is near one of another row.

    Attributes:
        values: the vectors; zeros where there is no step.
        source: the batch of the rows.
        steps: the index of each packed step in the flattened values; None for a rectangle.
        gaps: the indices that hold no step; None if there are none, or if a mask must do, in a graph.
    """

    values: Float[Tensor, "line time feature"]
    source: Batch[Vectors]
    steps: Int64[Tensor, " steps"] | None
    gaps: Int64[Tensor, " gaps"] | None

    def clear_gaps(self, values: Float[Tensor, "line time feature"]) -> Float[Tensor, "line time feature"]:
        """Return new values, in this layout, with zeros where there is no step. They may be changed in place."""
        if torch.compiler.is_compiling():
            return values.masked_fill(~self.source.mask.unsqueeze(2), 0)
        if self.gaps is None:
            return values
        return values.flatten(0, 1).index_fill_(0, self.gaps, 0).reshape(values.shape)

    def restore(self, values: Float[Tensor, "line time feature"]) -> Batch[Hidden]:
        """Return values, in this layout, as a batch in the layout of the source."""
        if self.steps is None:
            rows = self.source.padded().with_values(values)
            return rows if not isinstance(self.source, Packed) else rows.packed()
        packed = self.source.packed().with_values(values.flatten(0, 1).index_select(0, self.steps))
        return packed if isinstance(self.source, Packed) else packed.padded()


def lay_out(batch: Batch[Vectors], gap: int) -> Rows:
    """Lay out the rows of a batch for convolutions that reach `gap` steps to either side at most.

    The layout with fewer cells is taken. One line of all rows needs a gap per row, and a rectangle needs padding.

    Example:
        >>> from pipeline import Padded
        >>> batch = Padded(Vectors, torch.ones(3, 9, 1), torch.tensor([9, 1, 2]))
        >>> lay_out(batch, 1).values.flatten().int().tolist()
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 1, 1, 0]
    """
    order, rows = batch.order, batch.lengths.shape[0]
    if torch.compiler.is_compiling():
        return Rows(batch.padded().fill_padding(0).values, batch, None, None)
    # Not 0, which no convolution takes.
    cells = max(order.steps + rows * gap, 1)
    if order.steps and rows * batch.width <= cells:
        filled = batch.padded().fill_padding(0).values
        is_full = order.is_full(batch.width)
        return Rows(filled, batch, None, None if is_full else order.padding_indices(batch.width))
    steps, gaps = _place_steps(order, gap, cells)
    packed = batch.packed().values
    line = packed.new_zeros(cells, packed.shape[1]).index_copy(0, steps, packed)
    return Rows(line.unsqueeze(0), batch, steps, gaps)


def _place_steps(order: PackingOrder, gap: int, cells: int) -> tuple[Tensor, Tensor]:
    """Return the cell of each packed step, and the cells of gaps, if each row is followed by a gap."""
    starts = (order.lengths + gap).cumsum(0) - (order.lengths + gap)
    row, time = order.locate_steps()
    steps = starts.to(order.device, non_blocking=True).index_select(0, row) + time
    ends = starts + order.lengths
    gaps = (ends.unsqueeze(1) + torch.arange(gap, device=ends.device)).flatten()
    if cells > order.steps + len(gaps):
        gaps = torch.arange(cells, device=ends.device)
    return steps, gaps.to(order.device, non_blocking=True)
