"""The builder: long rows, and digests of policies."""

import attrs
import numpy as np
import pytest

from pipeline.batching import Budget, Plan, Policy, Rows, RowSlice
from pipeline.errors import LengthError, OptionError


def test_long_rows() -> None:
    """Long rows raise an error that names the first, or are alone, truncated, or split without losing a step."""
    lengths = [2, 9, 3, 7]
    with pytest.raises(
        LengthError,
        match="^row 1 must have at most 4 steps for Budget.*, got 9, the first of 2 rows that are too long; raise the limit",
    ) as caught:
        Plan.of(lengths, Budget(4))
    assert caught.value.details == {"row": 1, "length": 9, "limit": 4}
    alone = Plan.of(lengths, Budget(4, too_long="alone"))
    assert {tuple(batch.tolist()) for batch in alone} == {(1,), (3,), (2,), (0,)}
    assert len(Plan.of(lengths, Budget(4, too_long="truncate")).splits) == 4
    split = Plan.of(lengths, Budget(4, too_long="split"))
    assert sorted(split.splits, key=lambda part: (part.row, part.start)) == [
        RowSlice(0, 0, 4),
        *(RowSlice(1, begin, begin + 4) for begin in (0, 4, 8)),
        RowSlice(2, 0, 4),
        *(RowSlice(3, begin, begin + 4) for begin in (0, 4)),
    ]
    assert split.splits.rows_of(np.arange(7)).tolist() == [0, 1, 2, 3, 1, 1, 3]
    with pytest.raises(OptionError, match='too_long="alone"'):
        Plan.of([(9, 9)], Budget(4, too_long="split"))


@attrs.frozen
class Grouped(Policy):
    """A policy of one row per batch, with a field of any type."""

    group: object

    def max_rows(self, longest: int) -> int:
        """Return 1: no length is below that."""
        return min(longest, 1)


def test_recipes_follow_the_fields_of_a_policy() -> None:
    """Policies with equal fields have one recipe, other fields have another, and fields that JSON cannot hold fail."""
    recipes = [Plan.of([1, 2], Grouped(group)).recipe for group in (1, np.int64(1), 2, "a", (1, 2))]
    assert recipes[0] == recipes[1]
    assert len({*recipes, Plan.of([1, 2], Rows(1)).recipe}) == 5
    with pytest.raises(OptionError, match="^fields of a policy must be numbers, text or tuples of them"):
        Plan.of([1, 2], Grouped(object()))
