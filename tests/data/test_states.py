"""States and the first and last step of each row."""

import pytest
import torch
from hypothesis import given
from torch import Tensor

from pipeline import Packed, Padded, States, Vectors
from pipeline.data.states import first_by_row, last_by_row
from pipeline.errors import PipelineError, ShapeError
from support.strategies import ragged_rows
from support.untyped import to_list

VALUES, LENGTHS = torch.arange(12.0).reshape(2, 3, 2), torch.tensor([1, 3])


def test_states_from_a_rectangle_end_with_the_last_real_step() -> None:
    """The final state of each row is its last real step, not the last column."""
    assert to_list(States.from_padded(VALUES, LENGTHS).final) == [[0, 1], [10, 11]]


def test_with_values_keeps_the_layout() -> None:
    """States with other vectors are in the layout that they had, whatever the layout of the vectors."""
    states = States.from_padded(VALUES, LENGTHS)
    replaced = states.with_values(states.padded().with_values(VALUES + 100))
    assert isinstance(replaced.steps, Padded)
    assert to_list(replaced.padded().values[0]) == [[100, 101], [0, 0], [0, 0]]
    packed = States(states.packed(), states.final).with_values(states.padded().with_values(VALUES + 100))
    assert isinstance(packed.steps, Packed)
    assert torch.equal(packed.padded().values, replaced.padded().values)


def test_with_values_rejects_another_size() -> None:
    """The final states would not fit the steps; vectors of the same size are not checked again."""
    states = States.from_padded(VALUES, LENGTHS)
    wider = states.padded().with_values(torch.zeros(2, 3, 5))
    with pytest.raises(ShapeError, match=r"States: final must be batch x hidden, \(2, 5\) like the steps"):
        states.with_values(wider)


@pytest.mark.parametrize(
    ("values", "lengths", "message"),
    [
        (VALUES, torch.tensor([1, 4]), r"lengths\[1\] is 4, but values has only 3 steps"),
        (VALUES, torch.tensor([-1, 3]), r"lengths\[0\] is -1, but a row has 0 steps or more"),
        (VALUES, torch.tensor([1]), "lengths must be"),
        (VALUES, torch.tensor([1.0, 3.0]), "lengths must be"),
        (VALUES, torch.tensor([1, 3], device="meta"), "lengths must be on the CPU"),
        (VALUES.long(), LENGTHS, "values must be floating-point vectors"),
        (VALUES[:, :, 0], LENGTHS, "values must be floating-point vectors"),
        (VALUES[:0], LENGTHS[:0], "a batch must have at least one row"),
    ],
)
def test_states_from_a_rectangle_have_the_checks_of_batches(values: Tensor, lengths: Tensor, message: str) -> None:
    """The fast path leaves all errors to the batch."""
    with pytest.raises(PipelineError, match=message):
        States.from_padded(values, lengths)


def test_states_do_not_share_row_ids() -> None:
    """A change in place has no effect on other batches."""
    changed, other = States.from_padded(VALUES, LENGTHS), States.from_padded(VALUES, LENGTHS)
    changed.row_ids.add_(5)
    assert to_list(other.row_ids) == to_list(States.from_padded(VALUES, LENGTHS).row_ids) == [0, 1]


def test_final_states_must_fit_the_steps() -> None:
    """The number of rows and the size are those of the steps."""
    with pytest.raises(
        ShapeError, match=r"States: final must be batch x hidden, \(2, 2\) like the steps, got .* \(3, 2\)"
    ):
        States(Packed(Vectors, torch.zeros(4, 2), torch.tensor([3, 1])), torch.zeros(3, 2))


@given(rows=ragged_rows())
def test_first_and_last_step_equal_a_loop(rows: list[Tensor]) -> None:
    """In both layouts; an empty row gives zeros."""
    lengths = torch.tensor([len(row) for row in rows])
    values = torch.full((len(rows), int(lengths.max()) + 1, 3), torch.nan, dtype=torch.float64)
    for padded_row, row in zip(values, rows, strict=True):
        padded_row[: len(row)] = row
    zeros = values.new_zeros(3)
    batch = Padded(Vectors, values, lengths)
    for steps in (batch, batch.packed()):
        assert torch.equal(first_by_row(steps), torch.stack([row[0] if len(row) else zeros for row in rows]))
        assert torch.equal(last_by_row(steps), torch.stack([row[-1] if len(row) else zeros for row in rows]))


def test_filled_padding_has_no_gradient() -> None:
    """States in a rectangle have zeros in the padding; the padding of their input gets zero gradient."""
    values = torch.full((3, 2, 1), torch.nan, requires_grad=True)
    filled = States.from_padded(values, torch.tensor([1, 0, 2])).padded().values
    assert to_list(filled.isnan().squeeze(2)) == [[True, False], [False, False], [True, True]]
    (gradient,) = torch.autograd.grad(filled.sum(), values)
    assert to_list(gradient.squeeze(2)) == [[1, 0], [0, 0], [1, 1]]
