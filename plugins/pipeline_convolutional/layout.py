"""The layouts in which rows are convolved: a rectangle, or all rows one after the other with zeros between them."""

from typing import final

import attrs
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from pipeline.extend import Batch, Hidden, Packed, PackingOrder, Vectors


@final
@attrs.define(eq=False, slots=False)  # not frozen: a compiled graph cannot make such an object
class Rows:
    """Rows as a tensor that a convolution along its second axis reads: no step of a row is near one of another row.

    Attributes:
        values: the vectors; zeros where there is no step.
        source: the batch of the rows.
        steps: the index of each packed step in the flattened values; None for a rectangle.
        starts: the index of the first step of each row in the flattened values.
        gaps: the indices that hold no step; None if there are none, or if a mask must do, in a graph.
    """

    values: Float[Tensor, "line time feature"]
    source: Batch[Vectors]
    steps: Int64[Tensor, " steps"] | None
    starts: Int64[Tensor, " batch"]
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


@final
class LastSteps:
    """The last steps of each row, for the carry.

    Args:
        rows: the rows.
        most: the largest number of steps that is taken.
    """

    def __init__(self, rows: Rows, most: int) -> None:
        order = rows.source.order
        lengths = order.lengths_on_device
        # The time of each of these steps; below 0 it lies before the row.
        times = lengths - most + torch.arange(most, device=lengths.device).unsqueeze(1)
        self._times: Int64[Tensor, "count batch"] = times
        self._is_earlier: Bool[Tensor, "count batch 1"] = (times < 0).unsqueeze(2)
        self._index: Int64[Tensor, "count batch"] = (rows.starts + times).clamp(min=0)
        # A graph has no longest row.
        self._longest = most if torch.compiler.is_compiling() else order.longest

    def take(
        self,
        values: Float[Tensor, "line time feature"],
        count: int,
        before: Float[Tensor, "count batch feature"] | None,
    ) -> Float[Tensor, "count batch feature"]:
        """Return the last steps of each row, in their order.

        Args:
            values: vectors in the layout of the rows.
            count: the number of steps to return.
            before: the last steps before the rows, which fill up rows with fewer steps; zeros by default.
        """
        # Of short rows, only steps that some row has are copied.
        taken = count if before is not None else min(count, self._longest)
        index = self._index[len(self._index) - taken :]
        is_earlier = self._is_earlier[len(self._index) - taken :]
        found = values.flatten(0, 1).index_select(0, index.flatten()).view(*index.shape, values.shape[2])
        if before is None:
            found = found.masked_fill_(is_earlier, 0)
            return found if taken == count else functional.pad(found, (0, 0, 0, 0, count - taken, 0))
        # A time of -1 is the last one before the row.
        places = (self._times[len(self._index) - taken :] + count).clamp(max=count - 1).unsqueeze(2)
        return torch.where(is_earlier, before.gather(0, places.expand_as(before)), found)


def lay_out(batch: Batch[Vectors], gap: int, *, rectangle: bool = False) -> Rows:
    """Lay out the rows of a batch for convolutions that reach `gap` steps to either side at most.

    The layout with fewer cells is taken. One line of all rows needs a gap per row, and a rectangle needs padding.

    Args:
        batch: the rows.
        gap: the number of steps.
        rectangle: whether a rectangle must be taken.

    Example:
        >>> from pipeline import Padded
        >>> batch = Padded(Vectors, torch.ones(3, 9, 1), torch.tensor([9, 1, 2]))
        >>> lay_out(batch, 1).values.flatten().int().tolist()
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 1, 1, 0]
    """
    order, rows = batch.order, batch.lengths.shape[0]
    if torch.compiler.is_compiling():
        filled = batch.padded().fill_padding(0).values
        return Rows(filled, batch, None, _number_starts(filled), None)
    # Not 0, which no convolution takes.
    cells = max(order.steps + rows * gap, 1)
    if order.steps and (rectangle or rows * batch.width <= cells):
        filled = batch.padded().fill_padding(0).values
        is_full = order.is_full(batch.width)
        gaps = None if is_full else order.padding_indices(batch.width)
        return Rows(filled, batch, None, _number_starts(filled), gaps)
    steps, starts, gaps = _place_steps(order, gap, cells)
    packed = batch.packed().values
    line = packed.new_zeros(cells, packed.shape[1]).index_copy(0, steps, packed)
    return Rows(line.unsqueeze(0), batch, steps, starts, gaps)


def _number_starts(rectangle: Float[Tensor, "batch time feature"]) -> Int64[Tensor, " batch"]:
    return torch.arange(rectangle.shape[0], device=rectangle.device) * rectangle.shape[1]


def _place_steps(order: PackingOrder, gap: int, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cells of packed steps, of the first steps of rows, and of gaps, if each row is followed by a gap."""
    starts = (order.lengths + gap).cumsum(0) - (order.lengths + gap)
    row, time = order.locate_steps()
    on_device = starts.to(order.device, non_blocking=True)
    steps = on_device.index_select(0, row) + time
    ends = starts + order.lengths
    gaps = (ends.unsqueeze(1) + torch.arange(gap, device=ends.device)).flatten()
    if cells > order.steps + len(gaps):
        gaps = torch.arange(cells, device=ends.device)
    return steps, on_device, gaps.to(order.device, non_blocking=True)
