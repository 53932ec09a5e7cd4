"""Lengths: every container and integer type, and errors that name the row."""

import numpy as np
import pytest
import torch

from pipeline.batching import Budget, Plan, Rows
from pipeline.errors import LengthError, ShapeError
from support.batching_oracle import draw_lengths, same


def test_lengths_of_any_container_and_type() -> None:
    """Lists, tuples, tensors, arrays of any integer type, and columns give the same plan."""
    lengths = draw_lengths(50)
    tensor = torch.tensor(lengths)
    plans: list[Plan] = [
        Plan.of(given, Budget(90))
        for given in (lengths, tuple(lengths), np.array(lengths, np.uint16), np.array(lengths)[:, None])
    ]
    plans.append(Plan.of(tensor.numpy(), Budget(90)))
    plans.append(Plan.of(tensor, Budget(90)))
    assert all(same(plans[0], plan) for plan in plans)
    assert len({plan.digest for plan in plans}) == 1
    assert len(Plan.of([], Budget(90), world_size=4)) == 0


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            [1.5, 2.0],
            ShapeError,
            "lengths must be integers, got float64; convert them with lengths.astype(int).",
        ),
        (np.array([], np.float32), ShapeError, "lengths must be integers, got float32"),
        ([True, False], ShapeError, "lengths must be integers, got bool"),
        (["3"], ShapeError, "lengths must be integers, got <U1"),
        ([[[1, 2, 3]]], ShapeError, "lengths must have shape (rows,), or (rows, sides), got (1, 1, 3)."),
        (5, ShapeError, "lengths must have shape (rows,), or (rows, sides), got ()."),
        ([[1], [1, 2]], ShapeError, "lengths must be integers, one or several per row, got a list"),
        ([3, -2], LengthError, "lengths[1] must be 0 or more, got -2."),
        ([[3, 4], [1, -2]], LengthError, "lengths[1][1] must be 0 or more, got -2."),
        ([3, 2**41], LengthError, "lengths[1] must be at most 1,099,511,627,776, got 2199023255552."),
    ],
)
def test_invalid_lengths_are_rejected(given: list[int], error: type[Exception], message: str) -> None:
    """The error names the place and the rule."""
    with pytest.raises(error) as caught:
        Plan.of(given, Rows(2))
    assert str(caught.value).startswith(message)
