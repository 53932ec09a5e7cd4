"""`python -m pipeline plugins`: every part that is installed, and what is wrong with it."""

from collections.abc import Iterator

import attrs
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.catalogue import Plugin
from pipeline.registry import Registry

_STYLES = {"ok": "green", "conflict": "yellow", "failed": "red", "empty": "yellow"}


@attrs.frozen
class Line:
    """A line of the list: a part, or a plugin that offers none.

    Attributes:
        name: of the part; a dash if there is none.
        kind: of the part: encoder, attention, pool or tokenizer; a dash if there is none.
        plugin: where it comes from.
        state: `ok`; `conflict`, `failed` or `empty`, and why.
    """

    name: str
    kind: str
    plugin: Plugin
    state: str


def lines(found: Registry) -> Iterator[Line]:
    """Every part by kind and name, and below them the plugins that offer none.

    Example:
        >>> from pipeline.registry import registry
        >>> next(lines(registry())).kind
        'encoder'
    """
    offering: list[Plugin] = []
    for catalogue in found.catalogues():
        for offer in (offer for name in catalogue.names() for offer in catalogue.rivals(name)):
            offering.append(offer.plugin)
            others = [rival.plugin for rival in catalogue.rivals(offer.name) if rival is not offer]
            state = f"conflict: also offered by {' and '.join(map(str, others))}" if others else "ok"
            yield Line(offer.name, catalogue.kind, offer.plugin, state)
    for plugin in found.plugins:
        if plugin.failure is not None:
            yield Line("-", "-", plugin, f"failed: entry point {plugin.entry!r}: {plugin.failure}")
        elif plugin not in offering:
            yield Line("-", "-", plugin, f"empty: entry point {plugin.entry!r} offers nothing; it implements no hook")


def listing(console: Console, found: Registry) -> None:
    """Print the list as a table. Cells are folded where the terminal is narrow; nothing is cut off."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("name", "kind", "package", "version", "state"):
        table.add_column(heading, overflow="fold")
    for line in lines(found):
        style = _STYLES[line.state.partition(":")[0]]
        cells = (line.name, line.kind, line.plugin.package, line.plugin.version)
        table.add_row(*map(_plain, cells), _plain(line.state, style))
    console.print(table)


def _plain(words: str, style: str = "") -> Text:
    """A stranger's words as they are: no markup in them is obeyed, and no control character reaches the terminal."""
    return Text("".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in words), style)
