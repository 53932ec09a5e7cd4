"""`plan`: figures are those of a loop over the plan; tables, JSON and errors."""

import io
import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
from rich.console import Console

from pipeline import plan
from pipeline.batching import Boundaries, Budget, Plan, Policy, Randomness, Rows, Shapes
from pipeline.errors import LengthError, OptionError, ShapeError
from pipeline.forecast import Forecast, Histogram
from pipeline.forecast.policies import format_policy
from support.untyped import untyped

LENGTHS = [3, 5, 5, 9, 12, 40, 0, 7, 7, 2]


def compute_by_hand(lengths: Sequence[int], policy: Policy, world_size: int) -> dict[str, object]:
    """Compute the figures batch by batch."""
    planned = Plan.of(lengths, policy, world_size=world_size)
    orders: list[list[int]] = [batch.tolist() for batch in planned]
    batches = [[lengths[row] for row in order] for order in orders]
    shapes = [(len(batch), max(batch)) for batch in batches]
    areas = [rows * steps for rows, steps in shapes]
    return {
        "batches_per_rank": math.ceil(len(batches) / world_size),
        "wasted": 1 - sum(map(sum, batches)) / sum(areas),
        "rows_per_batch": tuple(
            float(quartile) for quartile in np.quantile([len(batch) for batch in batches], [0.25, 0.5, 0.75])
        ),
        "largest": max(shapes, key=lambda shape: (shape[0] * shape[1], shape[1])),
        "max_padded_steps": max(areas),
    }


@pytest.mark.parametrize(
    "policy", [Rows(3), Budget(40), Budget(80, batches_per_sort=None), Boundaries((6,), max_padded_steps=60)]
)
@pytest.mark.parametrize("world_size", [1, 3])
def test_figures_are_those_of_the_plan(policy: Policy, world_size: int) -> None:
    """Each figure equals one computed from the batches of all ranks, one by one."""
    forecast = plan(LENGTHS, policy, world_size=world_size)[format_policy(policy)]
    found = {
        "batches_per_rank": forecast.batches_per_rank,
        "wasted": pytest.approx(forecast.report.wasted),
        "rows_per_batch": forecast.rows_per_batch,
        "largest": forecast.largest,
        "max_padded_steps": forecast.max_padded_steps,
    }
    assert compute_by_hand(LENGTHS, policy, world_size) == found
    following = Plan.of(LENGTHS, policy, world_size=world_size, epoch=1)
    randomness = Randomness.of(Plan.of(LENGTHS, policy, world_size=world_size), following)
    assert forecast.correlation == randomness.correlation
    assert forecast.repeated_batchmates == randomness.repeated_batchmates


def test_the_policy_decides_which_batch_is_most_expensive() -> None:
    """With a quadratic term, a batch of long rows costs more than one of more steps."""
    forecast = plan([30] + [1] * 35, {"mine": Budget(40, quadratic=100, batches_per_sort=None)})["mine"]
    assert forecast.largest == (1, 30)
    assert forecast.max_padded_steps == 35


def test_every_suggested_policy_keeps_to_the_budget() -> None:
    """No batch exceeds the budget, and every row is in a batch."""
    lengths = np.random.default_rng(0).integers(0, 90, 500)
    forecast = plan(lengths, 360, rows=50)
    kinds = [type(policy.policy) for policy in forecast.policies.values()]
    assert kinds == [Rows, Budget, Budget, Boundaries, Shapes]
    for policy in forecast.policies.values():
        assert policy.max_padded_steps <= 360
        assert policy.report.rows == 500
        assert policy.rows_per_batch[2] <= 50


@pytest.mark.parametrize("too_long", ["alone", "truncate", "split"])
def test_long_rows_are_handled_as_requested(too_long: str) -> None:
    """Every suggested policy applies `too_long`, from lengths and from a histogram."""
    for lengths in ([5, 30, 7], Histogram.of([5, 30, 7])):
        forecast = untyped(plan)(lengths, 10, too_long=too_long)
        assert isinstance(forecast, Forecast)
        for policy in forecast.policies.values():
            assert policy.problem is None
            assert policy.max_padded_steps == (30 if too_long == "alone" else 10)
            assert policy.report.steps == (22 if too_long == "truncate" else 42)
            assert policy.report.rows == (5 if too_long == "split" else 3)


def test_a_policy_without_room_is_reported_in_the_table() -> None:
    """The others are forecast; if no policy has room, the error is raised."""
    forecast = plan([5, 30], {"small": Budget(10), "large": Budget(60)})
    assert isinstance(forecast["small"].problem, LengthError)
    assert forecast.best() is forecast["large"]
    lines = str(forecast).splitlines()
    assert lines[2].split() == ["small", "-", "-", "-", "-", "-", "-"]
    assert lines[-1].startswith("small: row 1 must have at most 10 steps")
    with pytest.raises(LengthError, match="row 1 must have at most 10 steps"):
        plan([5, 30], 10)


def test_text_terminal_and_notebook_show_the_same_cells() -> None:
    """Names are shown as text, even if they hold markup or control characters."""
    forecast = plan([3, 5, 5, 9], {"<b>[red]\x1b": Budget(20), "rows": Rows(2)}, world_size=2)
    text = str(forecast)
    assert repr(forecast) == text
    assert text.splitlines()[0] == "4 rows of 3 to 9 steps, 22 in total; 2 ranks"
    assert "\n<b>[red]\\x1b  " in text
    file = io.StringIO()
    Console(width=200, file=file).print(forecast)
    printed = file.getvalue()
    page = forecast.table().html()
    assert "&lt;b&gt;[red]\\x1b" in page
    for row in forecast.table().rows:
        for cell in row:
            assert cell in text
            assert cell in printed
    assert page.count("<tr") == 3


def test_every_figure_is_in_the_json() -> None:
    """These are the figures of the data set and of each policy, and the error of a policy that cannot make batches."""
    forecast = plan([5, 30], {"small": Budget(10), "large": Budget(60)})
    record = json.loads(json.dumps(forecast.to_dict(), allow_nan=False))
    names = ("schema", "rows", "steps", "longest", "world_size")
    assert [record[name] for name in names] == [1, 2, 35, 30, 1]
    small, large = record["policies"]
    assert small["problem"].startswith("row 1 must have at most 10 steps")
    assert large["policy"] == repr(Budget(60))
    assert (large["problem"], large["exact"], large["memory"]) == (None, True, None)
    assert (large["batches"], large["padded"], large["largest"]) == (1, 60, [2, 30])
    assert large["wasted"] == pytest.approx(25 / 60)


def test_no_rows_make_no_batches() -> None:
    """An empty list and an empty histogram give a forecast without batches."""
    for nothing in (Histogram.of([]), Histogram.from_counts({}), list[int]()):
        for policy in plan(nothing, 100).policies.values():
            assert (policy.batches_per_rank, policy.report.rows, policy.report.wasted) == (0, 0, 0.0)


def test_empty_rows_are_planned() -> None:
    """Empty rows are in batches like all others."""
    for lengths in ([0, 0, 0], {0: 3}):
        for policy in plan(lengths, 10).policies.values():
            assert policy.report.rows == 3
            assert policy.report.steps == 0


def test_two_lengths_per_row_are_planned() -> None:
    """The padded steps of both are added."""
    forecast = plan([(3, 4), (5, 1), (2, 2)], Budget(30))
    assert forecast["Budget(30)"].largest == (3, 5, 4)
    assert forecast["Budget(30)"].max_padded_steps == 27
    assert "3 x 5 + 4 = 27" in str(forecast)


def test_bad_options_are_rejected() -> None:
    """The message has the rule and the value."""
    for options in ({"world_size": 0}, {"seed": -1}, {"policies": 0}, {"policies": 10, "rows": 0}):
        name = {"policies": "max_padded_steps"}.get(next(reversed(options)), next(reversed(options)))
        with pytest.raises(OptionError, match=f"{name} must be "):
            untyped(plan)([3], **options)
    with pytest.raises(OptionError, match="policies must hold at least one policy, got none"):
        plan([3], [])
    with pytest.raises(OptionError, match="rows and too_long are options of a budget, but policies were given"):
        plan([3], Budget(10), rows=3)
    with pytest.raises(ShapeError, match="lengths must be integers, got float64"):
        plan([2.5], 10)
    with pytest.raises(OptionError, match=r"name must be the name of a policy, got 'mine'; .* Budget\(10\)"):
        plan([3], Budget(10))["mine"]
