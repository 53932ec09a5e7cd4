"""`python -m pipeline plugins`: every part that is installed, what it can do, and what is wrong with it."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from typing import Final

import attrs
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.parts.capabilities import Layout, capabilities
from pipeline.registry import Registry
from pipeline.registry.catalogue import Catalogue, Offer, Plugin
from pipeline.registry.sampling import sample
from pipeline.text import plain

_STYLES: Final = {
    "ok": "green",
    "conflict": "yellow",
    "failed": "red",
    "empty": "yellow",
    "blocked": "dim",
    "not chosen": "dim",
}

_BRIEF: Final = ("causal", "bidirectional", "stateful", "exportable")
"""What the list has room for, of all that parts declare."""


@attrs.frozen
class Line:
    """A line of the list: a part, or a plugin that offers none.

    Attributes:
        name: of the part; a dash if there is none.
        kind: of the part: encoder, attention, pool or tokenizer; a dash if there is none.
        plugin: where it comes from.
        state: `ok`; `conflict`, `failed`, `empty`, `blocked` or `not chosen`, and why.
        can: what the part says that it can do, in short; a dash if that is nothing, or there is none.
    """

    name: str
    kind: str
    plugin: Plugin
    state: str
    can: str = "-"


def lines(found: Registry) -> Iterator[Line]:
    """Every part by kind and name, and below them the plugins that offer none.

    Example:
        >>> from pipeline.registry import registry
        >>> next(lines(registry())).kind
        'encoder'
    """
    offering: list[Plugin] = []
    for catalogue, offer in found.parts():
        offering.append(offer.plugin)
        others = [rival.plugin for rival in catalogue.rivals(offer.name) if rival is not offer]
        state = f"conflict: also offered by {' and '.join(map(str, others))}" if others else "ok"
        yield Line(offer.name, catalogue.kind, offer.plugin, state, _brief(declared(catalogue, offer)))
    for plugin in found.plugins:
        if plugin not in offering:
            state = state_of(found, plugin)
            yield Line("-", "-", plugin, f"{state}: entry point {plugin.entry!r}{_why(plugin, state)}")


def listing(console: Console, found: Registry) -> None:
    """Print the list as a table. Cells are folded where the terminal is narrow; nothing is cut off."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("name", "kind", "package", "version", "can", "state"):
        table.add_column(heading, overflow="fold")
    for line in lines(found):
        style = _STYLES[line.state.partition(":")[0]]
        cells = (line.name, line.kind, line.plugin.package, line.plugin.version, line.can)
        table.add_row(*(Text(plain(cell)) for cell in cells), Text(plain(line.state), style))
    console.print(table)


def state_of(found: Registry, plugin: Plugin) -> str:
    """How it stands with a plugin in one word: `ok`, `failed`, `empty`, `blocked` or `not chosen`."""
    if plugin.skipped is not None:
        return plugin.skipped
    if plugin.failure is not None:
        return "failed"
    offering = [*(offer.plugin for _, offer in found.parts()), *(offer.plugin for offer in found.status)]
    return "ok" if plugin in offering else "empty"


def declared(catalogue: Catalogue[object], offer: Offer[object]) -> Mapping[str, bool | tuple[Layout, ...]] | None:
    """What a part says that it can do; None if none can be made with sample options, to be asked.

    Example:
        >>> from pipeline.registry import registry
        >>> encoders = registry().encoders
        >>> declared(encoders, encoders.offer("bilstm"))["bidirectional"]
        True
    """
    if not capabilities(catalogue.base):
        # A kind of which nothing is declared, as tokenizers, which would have to be trained first.
        return {}
    # What it prints belongs to no list.
    with redirect_stdout(sys.stderr):
        part = sample(offer.factory, {"input_size": 4})
        try:
            return capabilities(part) if isinstance(part, catalogue.base) else None
        except Exception:  # noqa: BLE001 - a stranger's property may raise anything
            return None


def _brief(can: Mapping[str, bool | tuple[Layout, ...]] | None) -> str:
    return " ".join(name for name in _BRIEF if (can or {}).get(name) is True) or "-"


def _why(plugin: Plugin, state: str) -> str:
    if plugin.skipped is not None:
        return ""
    if state == "ok":
        return " offers no part, but says how things stand"
    return " offers nothing; it implements no hook" if plugin.failure is None else f": {plugin.failure}"
