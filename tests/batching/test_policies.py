"""Policies: how many rows they have room for, and what they refuse."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import Boundaries, Budget, Rows, Shapes
from pipeline.errors import OptionError
from support.batching_oracle import cost
from support.untyped import loosely


@given(max_padded_steps=st.integers(2, 3_000), quadratic=st.one_of(st.none(), st.integers(1, 600)), data=st.data())
def test_a_budget_is_filled_and_kept(max_padded_steps: int, quadratic: int | None, data: st.DataObject) -> None:
    """A row more would be over it; and rows fit up to the limit, and no longer."""
    budget = Budget(max_padded_steps, quadratic=quadratic)
    limit = budget.fits()
    assert cost(budget, limit) <= max_padded_steps < cost(budget, limit + 1)
    longest = data.draw(st.integers(1, limit))
    room = budget.room(longest)
    assert room * cost(budget, longest) <= max_padded_steps < (room + 1) * cost(budget, longest)
    assert budget.room(limit + 1) == 1


def test_room() -> None:
    """Rows of no steps count as one, and both bounds hold."""
    assert Budget(10).room(0) == 10
    assert Budget(10, rows=3).room(0) == 3
    assert Boundaries((4, 8), max_padded_steps=16, rows=3).room(4) == 3
    assert Boundaries((4, 8), max_padded_steps=16).room(8) == 2
    assert Rows(5, longest=9).room(9) == 5
    assert Rows(5, longest=9).room(10) == 1
    assert Budget(100, longest=30).limit() == 30
    assert Shapes([(2, 9), (5, 3), (4, 3)]).room(3) == 5


def test_quantiles() -> None:
    """Groups of about as many rows each; edges that fall together are one."""
    lengths = list(range(1, 101))
    assert Boundaries.quantiles(lengths, 4, rows=8).edges() == (25, 50, 75)
    assert Boundaries.quantiles([7] * 50, 8, max_padded_steps=70).edges() == (7,)
    assert Boundaries.quantiles([(3, 4), (1, 1)], 2, max_padded_steps=70, batches_per_sort=3) == Boundaries(
        (2,), max_padded_steps=70, batches_per_sort=3
    )
    with pytest.raises(OptionError, match="^buckets must be a whole number, 2 or more, but 1 arrived"):
        Boundaries.quantiles(lengths, 1, rows=8)
    with pytest.raises(OptionError, match="^quantiles needs lengths to divide"):
        Boundaries.quantiles([], 2, rows=8)


REFUSED: dict[str, Callable[[], object]] = {
    "^rows must be a whole number, 1 or more, but 0 arrived": lambda: Rows(0),
    "^rows must be a whole number, 1 or more, but True arrived": lambda: loosely(Rows)(True),
    "^max_padded_steps must be a whole number, 1 or more, but 40.5 arrived": lambda: loosely(Budget)(40.5),
    "^rows must be a whole number, 1 or more, but -1 arrived": lambda: Budget(40, rows=-1),
    "^quadratic must be": lambda: Budget(40, quadratic=0),
    "^max_padded_steps=1 has no room for a row of one step, which counts 1.5; raise it": lambda: Budget(1, quadratic=2),
    "^batches_per_sort must be": lambda: Budget(40, batches_per_sort=0),
    "^longest must be": lambda: Budget(40, longest=0),
    "^too_long must be one of refuse, alone, truncate, split, but 'x'": lambda: loosely(Budget)(40, too_long="x"),
    "^Boundaries needs max_padded_steps, rows or both": lambda: Boundaries((4, 8)),
    r"^edges must be one length or more, each greater .* but \(8, 4\) arrived": lambda: Boundaries((8, 4), rows=1),
    "^edges must be one length or more": lambda: Boundaries((), rows=1),
    "^shapes must be one": lambda: Shapes([]),
    "^steps must be": lambda: Shapes([(4, 0)]),
}


@pytest.mark.parametrize("says", REFUSED)
def test_options_that_are_refused(says: str) -> None:
    """Each by its name, with its rule."""
    with pytest.raises(OptionError, match=says):
        REFUSED[says]()
