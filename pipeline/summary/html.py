"""A pipe as a table of HTML, for notebooks: nothing is fetched, and colours are the page's own."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from pipeline.summary.summary import HEADINGS, Summary
from pipeline.text import plain

# Of grey with some of it let through, so that lines show on light and on dark pages.
_LINE: Final = "border-top:1px solid rgba(128,128,128,.4)"
_CELL: Final = "padding:.2em .8em .2em 0;vertical-align:top;color:inherit;background:transparent"


def page(overview: Summary) -> str:
    """The table as HTML; every name in it is text, whatever it holds.

    Example:
        >>> from pipeline import Classify, Pool
        >>> page((Pool("max") >> Classify(3, input_size=8)).check()).count("<tr")
        5
    """
    return "".join(_parts(overview))


def _parts(overview: Summary) -> Iterator[str]:
    yield '<table style="border-collapse:collapse;color:inherit;background:transparent;font-size:90%">'
    yield f"<thead>{_row('th', [*HEADINGS, 'notes'], 'font-weight:bold')}</thead><tbody>"
    notes = ["", *(", ".join(entry.notes) for entry in overview.entries)]
    for cells, note in zip(overview.stages(), notes, strict=True):
        yield _row("td", [*cells, plain(note)], _LINE)
    for index, cells in enumerate(overview.totals()):
        yield _row("td", [*cells, ""], f"font-weight:bold;{_LINE if index == 0 else ''}")
    yield "</tbody></table>"
    if overview.problem is not None:
        yield f'<p style="color:inherit"><strong>{escape(overview.trouble())}</strong></p>'


def _row(tag: str, cells: Sequence[str], style: str) -> str:
    sides = ["right" if heading == "parameters" else "left" for heading in (*HEADINGS, "notes")]
    aligned = (
        f'<{tag} style="{_CELL};text-align:{side};{style}">{escape(cell)}</{tag}>'
        for side, cell in zip(sides, cells, strict=True)
    )
    return f"<tr>{''.join(aligned)}</tr>"
