"""Measurements, and the tables in which their results are shown."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeAlias

import attrs
from rich.table import Table

from bench.record import Result

Extent: TypeAlias = Literal["quick", "default", "full"]
"""A few points within two minutes, the default points, or the whole grid of sizes."""


@attrs.frozen
class ReportTable:
    """A table for the terminal or for a page of Markdown.

    Example:
        >>> print(ReportTable("Heights", ["name", "metres"], [["a | b", "2"]]).to_markdown())
        ### Heights
        <BLANKLINE>
        | name | metres |
        | --- | --- |
        | a / b | 2 |
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def to_rich(self) -> Table:
        """Convert to a table for the terminal."""
        table = Table(*self.headings, title=self.title, caption="\n".join(self.notes), title_justify="left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def to_markdown(self) -> str:
        """Convert to Markdown; `|` inside a cell becomes `/`."""
        lines = [f"### {self.title}", "", _join_cells(self.headings), _join_cells(["---"] * len(self.headings))]
        lines += [_join_cells(row) for row in self.rows]
        for note in self.notes:
            lines += ["", note]
        return "\n".join(lines)


def _join_cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


@attrs.frozen
class Measurement:
    """A named measurement.

    Attributes:
        name: its name on the command line.
        measure: measures point by point.
        tabulate: makes the table of the results.
        quick: whether it is part of a quick run.
    """

    name: str
    measure: Callable[[Extent], Iterator[Result]]
    tabulate: Callable[[Sequence[Result]], ReportTable]
    quick: bool = False
