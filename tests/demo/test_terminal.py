"""Output in wide and narrow terminals, with and without colours, and in logs."""

import io
from collections.abc import Iterator

import attrs
import pytest
from rich.console import Console

from highlight.model import TrainingStep
from highlight.results import Result
from highlight.source import Line
from highlight.terminal import Screen, show
from pipeline import Report


def shown(result: Result, *, width: int = 80, encoding: str = "utf-8", colour: bool = False) -> str:
    """Return the output on a console."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(
        file=file,
        width=width,
        force_terminal=colour,
        color_system="truecolor" if colour else None,
        legacy_windows=False,
    )
    show(result, Screen(console))
    file.seek(0)
    return file.read()


def test_a_mistake_has_a_caret_beneath(result: Result) -> None:
    """The mistake is visible without colours; another line names the right class."""
    lines = shown(result).splitlines()
    place = next(number for number, line in enumerate(lines) if "<script>" in line)
    assert lines[place].startswith("comment !")
    assert lines[place + 1] == " " * (lines[place].index("'") + 9) + "^"
    assert lines[place + 2].strip() == "right: string"


def test_a_line_without_mistakes_has_no_caret_line(result: Result) -> None:
    """Control characters become spaces, and brackets are not read as markup."""
    lines = shown(result).splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("statement "))
    assert lines[place].split(maxsplit=1)[1] == "x = [1]"
    assert lines[place + 1] == ""


def test_scores_padding_and_page_are_shown(result: Result) -> None:
    """And the next page to read; the path is not wrapped."""
    text = shown(result)
    for found in ("94.1%", "50.0%", "66.7%", "9.1%", "44.4%", "1 lines that begin inside a string", "docs/tutorial.md"):
        assert found in text
    assert str(result.page) in shown(result, width=30)


@pytest.mark.parametrize("width", [20, 23, 40, 10_000])
def test_lines_fit_the_width(result: Result, width: int) -> None:
    """Only the page's path may be wider than the terminal."""
    assert all(len(line) <= width for line in shown(result, width=width).splitlines() if "page.html" not in line)


def test_an_ascii_terminal(result: Result) -> None:
    """A character that it cannot encode becomes a question mark."""
    line = Line("é", ["name"], "statement", False, "a.py", 3)
    one = attrs.evolve(result.one, lines=[line], predicted=[["name"]])
    result = attrs.evolve(result, one=one, held_out=[line], two=attrs.evolve(result.two, predicted=["statement"]))
    assert "statement    ?\n" in shown(result, encoding="ascii")


def test_colours_are_those_of_the_predicted_classes(result: Result) -> None:
    """A mistake is white on red."""
    assert "\x1b[32m'<script>\x1b[0m\x1b[1;37;41m'\x1b[0m" in shown(result, colour=True)


@pytest.mark.parametrize("colour", [True, False])
def test_a_log_has_no_progress_bars(*, colour: bool) -> None:
    """A file gets the summary only, even if colours are forced."""

    def steps() -> Iterator[TrainingStep]:
        for number in range(1_000):
            yield TrainingStep(1 / (number + 1), Report(1, 8, 40, 48))

    file = io.StringIO()
    screen = Screen(Console(file=file, width=80, force_terminal=colour, color_system="truecolor"))
    with screen.busy("waiting"):
        done = screen.follow(steps(), rows=8_000)
    assert len(done) == 1_000
    assert file.getvalue().count("\n") == 1
    assert "1,000 optimizer steps" in file.getvalue()
    assert "\x1b" not in file.getvalue()
