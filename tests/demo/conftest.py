"""What the demo's tests share: a run that never ran, small enough to know by heart."""

from pathlib import Path

import pytest

from pipeline import Report
from pipeline.demo.score import Contest, Highlighted, Result, Sorted
from pipeline.demo.source import Line


@pytest.fixture
def result(tmp_path: Path) -> Result:
    """Two held-out lines: a script tag in a string, whose last character was taken for a name, and a flawless one."""
    tag = Line("'<script>'", ["string"] * 10, "text", False, "html/parser.py", 7)
    classes = ["name", "space", "operator", "space", "operator", "number", "operator"]
    name = Line("x\t=\x0c[1]", classes, "statement", False, "a.py", 1)
    inside = Line("prose", ["string"] * 5, "text", True, "a.py", 2)
    one = Highlighted(
        asked=[tag, name],
        given=[["string"] * 9 + ["name"], classes],
        own=[(name, classes)],
        characters=Contest("characters", 16 / 17, 0.5, "the rule of <thumb>"),
        lines=Contest("whole lines", 0.5, 0.25, "the rule of <thumb>"),
        bucketed=Report(2, 4, 100, 110),
        unbucketed=Report(2, 4, 100, 180),
        losses=[2.0, 1.0],
    )
    two = Sorted(["comment", "statement", "text"], Contest("kinds of lines", 2 / 3, 0.5, "always"), [1.0])
    return Result(tmp_path / "page.html", [name], [tag, name, inside], 2, one, two, 3.5)
