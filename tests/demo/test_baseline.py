"""What the demo is measured against does what it says."""

from collections.abc import Sequence

from pipeline.demo.baseline import Windows, commonest
from pipeline.demo.source import Line


def line(text: str, classes: Sequence[str]) -> Line:
    """A line of which only the text and the classes matter."""
    return Line(text, classes, "statement", False, "a.py", 1)


def test_the_widest_window_that_was_seen_decides() -> None:
    """The same character is what it was among the same neighbours, whatever it is more often elsewhere."""
    often = [line("a", ["name"])] * 3
    windows = Windows([*often, line("1a2", ["number", "string", "number"])])
    assert windows.classes("1a2") == ["number", "string", "number"]
    assert windows.classes("a") == ["name"]
    windows = Windows([line("12xax34", ["string"] * 7), *[line("92xax39", ["name"] * 7)] * 2])
    assert windows.classes("12xax34")[3] == "string"


def test_an_unseen_window_shrinks_until_it_was_seen() -> None:
    """Seven characters, five, three, the character alone, and at last the commonest class of all."""
    windows = Windows(
        [
            line("12(a)34", ["number", "number", "operator", "string", "operator", "number", "number"]),
            line("7", ["number"]),
            line("a=a=a", ["name", "operator", "name", "operator", "name"]),
        ]
    )
    assert windows.classes("12(a)34")[3] == "string"
    assert windows.classes("92(a)39")[3] == "string"
    assert windows.classes("99(a)99")[3] == "string"
    assert windows.classes("99[a]99")[3] == "name"
    assert windows.classes("?") == ["number"]


def test_a_line_s_edges_are_part_of_the_window() -> None:
    """A character at the start of a line has no neighbours on its left, and that is known of it."""
    windows = Windows([line("#a", ["comment", "comment"]), line("b#a", ["string"] * 3), line("b#a", ["string"] * 3)])
    assert windows.classes("#a") == ["comment", "comment"]


def test_an_empty_line_has_no_classes() -> None:
    """No character, no class."""
    assert Windows([line("a", ["name"])]).classes("") == []


def test_the_commonest_is_the_one_that_occurs_most() -> None:
    """The first to occur, of several."""
    assert commonest(["b", "a", "a"]) == "a"
    assert commonest(["b", "a", "a", "b"]) == "b"
