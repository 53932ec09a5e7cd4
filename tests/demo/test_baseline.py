"""The rules that the demo's models are compared with."""

from collections.abc import Sequence

from highlight.baseline import WindowRule, find_most_frequent
from highlight.source import Line


def line(text: str, classes: Sequence[str]) -> Line:
    """Make a line with irrelevant kind and position."""
    return Line(text, classes, "statement", False, "a.py", 1)


def test_the_widest_known_window_decides() -> None:
    """The neighbours matter more than the character's most frequent class."""
    often = [line("a", ["name"])] * 3
    rule = WindowRule([*often, line("1a2", ["number", "string", "number"])])
    assert rule.classify("1a2") == ["number", "string", "number"]
    assert rule.classify("a") == ["name"]
    rule = WindowRule([line("12xax34", ["string"] * 7), *[line("92xax39", ["name"] * 7)] * 2])
    assert rule.classify("12xax34")[3] == "string"


def test_an_unknown_window_is_shortened() -> None:
    """Seven characters, five, three, one, and at last the most frequent class of all."""
    rule = WindowRule(
        [
            line("12(a)34", ["number", "number", "operator", "string", "operator", "number", "number"]),
            line("7", ["number"]),
            line("a=a=a", ["name", "operator", "name", "operator", "name"]),
        ]
    )
    assert rule.classify("12(a)34")[3] == "string"
    assert rule.classify("92(a)39")[3] == "string"
    assert rule.classify("99(a)99")[3] == "string"
    assert rule.classify("99[a]99")[3] == "name"
    assert rule.classify("?") == ["number"]


def test_a_line_s_edges_are_part_of_the_window() -> None:
    """A character at the start of a line differs from the same one elsewhere."""
    rule = WindowRule([line("#a", ["comment", "comment"]), line("b#a", ["string"] * 3), line("b#a", ["string"] * 3)])
    assert rule.classify("#a") == ["comment", "comment"]


def test_an_empty_line_has_no_classes() -> None:
    """It has no characters."""
    assert WindowRule([line("a", ["name"])]).classify("") == []


def test_the_most_frequent_kind() -> None:
    """Of several, the first to occur."""
    assert find_most_frequent(["b", "a", "a"]) == "a"
    assert find_most_frequent(["b", "a", "a", "b"]) == "b"
