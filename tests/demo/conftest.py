"""A small result, shared by the demo's tests."""

from pathlib import Path

import pytest

from highlight.results import CharacterResult, Comparison, LineResult, Result
from highlight.saved import SavedPipe
from highlight.source import Line
from pipeline import Report
from pipeline.training import Epoch, History


def make_history(*losses: float) -> History:
    """Make a history of epochs with these losses."""
    return History(
        [Epoch(n, 500, 500 * n, 4_000, loss, None, {}, 0.01, 400, 0.1, 1.5) for n, loss in enumerate(losses, start=1)]
    )


@pytest.fixture
def result(tmp_path: Path) -> Result:
    """Two held-out lines: a script tag in a string, whose last character is predicted as a name, and one without mistakes."""
    tag = Line("'<script>'", ["string"] * 10, "text", False, "html/parser.py", 7)
    classes = ["name", "space", "operator", "space", "operator", "number", "operator"]
    name = Line("x\t=\x0c[1]", classes, "statement", False, "a.py", 1)
    inside = Line("prose", ["string"] * 5, "text", True, "a.py", 2)
    one = CharacterResult(
        lines=[tag, name],
        predicted=[["string"] * 9 + ["name"], classes],
        own=[(name, classes)],
        by_character=Comparison("characters", 16 / 17, 0.5, "the rule of <thumb>"),
        by_line=Comparison("whole lines", 0.5, 0.25, "the rule of <thumb>"),
        bucketed=Report(2, 4, 100, 110),
        shuffled=Report(2, 4, 100, 180),
        history=make_history(2.0, 1.0),
    )
    two = LineResult(
        ["comment", "statement", "text"], Comparison("kinds of lines", 2 / 3, 0.5, "always"), make_history(1.0)
    )
    saved = SavedPipe(tmp_path / "saved", 12_345, 3, 3, 2.5)
    return Result(tmp_path / "page.html", [name], [tag, name, inside], 2, one, two, saved, 3.5)
