"""Scores, samples and padding, compared with values computed by hand."""

import pytest

from highlight.results import (
    LinePrediction,
    Result,
    draw_sample,
    score_characters,
    score_lines,
    shuffle_batches,
    split_into_runs,
)
from highlight.source import Line
from pipeline import Report

LINES = [Line(text, ["name"] * len(text), "statement", False, "a.py", 1) for text in ("ab", "cdefgh")]
PREDICTED = [["name", "name"], ["name", "space", "space", "name", "name", "name"]]


def test_characters_and_lines_are_scored_separately() -> None:
    """A long line has more weight among characters, and the same weight as any other among lines."""
    assert score_characters(PREDICTED, LINES) == pytest.approx(6 / 8)
    assert score_lines(PREDICTED, LINES) == pytest.approx(1 / 2)


def test_each_line_needs_a_prediction() -> None:
    """Different numbers of lines and predictions raise an error."""
    with pytest.raises(ValueError, match="zip"):
        score_characters(PREDICTED[:1], LINES)


def test_a_line_is_split_where_a_class_changes() -> None:
    """The predicted class, or the right one."""
    line = Line("abcd", ["name", "name", "string", "string"], "statement", False, "a.py", 1)
    assert list(split_into_runs(line, ["name", "space", "space", "string"])) == [
        ("a", "name", "name"),
        ("b", "space", "name"),
        ("c", "space", "string"),
        ("d", "string", "string"),
    ]


def test_a_prediction_lists_its_mistakes(result: Result) -> None:
    """Their positions, and the right classes."""
    wrong, right = result.predictions
    assert (wrong.mistakes, wrong.missed, wrong.kind) == ([9], ["string"], "comment")
    assert (right.mistakes, right.missed, right.kind) == ([], [], "statement")


def test_half_of_a_sample_has_mistakes() -> None:
    """If there are too few, more lines without mistakes are drawn; no line is longer than max_length."""
    right = [LinePrediction(LINES[0], PREDICTED[0], "statement")] * 30
    wrong = [LinePrediction(LINES[1], PREDICTED[1], "statement")] * 30
    sample = draw_sample([*right, *wrong], 10)
    assert (len(sample.wrong), len(sample.right), sample.all_wrong, sample.all_right) == (5, 5, 30, 30)
    sample = draw_sample([*right, *wrong[:2]], 10)
    assert (len(sample.wrong), len(sample.right)) == (2, 8)
    sample = draw_sample([*right, *wrong], 10, max_length=5)
    assert (len(sample.wrong), len(sample.right), sample.all_wrong) == (0, 10, 30)


def test_shuffled_batches_have_the_same_steps_and_more_padding() -> None:
    """The numbers of batches, rows and steps are unchanged; each batch is as wide as its longest row."""
    bucketed = [Report(1, 10, 10, 10), Report(1, 10, 1_000, 1_000)]
    found = shuffle_batches([1] * 10 + [100] * 10, bucketed, seed=0)
    assert (found.batches, found.rows, found.steps) == (2, 20, 1_010)
    assert found.padded == 2_000
