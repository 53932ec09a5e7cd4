"""What the terminal shows, wide or narrow, with colours or without, and that a log is not flooded."""

import io
from collections.abc import Iterator

import attrs
import pytest
from rich.console import Console

from pipeline import Report
from pipeline.demo.highlight import Step
from pipeline.demo.score import Result
from pipeline.demo.screen import Screen
from pipeline.demo.show import show
from pipeline.demo.source import Line


def shown(result: Result, *, width: int = 80, encoding: str = "utf-8", colour: bool = False) -> str:
    """What is printed on a console."""
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
    """For those who see no colour; and a line says what would have been right."""
    lines = shown(result).splitlines()
    place = next(number for number, line in enumerate(lines) if "<script>" in line)
    assert lines[place].startswith("comment !")
    assert lines[place + 1] == " " * (lines[place].index("'") + 9) + "^"
    assert lines[place + 2].strip() == "right: string"


def test_a_line_without_mistakes_stands_alone(result: Result) -> None:
    """What would move the cursor, or close a markup tag, is one plain character."""
    lines = shown(result).splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("statement "))
    assert lines[place].split(maxsplit=1)[1] == "x = [1]"
    assert lines[place + 1] == ""


def test_scores_padding_and_page_are_told(result: Result) -> None:
    """And where to go from here, the path in one piece."""
    text = shown(result)
    for found in ("94.1%", "50.0%", "66.7%", "9.1%", "44.4%", "1 lines that begin inside a string", "docs/tour.md"):
        assert found in text
    assert str(result.page) in shown(result, width=30)


@pytest.mark.parametrize("width", [20, 23, 40, 10_000])
def test_any_width_will_do(result: Result, width: int) -> None:
    """No line but the page's path is wider than the terminal."""
    assert all(len(line) <= width for line in shown(result, width=width).splitlines() if "page.html" not in line)


def test_a_terminal_that_spells_ascii_alone(result: Result) -> None:
    """A letter that it cannot spell is a question mark."""
    line = Line("é", ["name"], "statement", False, "a.py", 3)
    one = attrs.evolve(result.one, asked=[line], given=[["name"]])
    result = attrs.evolve(result, one=one, held_out=[line], two=attrs.evolve(result.two, given=["statement"]))
    assert "statement    ?\n" in shown(result, encoding="ascii")


def test_colours_are_the_model_s(result: Result) -> None:
    """The class that it gave decides, and a mistake is white on red."""
    assert "\x1b[32m'<script>\x1b[0m\x1b[1;37;41m'\x1b[0m" in shown(result, colour=True)


@pytest.mark.parametrize("colour", [True, False])
def test_a_log_is_not_flooded(*, colour: bool) -> None:
    """A bar is for terminals; a file, coloured by force or not, gets the summary alone."""

    def steps() -> Iterator[Step]:
        for number in range(1_000):
            yield Step(1 / (number + 1), Report(1, 8, 40, 48))

    file = io.StringIO()
    screen = Screen(Console(file=file, width=80, force_terminal=colour, color_system="truecolor"))
    with screen.busy("waiting"):
        done = screen.follow(steps(), rows=8_000)
    assert len(done) == 1_000
    assert file.getvalue().count("\n") == 1
    assert "1,000 steps" in file.getvalue()
    assert "\x1b" not in file.getvalue()
