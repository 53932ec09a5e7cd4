"""Where each real step of a batch stands when its rows are packed."""

from collections.abc import Callable
from functools import cached_property
from operator import methodcaller
from typing import Protocol, Self, final

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

ints: Callable[[Tensor], list[int]] = methodcaller("tolist")
"""A tensor of whole numbers as a list; torch leaves the type of `tolist` open."""


def _kept(work_out: Callable[["Order"], Tensor]) -> "cached_property[Tensor]":
    """A property that is worked out once, and may be saved for gradients wherever that was: in inference mode too."""
    outside: Callable[[Order], Tensor] = torch.inference_mode(mode=False)(work_out)
    return cached_property(outside)


class _Collated(Protocol):
    """What an order is worked out from."""

    @property
    def lengths(self) -> Tensor: ...
    @property
    def values(self) -> Tensor: ...


@final
class Order:
    """The packed order of a batch: time-major, longest row first, ties in reading order.

    It is torch's `PackedSequence` order, with empty rows allowed: they sort last and have
    no step. Everything is worked out from the lengths alone, once a batch and when first
    asked for, so that no stage has to read a tensor back from an accelerator.

    Example:
        >>> order = Order(torch.tensor([2, 0, 3]))
        >>> order.batch_sizes.tolist(), order.row.tolist(), order.time.tolist()
        ([2, 2, 1], [2, 0, 2, 0, 2], [0, 0, 1, 1, 2])
    """

    def __init__(self, lengths: Int64[Tensor, " batch"], device: torch.device | str = "cpu") -> None:
        self.lengths = lengths
        self.device: torch.device = torch.device(device)
        self._on_device: Int64[Tensor, " batch"] | None = None
        self._padding: dict[int, Int64[Tensor, " padding"]] = {}

    def to(self, device: torch.device | str) -> Self:
        """The same order, its indices on another device."""
        return self if torch.device(device) == self.device else type(self)(self.lengths, device)

    @property
    def lengths_on_device(self) -> Int64[Tensor, " batch"]:
        """The lengths beside the values: for masks and divisions."""
        # By hand: a cached property takes a lock, at which a compiler stops.
        if self._on_device is None:
            self._on_device = self.lengths.to(self.device, non_blocking=True)
        return self._on_device

    @cached_property
    def shortest(self) -> int:
        """How many steps the shortest row has."""
        return int(self.lengths.min())

    @cached_property
    def longest(self) -> int:
        """How many steps the longest row has."""
        return int(self.lengths.max())

    @cached_property
    def steps(self) -> int:
        """How many real steps the batch holds."""
        return int(self.lengths.sum())

    @cached_property
    def occupied(self) -> int:
        """How many rows hold at least one step."""
        return int((self.lengths > 0).sum())

    @_kept
    def some(self) -> Int64[Tensor, " occupied"]:
        """The rows that hold at least one step, in reading order."""
        return (self.lengths > 0).nonzero().squeeze(1).to(self.device, non_blocking=True)

    @_kept
    def rows(self) -> Int64[Tensor, " batch"]:
        """The rows by descending length, on the CPU."""
        # A stable sort: ties keep reading order, so equal batches pack equally.
        return self.lengths.argsort(descending=True, stable=True)

    @_kept
    def batch_sizes(self) -> Int64[Tensor, " time"]:
        """How many rows are still running at each time, on the CPU, as torch's packed kernels want it."""
        ended = torch.bincount(self.lengths)
        return len(self.lengths) - ended.cumsum(0)[:-1]

    @_kept
    def _starts(self) -> Int64[Tensor, " time"]:
        return self.batch_sizes.cumsum(0) - self.batch_sizes

    @_kept
    def _rank(self) -> Int64[Tensor, " batch"]:
        rank = torch.empty_like(self.rows)
        rank[self.rows] = torch.arange(len(self.rows))
        return rank

    @_kept
    def _row_and_time(self) -> Int64[Tensor, "2 steps"]:
        time = torch.repeat_interleave(self.batch_sizes)
        within = torch.arange(self.steps) - self._starts[time]
        return torch.stack([self.rows[within], time]).to(self.device, non_blocking=True)

    @property
    def row(self) -> Int64[Tensor, " steps"]:
        """The row of each packed step."""
        return self._row_and_time[0]

    @property
    def time(self) -> Int64[Tensor, " steps"]:
        """The time of each packed step within its row."""
        return self._row_and_time[1]

    def cells(self, width: int) -> Int64[Tensor, " steps"]:
        """Each packed step's cell in a rectangle of `width` columns, row by row."""
        return self.row * width + self.time

    def fills(self, width: int) -> bool:
        """Whether a rectangle of `width` columns has no padding, as far as is known: in a graph lengths are not."""
        return not torch.compiler.is_compiling() and self.shortest == width

    def padding(self, width: int) -> Int64[Tensor, " padding"]:
        """The cells of a rectangle of `width` columns that hold no step, row by row."""
        if width not in self._padding:
            # Found beside the lengths, on the CPU: a device would have to be waited for.
            empty = torch.arange(width) >= self.lengths.unsqueeze(1)
            self._padding[width] = empty.flatten().nonzero().squeeze(1).to(self.device, non_blocking=True)
        return self._padding[width]

    def mask(self, width: int) -> Bool[Tensor, "batch time"]:
        """True at the real steps of a rectangle of `width` columns."""
        return torch.arange(width, device=self.device) < self.lengths_on_device.unsqueeze(1)

    @_kept
    def first(self) -> Int64[Tensor, " occupied"]:
        """The packed step at which each row that has one begins, those rows in reading order."""
        return self._rank[self.lengths > 0].to(self.device, non_blocking=True)

    @_kept
    def last(self) -> Int64[Tensor, " occupied"]:
        """The packed step at which each row that has one ends, those rows in reading order."""
        some = self.lengths > 0
        return (self._starts[self.lengths[some] - 1] + self._rank[some]).to(self.device, non_blocking=True)

    @cached_property
    def sizes(self) -> list[int]:
        """How many rows are still running at each time, as plain numbers: for loops over time."""
        if self.fills(self.longest):
            return [len(self.lengths)] * self.longest
        return ints(self.batch_sizes)

    @_kept
    def previous(self) -> Int64[Tensor, " later"]:
        """The packed step before each that is not its row's first; the first steps of all rows stand before those."""
        time = torch.repeat_interleave(self.batch_sizes[1:]) if self.steps else self.batch_sizes
        return (torch.arange(self.occupied, self.steps) - self.batch_sizes[time]).to(self.device, non_blocking=True)

    @_kept
    def mirrored(self) -> Int64[Tensor, " steps"]:
        """For each packed step the one as far from its row's end as this is from its beginning.

        What is selected by it is each row read backwards from its own last step, in packed order; selected by it
        again, everything is where it was.

        Example:
            >>> Order(torch.tensor([1, 3])).mirrored.tolist()
            [3, 1, 2, 0]
        """
        time = torch.repeat_interleave(self.batch_sizes)
        rank = torch.arange(self.steps) - self._starts[time]
        return (self._starts[self.lengths[self.rows[rank]] - 1 - time] + rank).to(self.device, non_blocking=True)

    @_kept
    def ends(self) -> Int64[Tensor, " occupied"]:
        """The packed step at which each row that has one ends, the longest row first."""
        lengths = self.lengths[self.rows[: self.occupied]]
        return (self._starts[lengths - 1] + torch.arange(self.occupied)).to(self.device, non_blocking=True)

    @_kept
    def grid(self) -> Int64[Tensor, " steps"]:
        """Each packed step's cell in a rectangle, time-major, of the rows that have steps, the longest row first."""
        time = torch.repeat_interleave(self.batch_sizes)
        rank = torch.arange(self.steps) - self._starts[time]
        return (time * self.occupied + rank).to(self.device, non_blocking=True)

    @_kept
    def reading(self) -> Int64[Tensor, " steps"]:
        """The packed steps in reading order: the first row's from its first to its last, then the second's."""
        row = torch.repeat_interleave(self.lengths)
        time = torch.arange(self.steps) - (self.lengths.cumsum(0) - self.lengths)[row]
        return (self._starts[time] + self._rank[row]).to(self.device, non_blocking=True)


def order_of(batch: _Collated) -> Order:
    """A batch's own order, beside its values: the default of a batch made by hand."""
    return Order(batch.lengths, batch.values.device)


def longest_of(batch: _Collated) -> int:
    """How many steps a batch's longest row has: its width where none is given."""
    return int(batch.lengths.max()) if len(batch.lengths) else 0
