"""Shares and padding, by hand."""

import pytest

from pipeline import Report
from pipeline.demo.score import Answer, Result, characters_right, drawn, lines_right, runs, unbucketed
from pipeline.demo.source import Line

LINES = [Line(text, ["name"] * len(text), "statement", False, "a.py", 1) for text in ("ab", "cdefgh")]
GIVEN = [["name", "name"], ["name", "space", "space", "name", "name", "name"]]


def test_characters_and_lines_are_counted_apart() -> None:
    """A long line weighs more among the characters, and as much as any among the lines."""
    assert characters_right(GIVEN, LINES) == pytest.approx(6 / 8)
    assert lines_right(GIVEN, LINES) == pytest.approx(1 / 2)


def test_an_answer_for_every_line() -> None:
    """Nothing is scored that was not answered."""
    with pytest.raises(ValueError, match="zip"):
        characters_right(GIVEN[:1], LINES)


def test_a_line_falls_into_runs_of_one_answer() -> None:
    """A run ends where the class given ends, or the right one."""
    line = Line("abcd", ["name", "name", "string", "string"], "statement", False, "a.py", 1)
    assert list(runs(line, ["name", "space", "space", "string"])) == [
        ("a", "name", "name"),
        ("b", "space", "name"),
        ("c", "space", "string"),
        ("d", "string", "string"),
    ]


def test_an_answer_knows_its_mistakes(result: Result) -> None:
    """Their places, and what would have been right."""
    wrong, right = result.answers
    assert (wrong.mistakes, wrong.missed, wrong.kind) == ([9], ["string"], "comment")
    assert (right.mistakes, right.missed, right.kind) == ([], [], "statement")


def test_half_of_what_is_shown_has_mistakes() -> None:
    """Where there are not as many, lines without any take their place; none is longer than asked for."""
    right = [Answer(LINES[0], GIVEN[0], "statement")] * 30
    wrong = [Answer(LINES[1], GIVEN[1], "statement")] * 30
    sample = drawn([*right, *wrong], 10)
    assert (len(sample.wrong), len(sample.right), sample.all_wrong, sample.all_right) == (5, 5, 30, 30)
    sample = drawn([*right, *wrong[:2]], 10)
    assert (len(sample.wrong), len(sample.right)) == (2, 8)
    sample = drawn([*right, *wrong], 10, longest=5)
    assert (len(sample.wrong), len(sample.right), sample.all_wrong) == (0, 10, 30)


def test_batches_filled_by_lot_hold_the_same_steps_and_more_padding() -> None:
    """As many rows and steps in as many batches; the longest row of each decides what it costs."""
    bucketed = [Report(1, 10, 10, 10), Report(1, 10, 1_000, 1_000)]
    found = unbucketed([1] * 10 + [100] * 10, bucketed, seed=0)
    assert (found.batches, found.rows, found.steps) == (2, 20, 1_010)
    assert found.padded == 2_000
