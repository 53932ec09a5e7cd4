"""Output in wide and narrow terminals, with and without colours, and in logs."""

import io

import attrs
import pytest
from rich.console import Console

from demo.conftest import make_history
from highlight.results import Result
from highlight.saved import PROGRAM
from highlight.source import Line
from highlight.terminal import Screen, show
from pipeline.training import History


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
    """Only what is to be copied may be wider than the terminal: paths and the program."""
    lines = shown(result, width=width).splitlines()
    whole = {f"    {line}".rstrip() for line in PROGRAM.splitlines()}
    paths = (str(result.page), str(result.saved.folder))
    assert all(len(line) <= width for line in lines if line not in whole and not line.endswith(paths))


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
    shows = list[bool | None]()

    def train(progress: bool | None) -> History:
        shows.append(progress)
        return make_history(1.5, 0.25)

    file = io.StringIO()
    screen = Screen(Console(file=file, width=90, force_terminal=colour, color_system="truecolor"))
    with screen.busy("waiting"):
        assert len(screen.follow(train)) == 2
    assert shows == [False]
    text = file.getvalue()
    assert text == "1,000 optimizer steps in 3.0 s: loss 1.500 in the first epoch, 0.250 in the last\n"


def test_the_program_that_loads_the_pipe_is_shown(result: Result) -> None:
    """As it runs, with its result."""
    text = shown(result)
    assert "12,345 bytes" in text
    assert all(f"    {line}".rstrip() in text for line in PROGRAM.splitlines())
