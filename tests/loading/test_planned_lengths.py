"""Rows that are longer than planned are noticed when they are loaded."""

from typing import Any

import attrs
import pytest
import torch

from pipeline import FromIds, Ids, Pad, Row, Sides
from pipeline.batching import Boundaries, Budget, Policy, Rows, Shapes
from pipeline.errors import LengthError
from pipeline.loading import Loader, PlannedBatches, RowDataset
from support.untyped import to_list

# Torch warns if there are more workers than processors.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

LENGTHS = [3, 6, 2, 4]

LIMITED: list[Policy] = [
    Budget(8),
    Budget(8, too_long="alone"),
    Budget(3, too_long="split"),
    Rows(2, longest=8),
    Boundaries((4,), max_padded_steps=8),
    Shapes([(2, 8)]),
]


def make_loader(policy: Policy, lengths: list[int], **options: Any) -> Loader[Any]:
    """Make a loader of rows of these lengths, which are planned with `LENGTHS`."""
    source = [[row] * length for row, length in enumerate(lengths)]
    return Loader(RowDataset(source, FromIds()), PlannedBatches(LENGTHS, policy), Pad(), **options)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("row", range(4))
@pytest.mark.parametrize("policy", LIMITED, ids=repr)
def test_a_longer_row_raises(policy: Policy, row: int, workers: int) -> None:
    """Its batch could exceed the limit, and steps after the last planned part would be lost."""
    longer = [length + (number == row) for number, length in enumerate(LENGTHS)]
    with pytest.raises(
        LengthError, match=f"row {row} has {longer[row]} steps, but was planned with {LENGTHS[row]}; plan with the"
    ) as info:
        list(make_loader(policy, longer, num_workers=workers))
    assert info.value.details == {"row": row, "length": longer[row], "planned": LENGTHS[row]}
    assert f"It is record {row} (number {row} of list)." in info.value.__notes__


@pytest.mark.parametrize("policy", LIMITED, ids=repr)
@pytest.mark.parametrize("lengths", [LENGTHS, [2, 5, 1, 3]])
def test_rows_as_planned_or_shorter_are_loaded(policy: Policy, lengths: list[int]) -> None:
    """A row may be shortened when it is read, by augmentation for example."""
    steps = sum(batch.report().steps for batch in make_loader(policy, lengths))
    assert steps == sum(lengths)


@pytest.mark.parametrize("policy", [Rows(2), Boundaries((4,), rows=2)], ids=repr)
def test_lengths_need_not_be_exact_without_a_limit(policy: Policy) -> None:
    """They only sort the rows then."""
    found = [row for batch in make_loader(policy, [5, 9, 7, 8]) for row in to_list(batch.metadata.row_ids)]
    assert sorted(found) == [0, 1, 2, 3]


def test_a_row_that_is_truncated_anyway_may_be_longer() -> None:
    """One that was planned to be whole may not."""
    policy = Budget(4, too_long="truncate")
    assert sum(batch.report().steps for batch in make_loader(policy, [3, 60, 2, 40])) == 3 + 4 + 2 + 4
    with pytest.raises(LengthError, match="row 0 has 4 steps, but was planned with 3"):
        list(make_loader(policy, [4, 6, 2, 4]))


@attrs.frozen(eq=False)
class Pair(Sides):
    """Two texts."""

    left: Ids
    right: Ids


def make_ids(length: int) -> Ids:
    """Make a sequence of this length."""
    return Ids(torch.zeros(length, dtype=torch.int64))


@pytest.mark.parametrize("as_sides", [True, False])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_longer_side_raises(workers: int, as_sides: bool) -> None:
    """A pair is a row with two sides, or two rows; each side is compared with its own planned length."""
    planned = [(3, 4), (5, 2)]
    for row, lengths in ((1, [(3, 4), (4, 3)]), (0, [(4, 3), (5, 2)]), (None, [(3, 4), (5, 1)])):
        sides = [(make_ids(left), make_ids(right)) for left, right in lengths]
        rows: list[Any] = (
            [Row(Pair(left, right)) for left, right in sides]
            if as_sides
            else [(Row(left), Row(right)) for left, right in sides]
        )
        loader = Loader(rows, PlannedBatches(planned, Budget(18)), len, num_workers=workers)
        if row is None:
            assert list(loader) == [2]
            continue
        found, wanted = (" and ".join(map(str, each[row])) for each in (lengths, planned))
        with pytest.raises(LengthError, match=f"row {row} has {found} steps, but was planned with {wanted}; plan with"):
            list(loader)


def test_items_of_unknown_length_are_not_compared() -> None:
    """They are not rows."""
    batches = PlannedBatches([(1, 2), (2, 2)], Budget(8))
    found = [row for batch in Loader([["a"], ["b"]], batches, list) for row in batch]
    assert sorted(found) == [["a"], ["b"]]
