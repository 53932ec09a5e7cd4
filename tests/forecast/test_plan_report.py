"""`PlanReport`: the figures of padding, coverage and randomness, as text and as JSON."""

import json

import pytest

from pipeline.batching import Budget, Plan, Rows
from pipeline.errors import LengthError
from pipeline.forecast import PlanReport

LENGTHS = [9, 2, 2, 1, 1, 1]


def test_a_report_holds_the_figures_of_its_parts() -> None:
    """They are those of its padding, outliers, coverage and randomness."""
    this, following = (Plan.of(LENGTHS, Rows(3), epoch=epoch) for epoch in (0, 1))
    report = PlanReport.of(this, LENGTHS, following=following, max_outliers=1)
    first, second, third, fourth = str(report).splitlines()
    assert first == str(this.report())
    assert second == "each row once"
    assert third == str(report.randomness)
    assert fourth.startswith("row 0, of 9 steps, causes 14 steps of padding in batch ")
    record = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (record["batches"], record["rows"], record["steps"], record["padded"]) == (2, 6, 16, 30)
    assert sorted(record["padding"]) == [0, 14]
    assert (record["missing"], record["duplicated"]) == ([], [])
    assert record["outliers"] == [{"row": 0, "batch": record["padding"].index(14), "length": 9, "padding": 14}]
    assert 0 <= record["repeated_batchmates"] <= 1


def test_randomness_is_left_out_without_the_next_epoch() -> None:
    """The other figures are reported."""
    report = PlanReport.of(Plan.of(LENGTHS, Rows(3)), LENGTHS)
    assert report.randomness is None
    assert report.to_dict()["repeated_batchmates"] is None
    assert "correlat" not in str(report)


def test_missing_and_duplicated_rows_are_counted() -> None:
    """One rank does not have all rows; repeated rows are duplicated."""
    plan = Plan.of([3, 3, 3], Budget(3), world_size=2)
    assert "0 rows missing, 1 duplicated" in str(PlanReport.of(plan, [3, 3, 3]))
    one_rank = Plan.of([3, 3], Budget(3), world_size=2).rank(0)
    assert "1 rows missing, 0 duplicated" in str(PlanReport.of(one_rank, [3, 3]))


def test_other_lengths_are_rejected() -> None:
    """A report needs the lengths that the plan was made from."""
    with pytest.raises(LengthError, match=r"lengths must be those of the plan, of shape \(6, 1\)"):
        PlanReport.of(Plan.of(LENGTHS, Rows(3)), [1, 2])
