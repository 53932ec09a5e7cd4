"""A forecast in words: a line a policy, as text, for a terminal, and for a notebook."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Final, final

import attrs
from rich.console import RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from pipeline.forecast.histogram import Histogram
from pipeline.forecast.outlook import PolicyForecast
from pipeline.text import plain

HEADINGS: Final = (
    "policy",
    "padding",
    "batches a rank",
    "rows a batch",
    "largest batch",
    "correlation",
    "mates again",
)

_MEANING: Final = (
    "padding: share of the padded steps. rows a batch: quartiles. largest batch: rows x steps.",
    "correlation: of the mean lengths of a rank's neighbouring batches; 0 is random.",
    "mates again: pairs of rows of a batch that share one in the next epoch too.",
)

# Of grey with some of it let through, so that lines show on light and on dark pages.
_LINE: Final = "border-top:1px solid rgba(128,128,128,.4)"
_CELL: Final = "padding:.2em .8em .2em 0;vertical-align:top;color:inherit;background:transparent"


@final
@attrs.frozen
class Table:
    """A forecast in words.

    Attributes:
        title: what was forecast.
        headings: of the columns.
        rows: a policy's figures each; a policy that cannot be planned has its name alone.
        notes: what the figures mean, how they were found, and why some are missing.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]

    @classmethod
    def of(cls, histogram: Histogram, outlooks: Mapping[str, PolicyForecast], world_size: int) -> "Table":
        """The table of some outlooks."""
        with_memory = any(outlook.memory is not None for outlook in outlooks.values())
        headings = (*HEADINGS, *(["peak memory"] if with_memory else []))
        rows = [[plain(name), *_figures(outlook, with_memory=with_memory)] for name, outlook in outlooks.items()]
        shortest = int(histogram.lengths[0]) if histogram.rows else 0
        title = (
            f"{histogram.rows:,} rows of {shortest:,} to {histogram.longest:,} steps, {histogram.steps:,} together; "
            f"{world_size:,} {'rank' if world_size == 1 else 'ranks'}"
        )
        return cls(title, headings, rows, list(_notes(outlooks)))

    def text(self) -> str:
        """As plain text."""
        widths = [max(map(len, column)) for column in zip(self.headings, *self.rows, strict=True)]
        lines = (
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in _numbers(row, widths))]).rstrip()
            for row in (self.headings, *self.rows)
        )
        return "\n".join([self.title, *lines, *self.notes])

    def rich(self) -> Iterator[RenderableType]:
        """For a terminal: cells are folded where it is narrow; nothing is cut off."""
        yield Text(self.title, "bold")
        table = RichTable(box=None, pad_edge=False, header_style="bold")
        for index, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if index else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*map(Text, row))
        yield table
        for note in self.notes:
            yield Text(note, "dim")

    def html(self) -> str:
        """For a notebook: nothing is fetched, and colours are the page's own."""
        head = _row("th", self.headings, "font-weight:bold")
        body = "".join(_row("td", row, _LINE) for row in self.rows)
        notes = "".join(f'<div style="opacity:.7">{escape(note)}</div>' for note in self.notes)
        return (
            f'<div style="font-size:90%;color:inherit"><strong>{escape(self.title)}</strong>'
            '<table style="border-collapse:collapse;color:inherit;background:transparent">'
            f"<thead>{head}</thead><tbody>{body}</tbody></table>{notes}</div>"
        )


def _figures(outlook: PolicyForecast, *, with_memory: bool) -> Iterator[str]:
    if outlook.problem is not None:
        yield from ["-"] * (len(HEADINGS) - 1 + with_memory)
        return
    yield f"{outlook.report.wasted:.1%}"
    yield f"{outlook.batches:,}"
    yield " · ".join(f"{quartile:,.0f}" for quartile in outlook.rows)
    rows, *steps = outlook.largest
    yield f"{rows:,} x {' + '.join(f'{number:,}' for number in steps)} = {rows * sum(steps):,}"
    yield f"{outlook.correlation:+.2f}"
    yield f"{outlook.mates:.1%}"
    if with_memory:
        yield "-" if outlook.memory is None else str(outlook.memory)


def _notes(outlooks: Mapping[str, PolicyForecast]) -> Iterator[str]:
    yield from _MEANING
    if any(not outlook.exact for outlook in outlooks.values()):
        yield "From a histogram: of one pool exactly; of several, by pools drawn as a plan draws them."
    methods = {outlook.memory.method for outlook in outlooks.values() if outlook.memory is not None}
    yield from (f"peak memory: {method}." for method in sorted(methods))
    for name, outlook in outlooks.items():
        if outlook.problem is not None:
            yield plain(f"{name}: {outlook.problem}")


def _numbers(row: Sequence[str], widths: Sequence[int]) -> Iterator[tuple[str, int]]:
    return zip(row[1:], widths[1:], strict=True)


def _row(tag: str, cells: Sequence[str], style: str) -> str:
    aligned = (
        f'<{tag} style="{_CELL};text-align:{"right" if index else "left"};{style}">{escape(cell)}</{tag}>'
        for index, cell in enumerate(cells)
    )
    return f"<tr>{''.join(aligned)}</tr>"
