"""Policies: how many rows fit in a batch, and which options are rejected."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import Boundaries, Budget, Rows, Shapes
from pipeline.errors import OptionError
from support.batching_oracle import cost
from support.untyped import untyped


@given(max_padded_steps=st.integers(2, 3_000), quadratic=st.one_of(st.none(), st.integers(1, 600)), data=st.data())
def test_a_budget_is_filled_and_never_exceeded(
    max_padded_steps: int, quadratic: int | None, data: st.DataObject
) -> None:
    """One more row would exceed the budget, and rows fit up to the limit but not beyond."""
    budget = Budget(max_padded_steps, quadratic=quadratic)
    limit = budget.max_length()
    assert cost(budget, limit) <= max_padded_steps < cost(budget, limit + 1)
    longest = data.draw(st.integers(1, limit))
    room = budget.room(longest)
    assert room * cost(budget, longest) <= max_padded_steps < (room + 1) * cost(budget, longest)
    assert budget.room(limit + 1) == 1


def test_room_of_each_policy() -> None:
    """Empty rows count as one step, and both limits hold."""
    assert Budget(10).room(0) == 10
    assert Budget(10, rows=3).room(0) == 3
    assert Boundaries((4, 8), max_padded_steps=16, rows=3).room(4) == 3
    assert Boundaries((4, 8), max_padded_steps=16).room(8) == 2
    assert Rows(5, longest=9).room(9) == 5
    assert Rows(5, longest=9).room(10) == 1
    assert Budget(100, longest=30).limit() == 30
    assert Shapes([(2, 9), (5, 3), (4, 3)]).room(3) == 5


def test_quantiles_make_groups_of_equal_size() -> None:
    """Groups have about equal numbers of rows, and equal edges are merged."""
    lengths = list(range(1, 101))
    assert Boundaries.quantiles(lengths, 4, rows=8).edges() == (25, 50, 75)
    assert Boundaries.quantiles([7] * 50, 8, max_padded_steps=70).edges() == (7,)
    assert Boundaries.quantiles([(3, 4), (1, 1)], 2, max_padded_steps=70, batches_per_sort=3) == Boundaries(
        (2,), max_padded_steps=70, batches_per_sort=3
    )
    with pytest.raises(OptionError, match="^buckets must be an integer of at least 2, got 1"):
        Boundaries.quantiles(lengths, 1, rows=8)
    with pytest.raises(OptionError, match="^quantiles needs the length of at least one row, got none"):
        Boundaries.quantiles([], 2, rows=8)


INVALID: dict[str, Callable[[], object]] = {
    "^rows must be an integer of at least 1, got 0": lambda: Rows(0),
    "^rows must be an integer of at least 1, got True": lambda: untyped(Rows)(True),
    "^max_padded_steps must be an integer of at least 1, got 40.5": lambda: untyped(Budget)(40.5),
    "^rows must be an integer of at least 1, got -1": lambda: Budget(40, rows=-1),
    "^quadratic must be": lambda: Budget(40, quadratic=0),
    "^max_padded_steps must hold a row of 1 steps, which counts as 1.5, got 1; raise it": lambda: Budget(
        1, quadratic=2
    ),
    "^max_padded_steps must hold a row of 64 steps, which counts as 64, got 40; raise it": lambda: Budget(
        40, multiple_of=64
    ),
    "^batches_per_sort must be": lambda: Budget(40, batches_per_sort=0),
    "^longest must be": lambda: Budget(40, longest=0),
    "^too_long must be one of raise, alone, truncate, split, got 'x'": lambda: untyped(Budget)(40, too_long="x"),
    "^Boundaries needs max_padded_steps, rows or both": lambda: Boundaries((4, 8)),
    r"^edges must be ascending lengths, at least one, got \(8, 4\)": lambda: Boundaries((8, 4), rows=1),
    "^edges must be ascending lengths": lambda: Boundaries((), rows=1),
    "^shapes must have at least one": lambda: Shapes([]),
    "^steps must be": lambda: Shapes([(4, 0)]),
}


@pytest.mark.parametrize("message", INVALID)
def test_invalid_options_are_rejected(message: str) -> None:
    """The error names the option and its rule."""
    with pytest.raises(OptionError, match=message):
        INVALID[message]()


def test_a_policy_is_shown_with_the_options_that_were_set() -> None:
    """Errors about long rows show it."""
    assert str(Budget(10, too_long="raise")) == "Budget(max_padded_steps=10)"
    assert str(Rows(2, longest=8)) == "Rows(longest=8, rows=2)"
    assert str(Boundaries((4, 8), rows=3)) == "Boundaries(edges=(4, 8), rows=3)"
