"""Policies side by side: figures as a plan's loop gives them, tables, records, and what is refused."""

import io
import itertools
import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipeline import plan
from pipeline.batching import Boundaries, Budget, Plan, Policy, Randomness, Rows, Shapes
from pipeline.errors import LengthError, OptionError, ShapeError
from pipeline.forecast import Forecast, Histogram, compared
from pipeline.forecast.compared import spelt, widths
from support.untyped import loosely

LENGTHS = [3, 5, 5, 9, 12, 40, 0, 7, 7, 2]


def outlook_by_hand(lengths: Sequence[int], policy: Policy, world_size: int) -> dict[str, object]:
    """The figures, batch by batch."""
    planned = Plan.of(lengths, policy, world_size=world_size)
    orders: list[list[int]] = [batch.tolist() for batch in planned]
    batches = [[lengths[row] for row in order] for order in orders]
    shapes = [(len(batch), max(batch)) for batch in batches]
    areas = [rows * steps for rows, steps in shapes]
    return {
        "batches": math.ceil(len(batches) / world_size),
        "wasted": 1 - sum(map(sum, batches)) / sum(areas),
        "rows": tuple(
            float(quartile) for quartile in np.quantile([len(batch) for batch in batches], [0.25, 0.5, 0.75])
        ),
        "largest": max(shapes, key=lambda shape: (shape[0] * shape[1], shape[1])),
        "most_padded": max(areas),
    }


@pytest.mark.parametrize(
    "policy", [Rows(3), Budget(40), Budget(80, batches_per_sort=None), Boundaries((6,), max_padded_steps=60)]
)
@pytest.mark.parametrize("world_size", [1, 3])
def test_figures_are_those_of_the_plan(policy: Policy, world_size: int) -> None:
    """Of all ranks, batch by batch."""
    outlook = plan(LENGTHS, policy, world_size=world_size)[spelt(policy)]
    found = {
        "batches": outlook.batches,
        "wasted": pytest.approx(outlook.report.wasted),
        "rows": outlook.rows,
        "largest": outlook.largest,
        "most_padded": outlook.most_padded,
    }
    assert outlook_by_hand(LENGTHS, policy, world_size) == found
    following = Plan.of(LENGTHS, policy, world_size=world_size, epoch=1)
    figures = Randomness.of(Plan.of(LENGTHS, policy, world_size=world_size), following)
    assert (outlook.correlation, outlook.mates) == (figures.correlation, figures.mates)


def test_the_costliest_batch_is_the_policy_s_own() -> None:
    """With a quadratic term, the batch of the long rows costs more than one of more steps."""
    outlook = plan([30] + [1] * 35, {"mine": Budget(40, quadratic=100, batches_per_sort=None)})["mine"]
    assert outlook.largest == (1, 30)
    assert outlook.most_padded == 35


def test_a_budget_is_kept_by_every_policy_that_is_compared() -> None:
    """None is over it, and all hold every row."""
    lengths = np.random.default_rng(0).integers(0, 90, 500)
    forecast = plan(lengths, 360, rows=50)
    kinds = [type(outlook.policy) for outlook in forecast.outlooks.values()]
    assert kinds == [Rows, Budget, Budget, Boundaries, Shapes]
    for outlook in forecast.outlooks.values():
        assert outlook.most_padded <= 360
        assert outlook.report.rows == 500
        assert outlook.rows[2] <= 50


@given(lengths=st.lists(st.integers(0, 12), min_size=1, max_size=20), count=st.integers(1, 4))
def test_widths_make_the_least_padding(lengths: list[int], count: int) -> None:
    """Of all that could be chosen."""

    def padding(chosen: Sequence[int]) -> int:
        return sum(min(width for width in chosen if width >= length) - length for length in lengths)

    longest = max(1, *lengths)
    found = widths(Histogram.of(lengths), count, longest)
    every = itertools.combinations(range(1, longest), min(count, longest) - 1)
    assert len(found) <= count
    assert padding(found) == min(padding((*chosen, longest)) for chosen in every)


@pytest.mark.parametrize("too_long", ["alone", "truncate", "split"])
def test_long_rows_are_as_stated(too_long: str) -> None:
    """In every policy that is compared, from lengths and from a histogram alike."""
    for given_lengths in ([5, 30, 7], Histogram.of([5, 30, 7])):
        forecast = loosely(plan)(given_lengths, 10, too_long=too_long)
        assert isinstance(forecast, Forecast)
        for outlook in forecast.outlooks.values():
            assert outlook.problem is None
            assert outlook.most_padded == (30 if too_long == "alone" else 10)
            assert outlook.report.steps == (22 if too_long == "truncate" else 42)
            assert outlook.report.rows == (5 if too_long == "split" else 3)


def test_a_policy_without_room_says_so_in_the_table() -> None:
    """The others are forecast; if none has room, that is the error."""
    forecast = plan([5, 30], {"small": Budget(10), "large": Budget(60)})
    assert isinstance(forecast["small"].problem, LengthError)
    assert forecast.best() is forecast["large"]
    lines = str(forecast).splitlines()
    assert lines[2].split() == ["small", "-", "-", "-", "-", "-", "-"]
    assert lines[-1].startswith("small: row 1 has 30 steps, but Budget(")
    with pytest.raises(LengthError, match="row 1 has 30 steps"):
        plan([5, 30], 10)


def test_it_is_printed_as_text_in_a_terminal_and_in_a_notebook() -> None:
    """The same cells; names of one's own are text, whatever they hold."""
    forecast = plan([3, 5, 5, 9], {"<b>[red]\x1b": Budget(20), "rows": Rows(2)}, world_size=2)
    text = str(forecast)
    assert repr(forecast) == text
    assert text.splitlines()[0] == "4 rows of 3 to 9 steps, 22 together; 2 ranks"
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


def test_records_are_json_of_every_figure() -> None:
    """What was forecast, and each policy with what keeps it from being planned."""
    forecast = plan([5, 30], {"small": Budget(10), "large": Budget(60)})
    record = json.loads(json.dumps(forecast.to_dict(), allow_nan=False))
    assert (record["schema"], record["rows"], record["steps"], record["longest"], record["world_size"]) == (
        1,
        2,
        35,
        30,
        1,
    )
    small, large = record["outlooks"]
    assert small["problem"].startswith("row 1 has 30 steps")
    assert large["policy"] == repr(Budget(60))
    assert (large["problem"], large["exact"], large["memory"]) == (None, True, None)
    assert (large["batches"], large["padded"], large["largest"]) == (1, 60, [2, 30])
    assert large["wasted"] == pytest.approx(25 / 60)


def test_no_rows_make_no_batches() -> None:
    """From no lengths, and from an empty histogram."""
    for nothing in (Histogram.of([]), Histogram.from_counts({}), list[int]()):
        for outlook in plan(nothing, 100).outlooks.values():
            assert (outlook.batches, outlook.report.rows, outlook.report.wasted) == (0, 0, 0.0)


def test_rows_of_no_steps_are_planned() -> None:
    """They are in batches as any others."""
    for lengths in ([0, 0, 0], {0: 3}):
        for outlook in plan(lengths, 10).outlooks.values():
            assert outlook.report.rows == 3
            assert outlook.report.steps == 0


def test_two_lengths_a_row_are_planned() -> None:
    """The padded steps are those of both."""
    outlook = plan([(3, 4), (5, 1), (2, 2)], Budget(30))["Budget(30)"]
    assert outlook.largest == (3, 5, 4)
    assert outlook.most_padded == 27
    assert "3 x 5 + 4 = 27" in str(plan([(3, 4), (5, 1), (2, 2)], Budget(30)))


def test_bad_options_are_refused() -> None:
    """With the rule and what arrived."""
    for options in ({"world_size": 0}, {"seed": -1}, {"policies": 0}, {"policies": 10, "rows": 0}):
        name = {"policies": "max_padded_steps"}.get(next(reversed(options)), next(reversed(options)))
        with pytest.raises(OptionError, match=f"{name} must be a whole number, [01] or more, but"):
            loosely(plan)([3], **options)
    with pytest.raises(OptionError, match="policies must be one or more, but none arrived"):
        plan([3], [])
    with pytest.raises(OptionError, match="rows and too_long belong to a budget, but policies arrived"):
        plan([3], Budget(10), rows=3)
    with pytest.raises(ShapeError, match="lengths must be whole numbers, but float64 arrived"):
        plan([2.5], 10)
    with pytest.raises(OptionError, match=r"no policy is called 'mine'; they are: Budget\(10\)"):
        plan([3], Budget(10))["mine"]


def test_policies_are_spelt_as_they_are_written() -> None:
    """Without their defaults; every one that is compared differs from the others."""
    assert spelt(Rows(2_000)) == "Rows(2,000)"
    assert spelt(Shapes([(4, 8)])) == "Shapes(((4, 8),))"
    names = [spelt(policy) for policy in compared(Histogram.of(range(200)), 1_000)]
    assert len(set(names)) == len(names) == 5
