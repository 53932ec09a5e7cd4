"""Text for terminals and messages."""

import pytest

from pipeline.text import escape_control_characters, format_error, suggest_name, to_one_line


def test_no_control_character_reaches_the_terminal() -> None:
    """Escape sequences and line breaks are written as in Python source."""
    assert escape_control_characters("a\x1b[31mb\r\n\x00é") == "a\\x1b[31mb\\r\\n\\x00é"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("two\n  lines"), "ValueError: two lines"),
        (KeyError(), "KeyError"),
        (TimeoutError(2, "late"), "TimeoutError: [Errno 2] late"),
    ],
)
def test_errors_are_written_on_one_line(error: Exception, text: str) -> None:
    """Type and message; the type alone if there is no message."""
    assert format_error(error) == text


def test_long_lines_are_cut() -> None:
    """The limit includes the dots."""
    assert to_one_line("a" * 20, 10) == "a" * 7 + "..."
    assert to_one_line("a" * 10, 10) == "a" * 10


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BiLSTM", "bilstm"),
        ("bi-lstm", "bilstm"),
        ("lstn", "lstm"),
        ("Avg", "mean"),
        ("hidden", "hidden_size"),
        ("hiddensize", "hidden_size"),
        ("hidden-size", "hidden_size"),
    ],
)
def test_similar_names_are_suggested(name: str, expected: str) -> None:
    """Other cases and signs, misspellings, shortened names, and names of other libraries."""
    known = ["lstm", "bilstm", "mean", "hidden_size"]
    assert suggest_name(name, known, {"avg": "mean"}) == f" Did you mean {expected!r}?"


@pytest.mark.parametrize("name", ["transformer", "", "x"])
def test_nothing_is_suggested_for_other_names(name: str) -> None:
    """A wrong hint is worse than none. An alias is no hint if the name that it stands for does not exist."""
    assert suggest_name(name, ["lstm", "gru"]) == ""
    assert suggest_name("avg", ["lstm"], {"avg": "mean"}) == ""


@pytest.mark.parametrize(("name", "known"), [(" pos", "pos"), ("pos", "pos ")])
def test_white_space_that_makes_the_difference_is_mentioned(name: str, known: str) -> None:
    """It is hard to see."""
    assert suggest_name(name, ["neg", known]) == f" Did you mean {known!r}? White space is kept."
