"""A plan looked through: what its parts say, in a few lines and as records."""

import json

import pytest

from pipeline.batching import Budget, Plan, Rows
from pipeline.errors import LengthError
from pipeline.forecast import PlanReport

LENGTHS = [9, 2, 2, 1, 1, 1]


def test_it_says_what_its_parts_say() -> None:
    """Padding, the row at fault, coverage, randomness."""
    this, following = (Plan.of(LENGTHS, Rows(3), epoch=epoch) for epoch in (0, 1))
    audit = PlanReport.of(this, LENGTHS, following=following, most=1)
    first, second, third, fourth = str(audit).splitlines()
    assert first == str(this.report())
    assert second == "each row once"
    assert third == str(audit.randomness)
    assert fourth.startswith("row 0, of 9 steps, brings about 14 steps of padding in batch ")
    record = json.loads(json.dumps(audit.to_dict(), allow_nan=False))
    assert (record["batches"], record["rows"], record["steps"], record["padded"]) == (2, 6, 16, 30)
    assert sorted(record["padding"]) == [0, 14]
    assert (record["missing"], record["doubled"]) == ([], [])
    assert record["culprits"] == [{"row": 0, "batch": record["padding"].index(14), "length": 9, "padding": 14}]
    assert 0 <= record["mates"] <= 1


def test_without_a_next_epoch_nothing_is_said_of_randomness() -> None:
    """The rest is."""
    audit = PlanReport.of(Plan.of(LENGTHS, Rows(3)), LENGTHS)
    assert audit.randomness is None
    assert audit.to_dict()["mates"] is None
    assert "correlate" not in str(audit)


def test_what_is_not_served_once_is_counted() -> None:
    """A rank alone has not all rows; rows that are repeated are doubled."""
    plan = Plan.of([3, 3, 3], Budget(3), world_size=2)
    assert "0 rows missing, 1 doubled" in str(PlanReport.of(plan, [3, 3, 3]))
    alone = Plan.of([3, 3], Budget(3), world_size=2).rank(0)
    assert "1 rows missing, 0 doubled" in str(PlanReport.of(alone, [3, 3]))


def test_other_lengths_are_refused() -> None:
    """As the waste does."""
    with pytest.raises(LengthError, match=r"lengths are of shape \(2, 1\), but the plan was made for 6 rows"):
        PlanReport.of(Plan.of(LENGTHS, Rows(3)), [1, 2])
