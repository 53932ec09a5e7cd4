"""Tests of the table renderer."""

import pytest
from rich.console import Console, Group

from pipeline.tables import Column, Table

HOSTILE = "<b>x</b> [red]r[/red] \x1b[31m\n"


def render(table: Table, width: int) -> list[str]:
    """Return the lines that rich prints, without styles."""
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(Group(*table.rich()))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_text_and_rich_show_the_same_lines() -> None:
    """Title, rows, totals, notes and the problem, in this order."""
    table = Table(
        ["name", Column("rows", "right")],
        [["a", "1"], ["long", "1,000"]],
        totals=[["total", "1,001"]],
        title="Title",
        notes=["a note"],
        problem="a problem",
    )
    lines = ["Title", "name    rows", "a          1", "long   1,000", "total  1,001", "a note", "a problem"]
    assert table.text().splitlines() == lines
    assert render(table, 80) == lines


def test_hostile_text_has_no_effect() -> None:
    """Control characters are escaped everywhere, markup in rich, and tags in HTML."""
    table = Table([HOSTILE], [[HOSTILE]], totals=[[HOSTILE]], title=HOSTILE, notes=[HOSTILE], problem=HOSTILE)
    escaped = r"<b>x</b> [red]r[/red] \x1b[31m\n"
    assert table.text().splitlines() == [escaped] * 6
    assert render(table, 80) == [escaped] * 6
    html = table.html()
    assert "<b>" not in html
    assert html.isprintable()
    assert html.count("&lt;b&gt;") == 6


def test_narrow_terminals_fold_or_cut() -> None:
    """`fold` shows every character, `cut` one line, `never` the whole cell."""
    cell = "abcdefghijklmnopqrst"
    assert "".join(render(Table(["x"], [[cell]]), 10)[1:]) == cell
    assert render(Table([Column("k", overflow="never"), Column("x", overflow="cut")], [["key", cell]]), 10)[1] == (
        "key  abcd…"
    )


def test_a_column_may_style_its_cells() -> None:
    """The style depends on the text of the cell."""
    console = Console(width=80, force_terminal=True, color_system="standard", no_color=False)
    table = Table([Column("state", style={"ok": "green", "failed": "red"}.__getitem__)], [["ok"], ["failed"]])
    with console.capture() as capture:
        console.print(*table.rich())
    assert "\x1b[32mok" in capture.get()
    assert "\x1b[31mfailed" in capture.get()


def test_a_row_has_one_cell_per_column() -> None:
    """A short row is a mistake of the caller."""
    with pytest.raises(ValueError, match="zip"):
        Table(["a", "b"], [["x"]]).text()
