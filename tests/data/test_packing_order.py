"""The packing order equals torch's, and its indices equal a loop over rows and steps."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from torch.nn.utils.rnn import pack_padded_sequence

from pipeline import Ids, Padded
from pipeline.data.packing_order import PackingOrder
from pipeline.errors import LengthError
from support.strategies import row_lengths
from support.untyped import to_list

set_default_device: Callable[[object], object] = getattr(torch, "set_default_device")  # noqa: B009
"""Torch leaves its type open."""


@given(counts=row_lengths())
def test_packed_order_equals_torch(counts: list[int]) -> None:
    """Packed steps and batch sizes are those of `pack_padded_sequence`, with empty rows left out."""
    sizes = torch.tensor(counts)
    values = torch.arange(len(counts) * 7).reshape(len(counts), 7)
    packed = Padded(Ids, values, sizes).packed()
    if not any(counts):
        assert packed.values.shape == (0,)
        return
    expected = pack_padded_sequence(values[sizes > 0], sizes[sizes > 0], batch_first=True, enforce_sorted=False)
    assert to_list(packed.values) == to_list(expected.data)
    assert to_list(packed.order.batch_sizes) == to_list(expected.batch_sizes)


def index_steps(order: PackingOrder) -> dict[tuple[int, int], int]:
    """Return the packed index of each (row, time)."""
    steps = zip(to_list(order.row_of_step), to_list(order.time_of_step), strict=True)
    return {step: index for index, step in enumerate(steps)}


@given(counts=row_lengths())
def test_indices_in_reading_order_equal_a_loop(counts: list[int]) -> None:
    """First, last and reading-order indices agree with a loop over the rows."""
    order = PackingOrder(torch.tensor(counts))
    index = index_steps(order)
    nonempty = [row for row, count in enumerate(counts) if count]
    assert to_list(order.nonempty_rows) == nonempty
    assert to_list(order.reading_order) == [
        index[row, time] for row, count in enumerate(counts) for time in range(count)
    ]
    assert to_list(order.first_steps) == [index[row, 0] for row in nonempty]
    assert to_list(order.last_steps) == [index[row, counts[row] - 1] for row in nonempty]
    assert to_list(order.mask(7).sum(1)) == counts
    assert to_list(order.flat_indices(7)) == [row * 7 + time for row, time in index]
    assert order.batch_size_list == to_list(order.batch_sizes)


@given(counts=row_lengths())
def test_indices_in_sorted_order_equal_a_loop(counts: list[int]) -> None:
    """Previous steps, the reversal, sorted last steps and time-major indices agree with a loop over the steps."""
    order = PackingOrder(torch.tensor(counts))
    index = index_steps(order)
    longest_first = to_list(order.sorted_indices)[: order.nonempty_count]
    assert to_list(order.previous_steps) == [index[row, time - 1] for row, time in index if time]
    assert to_list(order.reversal) == [index[row, counts[row] - 1 - time] for row, time in index]
    assert to_list(order.sorted_last_steps) == [index[row, counts[row] - 1] for row in longest_first]
    assert to_list(order.sorted_flat_indices) == [
        time * order.nonempty_count + longest_first.index(row) for row, time in index
    ]


def test_changed_lengths_are_an_error() -> None:
    """Cached indices would be out of date. Copies of a changed tensor count from zero, and are right."""
    lengths = torch.tensor([3, 1])
    lengths += 1
    order = PackingOrder(lengths)
    for copied in (order, copy.deepcopy(order), pickle.loads(pickle.dumps(order))):
        assert to_list(copied.row_of_step) == [0, 1, 0, 1, 0, 0]
    lengths -= 1
    uses: list[Callable[[], object]] = [
        lambda: order.is_full(4),
        lambda: order.row_of_step,
        lambda: order.mask(4),
        lambda: order.time_of_step,
    ]
    for use in uses:
        with pytest.raises(LengthError, match="lengths were changed in place after the batch was made"):
            use()


def test_indices_do_not_depend_on_the_default_device() -> None:
    """They are computed where the lengths are."""
    lengths = torch.tensor([3, 0, 1])
    names = (
        "row_of_step",
        "first_steps",
        "last_steps",
        "sorted_last_steps",
        "previous_steps",
        "reversal",
        "reading_order",
    )
    wanted = [getattr(PackingOrder(lengths), name) for name in names]
    torch.set_default_device("meta")
    try:
        order = PackingOrder(lengths)
        found = [*(getattr(order, name) for name in names)]
        padding = order.padding_indices(3)
    finally:
        set_default_device(None)
    assert [to_list(one) for one in found] == [to_list(one) for one in wanted]
    assert to_list(padding) == [3, 4, 5, 7, 8]
