"""Tables of plain text, rendered as text, for a terminal (rich) and as HTML for notebooks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Final, Literal, final

import attrs
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from pipeline.text import escape_control_characters

# Half-transparent grey, so that lines show on light and on dark pages.
_LINE: Final = "border-top:1px solid rgba(128,128,128,.4)"
_CELL: Final = "padding:.2em .8em .2em 0;vertical-align:top;color:inherit;background:transparent"
_TABLE: Final = "border-collapse:collapse;color:inherit;background:transparent;font-size:90%"


@final
@attrs.frozen
class Column:
    """A column of a `Table`.

    Attributes:
        heading: the text above the column.
        align: the side on which cells are aligned.
        overflow: what a narrow terminal does with long cells: `fold` them onto more lines, `never` shorten them, or
            `cut` them with an ellipsis. A `cut` column gets the width that the others leave.
        style: the rich style of a cell, from its text; None for no style.
    """

    heading: str = attrs.field(converter=escape_control_characters)
    align: Literal["left", "right"] = "left"
    overflow: Literal["fold", "never", "cut"] = "fold"
    style: Callable[[str], str] | None = None


def _to_columns(columns: Sequence[Column | str]) -> Sequence[Column]:
    return [Column(column) if isinstance(column, str) else column for column in columns]


def _escape_rows(rows: Sequence[Sequence[str]]) -> Sequence[Sequence[str]]:
    return [[escape_control_characters(cell) for cell in row] for row in rows]


def _escape_lines(lines: Sequence[str]) -> Sequence[str]:
    return [escape_control_characters(line) for line in lines]


@final
@attrs.frozen
class Table:
    """A table whose cells are text, whatever they hold: no control character, markup or tag in them has an effect.

    Attributes:
        columns: the columns, or their headings.
        rows: one cell per column in each.
        totals: rows at the end, in bold.
        title: a line above the table; empty for none.
        notes: lines below the table.
        problem: a line at the very end that reports an error; empty for none.

    Example:
        >>> table = Table(["stage", Column("weights", "right")], [["embed", "36"], ["pool", "1,024"]], notes=["done"])
        >>> print(table.text())
        stage  weights
        embed       36
        pool     1,024
        done
        >>> table.html().count("<tr")
        3
    """

    columns: Sequence[Column] = attrs.field(converter=_to_columns)
    rows: Sequence[Sequence[str]] = attrs.field(converter=_escape_rows)
    totals: Sequence[Sequence[str]] = attrs.field(default=(), converter=_escape_rows, kw_only=True)
    title: str = attrs.field(default="", converter=escape_control_characters, kw_only=True)
    notes: Sequence[str] = attrs.field(default=(), converter=_escape_lines, kw_only=True)
    problem: str = attrs.field(default="", converter=escape_control_characters, kw_only=True)

    def text(self) -> str:
        """Return the table as plain text: aligned columns, two spaces apart."""
        rows = [[column.heading for column in self.columns], *self.rows, *self.totals]
        widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
        lines = ("  ".join(map(_justify, self.columns, row, widths)).rstrip() for row in rows)
        above = [self.title] if self.title else []
        below = [self.problem] if self.problem else []
        return "\n".join([*above, *lines, *self.notes, *below])

    def rich(self) -> Iterator[RenderableType]:
        """Yield what rich prints."""
        if self.title:
            yield Text(self.title, "bold")
        cut = any(column.overflow == "cut" for column in self.columns)
        table = RichTable(box=None, pad_edge=False, header_style="bold", expand=cut)
        for column in self.columns:
            table.add_column(
                Text(column.heading),
                justify=column.align,
                no_wrap=column.overflow != "fold",
                overflow="ellipsis" if column.overflow == "cut" else "fold",
                ratio=1 if column.overflow == "cut" else None,
            )
        for row in self.rows:
            table.add_row(*map(_style_cell, self.columns, row))
        for row in self.totals:
            table.add_row(*(Text(cell, "bold") for cell in row))
        # Text objects everywhere: rich would take a plain string for markup, and [red] in a name for a color.
        yield table
        yield from (Text(note, "dim") for note in self.notes)
        if self.problem:
            yield Text(self.problem, "red")

    def html(self) -> str:
        """Return the table as HTML for a notebook: nothing is fetched, and colors are the page's own."""
        head = self._format_html_row("th", [column.heading for column in self.columns], "font-weight:bold")
        body = [self._format_html_row("td", row, _LINE) for row in self.rows]
        # Only the first row of the totals has a line above it.
        body += [
            self._format_html_row("td", row, f"font-weight:bold;{'' if index else _LINE}")
            for index, row in enumerate(self.totals)
        ]
        title = f'<strong style="color:inherit">{escape(self.title)}</strong>' if self.title else ""
        notes = [f'<div style="color:inherit;opacity:.7">{escape(note)}</div>' for note in self.notes]
        problem = f'<p style="color:inherit"><strong>{escape(self.problem)}</strong></p>' if self.problem else ""
        table = f'<table style="{_TABLE}"><thead>{head}</thead><tbody>{"".join(body)}</tbody></table>'
        return "".join([title, table, *notes, problem])

    def _format_html_row(self, tag: str, row: Sequence[str], style: str) -> str:
        cells = (
            f'<{tag} style="{_CELL};text-align:{column.align};{style}">{escape(cell)}</{tag}>'
            for column, cell in zip(self.columns, row, strict=True)
        )
        return f"<tr>{''.join(cells)}</tr>"


class ShownAsTable(ABC):
    """Base of results that are shown as a table: by `print`, by rich on a terminal, and in notebooks."""

    __slots__ = ()

    @abstractmethod
    def table(self) -> Table:
        """Return the result as a table."""

    def __str__(self) -> str:
        return self.table().text()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.table().rich()

    def _repr_html_(self) -> str:
        return self.table().html()


def _justify(column: Column, cell: str, width: int) -> str:
    return cell.rjust(width) if column.align == "right" else cell.ljust(width)


def _style_cell(column: Column, cell: str) -> Text:
    return Text(cell, "" if column.style is None else column.style(cell))
