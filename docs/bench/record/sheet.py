"""A table, for a terminal or for a page."""

from collections.abc import Sequence

import attrs
from rich.table import Table


@attrs.frozen
class Sheet:
    """Rows of cells under headings.

    Example:
        >>> print(Sheet("Heights", ["who", "metres"], [["a | b", "2"]]).markdown())
        ### Heights
        <BLANKLINE>
        | who | metres |
        | --- | --- |
        | a / b | 2 |
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def table(self) -> Table:
        """For a terminal."""
        table = Table(*self.headings, title=self.title, caption="\n".join(self.notes), title_justify="left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For a page."""
        lines = [f"### {self.title}", "", _line(self.headings), _line(["---"] * len(self.headings))]
        lines += [_line(row) for row in self.rows]
        for note in self.notes:
            lines += ["", note]
        return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
