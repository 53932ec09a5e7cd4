"""`python -m pipeline plugins`: list installed parts, their capabilities and problems, as a table or as JSON."""

import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from typing import Final, TypedDict

from pipeline.cli.welcome import format_versions
from pipeline.data.batches import Layout
from pipeline.errors import PluginError
from pipeline.parts.encoder import get_capabilities
from pipeline.registry import Catalogue, Offer, Plugin, Registry, look_up_in
from pipeline.registry.sampling import make_sample
from pipeline.tables import Column, Table

_STYLES: Final = {
    "ok": "green",
    "conflict": "yellow",
    "failed": "red",
    "empty": "yellow",
    "blocked": "dim",
    "not chosen": "dim",
}

# The capabilities for which the table has room.
_BRIEF: Final = ("causal", "bidirectional", "stateful", "exportable")


class PluginRecord(TypedDict):
    """An installed plugin; `docs/plugins.md` explains the fields of all records."""

    package: str
    version: str
    entry: str
    state: str
    failure: str | None


class OptionRecord(TypedDict):
    """An option of a part."""

    name: str
    required: bool
    filled_in: bool
    default: object
    annotation: str | None


class PartRecord(TypedDict):
    """A part that a plugin offers."""

    kind: str
    name: str
    hook: str
    package: str
    entry: str
    state: str
    options: list[OptionRecord] | None
    capabilities: dict[str, object] | None


class Inventory(TypedDict):
    """Everything that is installed."""

    schema: int
    versions: str
    plugins: list[PluginRecord]
    parts: list[PartRecord]


def make_inventory(found: Registry) -> Inventory:
    """Return everything that is installed as records that JSON can represent.

    Example:
        >>> from pipeline.registry import registry
        >>> part = make_inventory(registry())["parts"][0]
        >>> part["kind"], part["hook"], part["options"][0]["name"]
        ('encoder', 'pipeline_encoders', 'input_size')
    """
    return {
        "schema": 1,
        "versions": format_versions(),
        "plugins": [
            {
                "package": plugin.package,
                "version": plugin.version,
                "entry": plugin.entry,
                "state": get_state(found, plugin),
                "failure": plugin.failure,
            }
            for plugin in found.plugins
        ],
        "parts": [_make_part_record(catalogue, offer) for catalogue, offer in found.parts()],
    }


def dump_inventory(found: Registry) -> str:
    """Return everything that is installed as JSON, in ASCII."""
    with look_up_in(found):
        return json.dumps(make_inventory(found), indent=2, allow_nan=False)


def make_table(found: Registry) -> Table:
    """Return a table of all parts, sorted by kind and name, and of the plugins without parts at its end.

    Example:
        >>> from pipeline.registry import registry
        >>> make_table(registry()).rows[0][:2]
        ['bigru', 'encoder']
    """
    headings = ("name", "kind", "package", "version", "can")
    state = Column("state", style=lambda cell: _STYLES[cell.partition(":")[0]])
    # A part that is made to read its attributes may contain others by name.
    with look_up_in(found):
        return Table([*headings, state], [*_make_part_rows(found), *_make_plugin_rows(found)])


def _make_part_rows(found: Registry) -> Iterator[list[str]]:
    for catalogue, offer in found.parts():
        others = [other.plugin for other in catalogue.offers_of(offer.name) if other is not offer]
        state = f"conflict: also offered by {' and '.join(map(str, others))}" if others else "ok"
        declared = get_declared(catalogue, offer) or {}
        can = " ".join(name for name in _BRIEF if declared.get(name) is True) or "-"
        yield [offer.name, catalogue.kind, offer.plugin.package, offer.plugin.version, can, state]


def _make_plugin_rows(found: Registry) -> Iterator[list[str]]:
    offering = [offer.plugin for _, offer in found.parts()]
    for plugin in found.plugins:
        if plugin not in offering:
            state = get_state(found, plugin)
            reasons = {
                "ok": " offers no parts, but reports status lines",
                "empty": " offers nothing; it implements no hook",
                "failed": f": {plugin.failure}",
            }
            text = f"{state}: entry point {plugin.entry!r}{reasons.get(state, '')}"
            yield ["-", "-", plugin.package, plugin.version, "-", text]


def get_state(found: Registry, plugin: Plugin) -> str:
    """Return a plugin's state: `ok`, `failed`, `empty`, `blocked` or `not chosen`."""
    if plugin.skipped is not None:
        return plugin.skipped
    if plugin.failure is not None:
        return "failed"
    offering = [*(offer.plugin for _, offer in found.parts()), *(offer.plugin for offer in found.status)]
    return "ok" if plugin in offering else "empty"


def get_declared(catalogue: Catalogue[object], offer: Offer[object]) -> Mapping[str, bool | tuple[Layout, ...]] | None:
    """Return the attributes that a part declares; None if it cannot be created with sample options.

    Example:
        >>> from pipeline.registry import registry
        >>> encoders = registry().encoders
        >>> get_declared(encoders, encoders.offer("bilstm"))["bidirectional"]
        True
    """
    if not get_capabilities(catalogue.base):
        # Tokenizers declare nothing. None is created, because it would have to be trained first.
        return {}
    # Anything that a plugin prints must not end up in the output, which may be JSON.
    with redirect_stdout(sys.stderr):
        part = make_sample(offer.factory, {"input_size": 4})
        try:
            return get_capabilities(part) if isinstance(part, catalogue.base) else None
        except Exception:  # noqa: BLE001 - a plugin's property may raise anything
            return None


def _make_part_record(catalogue: Catalogue[object], offer: Offer[object]) -> PartRecord:
    declared = get_declared(catalogue, offer)
    return {
        "kind": catalogue.kind,
        "name": offer.name,
        "hook": catalogue.hook,
        "package": offer.plugin.package,
        "entry": offer.plugin.entry,
        "state": "ok" if len(catalogue.offers_of(offer.name)) == 1 else "conflict",
        "options": _make_option_records(catalogue, offer),
        "capabilities": None if declared is None else {name: _to_json(value) for name, value in declared.items()},
    }


def _make_option_records(catalogue: Catalogue[object], offer: Offer[object]) -> list[OptionRecord] | None:
    try:
        parameters = catalogue.parameters(offer)
    except PluginError:
        return None
    return [
        {
            "name": name,
            "required": parameter.default is parameter.empty,
            "filled_in": name == catalogue.stage_option,
            "default": None if parameter.default is parameter.empty else _to_json(parameter.default),
            "annotation": _format_annotation(parameter),
        }
        for name, parameter in parameters.items()
    ]


def _format_annotation(parameter: inspect.Parameter) -> str | None:
    annotation: object = parameter.annotation
    if annotation is parameter.empty:
        return None
    return annotation if isinstance(annotation, str) else _format(annotation, inspect.formatannotation)


def _to_json(value: object) -> object:
    """Return a value that JSON can represent unchanged, and the repr of any other."""
    try:
        json.dumps(value, allow_nan=False)
    except Exception:  # noqa: BLE001 - a default may be any object
        return _format(value, repr)
    return value


def _format(value: object, show: Callable[[object], str]) -> str:
    try:
        return show(value)
    except Exception:  # noqa: BLE001 - the repr of a plugin's object may fail
        return f"<{type(value).__name__}>"
