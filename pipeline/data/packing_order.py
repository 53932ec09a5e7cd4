"""Index arithmetic for packed batches: the position of each real step, computed from the lengths alone."""

from collections.abc import Callable
from functools import cached_property
from operator import attrgetter
from typing import Final, Protocol, Self, final

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from pipeline.data import graph_packing
from pipeline.data.tensors import to_ints
from pipeline.errors import LengthError

_count_changes: Callable[[Tensor], int] = attrgetter("_version")
"""The number of in-place changes of a tensor and its views, by which autograd also notices them."""

_FEW_ROWS: Final = 128
"""Up to this number of rows, one list of the lengths takes less time than a call of torch per property."""

# Not shared with the checks, which are no dependency of this module: both type what torch leaves untyped.
_is_tracing: Callable[[], bool] = attrgetter("jit.is_tracing")(torch)


def _cached(compute: Callable[["PackingOrder"], Tensor]) -> "cached_property[Tensor]":
    """Cache a tensor property for as long as the order exists."""
    # An order is shared by all batches of its rows. If a prediction in inference mode computes an index first, a later
    # training step could not save it for backward. Therefore it is computed outside inference mode.
    outside: Callable[[PackingOrder], Tensor] = torch.inference_mode(mode=False)(compute)
    return cached_property(outside)


class _Collated(Protocol):
    @property
    def lengths(self) -> Tensor: ...
    @property
    def values(self) -> Tensor: ...


@final
class PackingOrder:
    """The order of a batch's steps when packed: time-major, longest row first, ties in reading order.

    It is the order of torch's `PackedSequence`, but empty rows are allowed: they sort last and have no step.
    Indices are computed on the CPU, once per batch and on first use. No stage reads a tensor back from an accelerator.

    Three numberings occur. A row has an index in *reading order* (its index in `lengths`) and a rank in *sorted order*
    (longest first). A step has an index in *packed order*.

    Example:
        >>> order = PackingOrder(torch.tensor([2, 0, 3]))
        >>> order.batch_sizes.tolist(), order.row_of_step.tolist(), order.time_of_step.tolist()
        ([2, 2, 1], [2, 0, 2, 0, 2], [0, 0, 1, 1, 2])
    """

    def __init__(self, lengths: Int64[Tensor, " batch"], device: torch.device | str = "cpu") -> None:
        reject_tracing()
        self.lengths = lengths
        self.device: torch.device = torch.device(device)
        self._version: int | None = _get_version(lengths)
        self._on_device: Int64[Tensor, " batch"] | None = None
        self._padding: dict[int, Int64[Tensor, " padding"]] = {}

    def __setstate__(self, state: dict[str, object]) -> None:
        """Restore a copy or a pickle, whose lengths count their changes from zero."""
        self.__dict__.update(state)
        self._version = _get_version(self.lengths)

    def to(self, device: torch.device | str) -> Self:
        """Return the same order with its indices on another device."""
        return self if torch.device(device) == self.device else type(self)(self.lengths, device)

    @property
    def lengths_on_device(self) -> Int64[Tensor, " batch"]:
        """The lengths on the device of the values, for masks and divisions."""
        # Cached by hand: `cached_property` takes a lock in Python 3.11, which torch.compile cannot trace.
        if self._on_device is None:
            self._on_device = self.lengths.to(self.device, non_blocking=True)
        return self._on_device

    @cached_property
    def shortest(self) -> int:
        """The length of the shortest row."""
        return self._measure("shortest", torch.min)

    @cached_property
    def longest(self) -> int:
        """The length of the longest row."""
        return self._measure("longest", torch.max)

    @cached_property
    def steps(self) -> int:
        """The number of real steps in the batch."""
        return self._measure("steps", torch.sum)

    def _measure(self, name: str, reduce: Callable[[Tensor], Tensor]) -> int:
        """Return the shortest, the longest or the sum of the lengths. Of few rows, all three are stored."""
        if torch.compiler.is_compiling() or not 0 < self.lengths.shape[0] <= _FEW_ROWS:
            return int(reduce(self.lengths))
        self.read_lengths()
        found: int = self.__dict__[name]
        return found

    def read_lengths(self) -> None:
        """Store `shortest`, `longest` and `steps` at once; the lengths must not be empty.

        For new batches, which need all three: each property takes a lock when it is computed.
        """
        counts = to_ints(self.lengths)
        self.__dict__.update(shortest=min(counts), longest=max(counts), steps=sum(counts))

    @cached_property
    def nonempty_count(self) -> int:
        """The number of rows with at least one step."""
        # Usually the length of the shortest row is known, and then no tensor is read.
        # By shape: `len` of a tensor is a function in Python.
        rows = self.lengths.shape[0]
        return rows if rows and self.shortest else int((self.lengths > 0).sum())

    @_cached
    def nonempty_rows(self) -> Int64[Tensor, " nonempty"]:
        """The indices of the rows with at least one step, in reading order."""
        return self._send((self.lengths > 0).nonzero().squeeze(1))

    @_cached
    def sorted_indices(self) -> Int64[Tensor, " batch"]:
        """The indices of the rows by descending length, on the CPU."""
        # A stable sort: ties keep reading order, so equal batches pack equally.
        return self.lengths.argsort(descending=True, stable=True)

    @_cached
    def batch_sizes(self) -> Int64[Tensor, " time"]:
        """The number of rows longer than t, for each time t; on the CPU, as torch's packed kernels need it."""
        if len(self.lengths) and self.is_full(self.longest):
            return torch.full((self.longest,), len(self.lengths), device=self.lengths.device)
        # `ended[t]` rows have the length t. At time t those that are still running are all but the ones with length <=
        # t.
        ended = torch.bincount(self.lengths)
        return len(self.lengths) - ended.cumsum(0)[:-1]

    @cached_property
    def batch_size_list(self) -> list[int]:
        """`batch_sizes` as Python integers, for loops over time."""
        if self.is_full(self.longest):
            return [self.lengths.shape[0]] * self.longest
        return to_ints(self.batch_sizes)

    # The step of the row with rank k at time t has the packed index `starts[t] + k`: all steps of earlier times come
    # before it, and within one time rows stand in sorted order. Every index below follows from this formula.

    @_cached
    def _starts(self) -> Int64[Tensor, " time"]:
        """The packed index of the first step at each time."""
        return self.batch_sizes.cumsum(0) - self.batch_sizes

    @_cached
    def _ranks(self) -> Int64[Tensor, " batch"]:
        """The rank of each row in sorted order, rows in reading order."""
        ranks = torch.empty_like(self.sorted_indices)
        ranks[self.sorted_indices] = torch.arange(len(ranks), device=ranks.device)
        return ranks

    @_cached
    def _time_and_rank(self) -> Int64[Tensor, "2 steps"]:
        """The time of each packed step and the rank of its row, on the CPU."""
        time = torch.repeat_interleave(self.batch_sizes)
        return torch.stack([time, torch.arange(self.steps, device=time.device) - self._starts[time]])

    def _send(self, indices: Tensor) -> Tensor:
        return indices.to(self.device, non_blocking=True)

    @_cached
    def _row_and_time(self) -> Int64[Tensor, "2 steps"]:
        # Both in one tensor: one copy to the device instead of two.
        time, rank = self._time_and_rank
        return self._send(torch.stack([self.sorted_indices[rank], time]))

    def locate_steps(self, values: Tensor | None = None) -> Int64[Tensor, "2 steps"]:
        """Return the row and the time of each packed step.

        Args:
            values: the packed values, for graphs: their first axis has the number of steps, which a graph would have to
                read from the lengths.
        """
        if torch.compiler.is_compiling():
            steps = graph_packing.count_steps(self.lengths) if values is None else values.shape[0]
            return self._send(graph_packing.locate_steps(self.lengths, steps))
        self._reject_changed_lengths()
        return self._row_and_time

    @property
    def row_of_step(self) -> Int64[Tensor, " steps"]:
        """The row index of each packed step."""
        return self.locate_steps()[0]

    @property
    def time_of_step(self) -> Int64[Tensor, " steps"]:
        """The time of each packed step within its row."""
        return self.locate_steps()[1]

    def flat_indices(self, width: int, values: Tensor | None = None) -> Int64[Tensor, " steps"]:
        """Return the index of each packed step in a flattened batch x `width` rectangle; `values` as `locate_steps`."""
        found = self.locate_steps(values)
        return found[0] * width + found[1]

    def is_full(self, width: int) -> bool:
        """Return whether a rectangle `width` steps wide has no padding. Always False while a graph is traced."""
        if torch.compiler.is_compiling():
            return False
        if self._version is not None:
            self._reject_changed_lengths()
        return self.shortest == width

    def _reject_changed_lengths(self) -> None:
        """Reject lengths that were changed in place after the order was made: its cached indices are out of date.

        Raises:
            LengthError: if they were changed.
        """
        if self._version is not None and self._version != _count_changes(self.lengths):
            msg = (
                "lengths were changed in place after the batch was made, so the positions of its steps are wrong; "
                "make a new batch of the new lengths."
            )
            raise LengthError(msg)

    def padding_indices(self, width: int) -> Int64[Tensor, " padding"]:
        """Return the indices of the padding in a flattened batch x `width` rectangle."""
        if width not in self._padding:
            # Computed on the CPU: on a device, `nonzero` would wait for the result.
            is_padding = torch.arange(width, device=self.lengths.device) >= self.lengths.unsqueeze(1)
            self._padding[width] = self._send(is_padding.flatten().nonzero().squeeze(1))
        return self._padding[width]

    def mask(self, width: int) -> Bool[Tensor, "batch time"]:
        """Return a mask that is True at the real steps of a batch x `width` rectangle."""
        if not torch.compiler.is_compiling():
            self._reject_changed_lengths()
        return torch.arange(width, device=self.device) < self.lengths_on_device.unsqueeze(1)

    @_cached
    def first_steps(self) -> Int64[Tensor, " nonempty"]:
        """The packed index of the first step of each nonempty row, in reading order."""
        return self._send(self._ranks[self.lengths > 0])

    @_cached
    def last_steps(self) -> Int64[Tensor, " nonempty"]:
        """The packed index of the last step of each nonempty row, in reading order."""
        # The last step of a row is at the time length - 1.
        nonempty = self.lengths > 0
        return self._send(self._starts[self.lengths[nonempty] - 1] + self._ranks[nonempty])

    @_cached
    def sorted_last_steps(self) -> Int64[Tensor, " nonempty"]:
        """The packed index of the last step of each nonempty row, the longest row first."""
        lengths = self.lengths[self.sorted_indices[: self.nonempty_count]]
        return self._send(self._starts[lengths - 1] + torch.arange(self.nonempty_count, device=lengths.device))

    @_cached
    def previous_steps(self) -> Int64[Tensor, " later"]:
        """The packed index of the preceding step of each step after its row's first.

        First steps are the first `nonempty_count` packed steps, so entry i belongs to packed step `nonempty_count + i`.
        """
        # A row keeps its rank, so its steps at times t and t + 1 are `starts[t + 1] - starts[t] = batch_sizes[t]`
        # apart. `time` counts from 0 at the second time, which makes it the time of the preceding step.
        time = torch.repeat_interleave(self.batch_sizes[1:]) if self.steps else self.batch_sizes
        return self._send(torch.arange(self.nonempty_count, self.steps, device=time.device) - self.batch_sizes[time])

    @_cached
    def reversal(self) -> Int64[Tensor, " steps"]:
        """The packed indices that reverse each row in time: `values[reversal]` reads every row from its last step.

        Applying it twice restores the original order.

        Example:
            >>> PackingOrder(torch.tensor([1, 3])).reversal.tolist()
            [3, 1, 2, 0]
        """
        # The step at time t goes to the time length - 1 - t of the same row, so only the time changes in the formula.
        time, rank = self._time_and_rank
        return self._send(self._starts[self.lengths[self.sorted_indices[rank]] - 1 - time] + rank)

    @_cached
    def sorted_flat_indices(self) -> Int64[Tensor, " steps"]:
        """The index of each packed step in a flattened time x nonempty rectangle, the longest row first."""
        time, rank = self._time_and_rank
        return self._send(time * self.nonempty_count + rank)

    @_cached
    def reading_order(self) -> Int64[Tensor, " steps"]:
        """The packed indices in reading order: all steps of the first row, then of the second, and so on."""
        if len(self.lengths) == 1:
            return self._send(torch.arange(self.steps, device=self.lengths.device))
        # In reading order the row is known by repetition, and its time by subtracting the steps of all earlier rows.
        row = torch.repeat_interleave(self.lengths)
        time = torch.arange(self.steps, device=row.device) - (self.lengths.cumsum(0) - self.lengths)[row]
        return self._send(self._starts[time] + self._ranks[row])


def _get_version(lengths: Tensor) -> int | None:
    """Return the number of in-place changes of a tensor; None if torch does not count them, or a graph is traced."""
    return None if torch.compiler.is_compiling() or lengths.is_inference() else _count_changes(lengths)


def reject_tracing() -> None:
    """Reject `torch.jit.trace`, which would record the lengths of one batch as constants.

    Raises:
        LengthError: if a trace is being recorded.
    """
    if _is_tracing():
        msg = (
            "torch.jit.trace records the lengths of this batch as constants, which are wrong for any other; "
            "use torch.export, with parts that declare exportable."
        )
        raise LengthError(msg)


def make_order(batch: _Collated) -> PackingOrder:
    """Return the packing order of a batch, on the device of its values."""
    return PackingOrder(batch.lengths, batch.values.device)


def longest_of(batch: _Collated) -> int:
    """Return the length of a batch's longest row; 0 if it has no rows."""
    return int(batch.lengths.max()) if len(batch.lengths) else 0
