"""Steps row by row: the layout in which a transformer computes, and its groups of rows of one length."""

from collections.abc import Callable
from itertools import groupby
from operator import methodcaller
from typing import Self, final

import attrs
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pipeline.extend import PackingOrder
from pipeline_transformer.permute import permute
from pipeline_transformer.shapes import unfold_axis


@final
@attrs.frozen
class Group:
    """Rows of one length, which lie one after another.

    Attributes:
        start: the index of their first step.
        rows: the number of rows.
        length: the number of steps of each row.
    """

    start: int
    rows: int
    length: int

    @property
    def stop(self) -> int:
        """The index after their last step."""
        return self.start + self.rows * self.length


@final
@attrs.frozen(eq=False)
class RowLayout:
    """All steps of the longest row, then those of the next one, and so on; without padding.

    Packed steps are time-major, so the steps of a row lie apart. Attention needs them side by side: then the queries,
    keys and values of rows of one length are views of a projection, which torch's kernels read without a copy.

    Attributes:
        groups: the rows by length, the longest first. Empty rows are in no group.
        rows: the indices of the rows with steps, in reading order, in the order of the groups.
        from_packed: the packed index of each step.
        to_packed: the index in this layout of each packed step.
        times: the time of each step within its row.

    Example:
        >>> layout = RowLayout.of(PackingOrder(torch.tensor([1, 0, 2, 2])))
        >>> layout.groups
        [Group(start=0, rows=2, length=2), Group(start=4, rows=1, length=1)]
        >>> layout.from_packed.tolist(), layout.times.tolist()
        ([0, 3, 1, 4, 2], [0, 1, 0, 1, 0])
    """

    groups: list[Group]
    rows: Int64[Tensor, " nonempty"]
    from_packed: Int64[Tensor, " steps"]
    to_packed: Int64[Tensor, " steps"]
    times: Int64[Tensor, " steps"]

    @classmethod
    def of(cls, order: PackingOrder) -> Self:
        """Return the layout of a batch."""
        rows = order.sorted_indices[: order.nonempty_count]
        lengths = order.lengths[rows]
        groups: list[Group] = []
        start = 0
        for length, equal in groupby(_to_ints(lengths)):
            count = len(list(equal))
            groups.append(Group(start, count, length))
            start += count * length
        # The step of the row with rank k at time t has the packed index `starts[t] + k`.
        rank = torch.repeat_interleave(lengths)
        time = torch.arange(start, device=lengths.device) - (lengths.cumsum(0) - lengths)[rank]
        starts = order.batch_sizes.cumsum(0) - order.batch_sizes
        from_packed = starts[time] + rank
        to_packed = torch.empty_like(from_packed)
        to_packed[from_packed] = torch.arange(start, device=lengths.device)
        indices = [each.to(order.device, non_blocking=True) for each in (rows, from_packed, to_packed, time)]
        return cls(groups, *indices)

    @property
    def longest(self) -> int:
        """The length of the longest row."""
        return self.groups[0].length if self.groups else 0

    @property
    def steps(self) -> int:
        """The number of steps."""
        return self.groups[-1].stop if self.groups else 0

    def make_offsets(self) -> Int64[Tensor, " row_and_end"]:
        """Return the index of each row's first step, and the number of all steps; on the CPU."""
        starts = [torch.arange(group.start, group.stop, group.length, device="cpu") for group in self.groups]
        return torch.cat([*starts, torch.tensor([self.steps], device="cpu")])

    def arrange(self, packed: Float[Tensor, "steps feature"]) -> Float[Tensor, "steps feature"]:
        """Return packed steps in this layout."""
        return permute(packed, self.from_packed, self.to_packed)

    def restore(self, steps: Float[Tensor, "steps feature"]) -> Float[Tensor, "steps feature"]:
        """Return steps of this layout in packed order."""
        return permute(steps, self.to_packed, self.from_packed)

    def average(self, steps: Float[Tensor, "steps feature"], batch: int) -> Float[Tensor, "batch feature"]:
        """Return the mean of each row's steps, rows in reading order; zeros for an empty row."""
        # In half precision the mean of torch accumulates in float32.
        means = [
            unfold_axis(steps[group.start : group.stop], 0, (group.rows, group.length)).mean(1) for group in self.groups
        ]
        return self._place(means, steps, batch)

    def select_last(self, steps: Float[Tensor, "steps feature"], batch: int) -> Float[Tensor, "batch feature"]:
        """Return each row's last step, rows in reading order; zeros for an empty row."""
        ends = [
            unfold_axis(steps[group.start : group.stop], 0, (group.rows, group.length))[:, -1] for group in self.groups
        ]
        return self._place(ends, steps, batch)

    def _place(
        self, vectors: list[Tensor], steps: Float[Tensor, "steps feature"], batch: int
    ) -> Float[Tensor, "batch feature"]:
        zeros = steps.new_zeros(batch, steps.shape[1])
        return zeros.index_copy(0, self.rows, torch.cat(vectors)) if vectors else zeros


_to_ints: Callable[[Int64[Tensor, " number"]], list[int]] = methodcaller("tolist")
"""Convert integers to a list; `Tensor.tolist` itself is untyped."""
