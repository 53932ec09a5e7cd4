"""Reductions per row equal a loop over the rows, in both layouts; sorting rows can be inverted."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline import Packed, Padded, States, Vectors
from pipeline.functional.segments import (
    max_by_row,
    restore_order,
    segment_max,
    softmax_by_row,
    sort_by_length,
    sum_by_row,
)
from support.strategies import ragged_rows
from support.untyped import to_list


def pad(rows: list[Tensor]) -> Padded[Vectors]:
    """Return a batch with NaN in the padding."""
    lengths = torch.tensor([len(row) for row in rows])
    values = torch.full((len(rows), int(lengths.max()) + 1, 3), torch.nan, dtype=torch.float64)
    for padded_row, row in zip(values, rows, strict=True):
        padded_row[: len(row)] = row
    return Padded(Vectors, values, lengths)


@given(rows=ragged_rows())
def test_sum_and_max_equal_a_loop(rows: list[Tensor]) -> None:
    """An empty row gives zeros, and padding has no influence."""
    zeros = torch.zeros(3, dtype=torch.float64)
    batch = pad(rows)
    for steps in (batch, batch.packed()):
        torch.testing.assert_close(sum_by_row(steps), torch.stack([row.sum(0) for row in rows]))
        expected = torch.stack([row.amax(0) if len(row) else zeros for row in rows])
        assert torch.equal(max_by_row(steps), expected)


@given(rows=ragged_rows())
def test_softmax_equals_a_loop(rows: list[Tensor]) -> None:
    """This also holds for scores whose exponential overflows."""
    packed = pad(rows).packed()
    scores = packed.values[:, 0] * 1_000
    weights = softmax_by_row(packed, scores)[packed.order.reading_order]
    expected = [torch.softmax(row[:, 0] * 1_000, 0) for row in rows]
    torch.testing.assert_close(weights, torch.cat(expected))


def test_equal_maxima_share_the_gradient() -> None:
    """Equal maxima get equal parts of the gradient; smaller values get none."""
    values = torch.tensor([[2.0], [5.0], [2.0], [1.0]], requires_grad=True)
    maximum = max_by_row(Packed(Vectors, values, torch.tensor([1, 3])))
    assert to_list(maximum.detach()) == [[5.0], [2.0]]
    (gradient,) = torch.autograd.grad(maximum.sum(), values)
    assert to_list(gradient.squeeze(1)) == [0.5, 1.0, 0.5, 0.0]


@pytest.mark.parametrize("rows", [2, 4])
def test_segment_max_has_second_derivatives(rows: int) -> None:
    """The custom backward pass is itself differentiable, with and without empty rows."""
    values = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    row = torch.tensor([0, 1, 0, 1, 0])

    def cubed(values: Tensor) -> Tensor:
        return segment_max(values, row, rows) ** 3

    assert torch.autograd.gradcheck(cubed, (values,))
    assert torch.autograd.gradgradcheck(cubed, (values,))


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5), extra=st.integers(0, 2))
def test_restore_order_inverts_sort_by_length(lengths: list[int], extra: int) -> None:
    """Sorted rows have the longest first and zeros in the padding; restored rows keep their layout."""
    given_lengths = torch.tensor(lengths)
    values = torch.randn(len(lengths), max(lengths) + extra, 2)
    states = States.from_padded(values, given_lengths)
    order = states.order
    if not order.steps:
        return
    for each in (states, States(states.packed(), states.final)):
        found = sort_by_length(each)
        wanted = states.padded().values[order.sorted_indices[: order.nonempty_count], : order.longest]
        assert torch.equal(found, wanted)
        back = each.with_values(restore_order(found, each))
        assert type(back.steps) is type(each.steps)
        assert torch.equal(back.padded().values, states.padded().values)


def test_rows_of_equal_length_are_not_copied() -> None:
    """Rows without padding are sorted and restored as views, in both layouts."""
    states = States.from_padded(torch.randn(3, 4, 2), torch.full((3,), 4))
    assert states.padded().values is states.steps.values
    for each in (states, States(states.packed(), states.final)):
        rectangle = sort_by_length(each)
        assert rectangle.data_ptr() == each.steps.values.data_ptr()
        assert restore_order(rectangle, each).values.data_ptr() == rectangle.data_ptr()
