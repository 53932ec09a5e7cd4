"""`python -m pipeline plugins --json`: what is installed, for programs."""

import inspect
import json
from typing import TypedDict

from pipeline.cli.plugins import declared, state_of
from pipeline.cli.welcome import versions
from pipeline.errors import PluginError
from pipeline.registry import Registry
from pipeline.registry.catalogue import Catalogue, Offer, Plugin


class PluginRecord(TypedDict):
    """A plugin that is installed.

    Attributes:
        package: the distribution that it came with; a question mark if its metadata does not say.
        version: of that distribution; likewise.
        entry: the name of its entry point.
        state: `ok`, `failed`, `empty` (it offers nothing), `blocked` or `not chosen`.
        failure: why it could not be loaded; null if it was, or was not to be.
    """

    package: str
    version: str
    entry: str
    state: str
    failure: str | None


class OptionRecord(TypedDict):
    """An option of a part.

    Attributes:
        name: as it is written in a call.
        required: whether it has no default.
        filled_in: whether a stage fills it in when it is left out: an input size, or the texts to train on.
        default: null for one that is required; a value that JSON has no word for as Python shows it.
        annotation: its type as Python shows it; null if it has none.
    """

    name: str
    required: bool
    filled_in: bool
    default: object
    annotation: str | None


class PartRecord(TypedDict):
    """A part that a plugin offers.

    Attributes:
        kind: `encoder`, `attention`, `pool` or `tokenizer`.
        name: what it is asked for by.
        hook: through which it is offered.
        package: of the plugin that offers it.
        entry: of that plugin.
        state: `ok`, or `conflict` if another plugin offers the name too.
        options: in the order of its signature; null if they cannot be read, or break a rule.
        capabilities: what it declares, when made with small options; null if it cannot be made with any; empty
            for a kind that declares nothing, as tokenizers.
    """

    kind: str
    name: str
    hook: str
    package: str
    entry: str
    state: str
    options: list[OptionRecord] | None
    capabilities: dict[str, object] | None


class Inventory(TypedDict):
    """Everything that is installed.

    Attributes:
        schema: 1; another number when a field changes its meaning or goes; new ones may come without.
        versions: of the library, torch and Python, as one text.
        plugins: in the order in which they are loaded.
        parts: by kind, and by name within it.
    """

    schema: int
    versions: str
    plugins: list[PluginRecord]
    parts: list[PartRecord]


def inventory(found: Registry) -> Inventory:
    """What is installed, as records that are JSON when they are dumped.

    Example:
        >>> from pipeline.registry import registry
        >>> part = inventory(registry())["parts"][0]
        >>> part["kind"], part["hook"], part["options"][0]["name"]
        ('encoder', 'pipeline_encoders', 'input_size')
    """
    return {
        "schema": 1,
        "versions": versions(),
        "plugins": [_plugin(found, plugin) for plugin in found.plugins],
        "parts": [_part(catalogue, offer) for catalogue, offer in found.parts()],
    }


def dumped(found: Registry) -> str:
    """What is installed as JSON, in letters that any file can hold."""
    return json.dumps(inventory(found), indent=2, allow_nan=False)


def _plugin(found: Registry, plugin: Plugin) -> PluginRecord:
    return {
        "package": plugin.package,
        "version": plugin.version,
        "entry": plugin.entry,
        "state": state_of(found, plugin),
        "failure": plugin.failure,
    }


def _part(catalogue: Catalogue[object], offer: Offer[object]) -> PartRecord:
    can = declared(catalogue, offer)
    return {
        "kind": catalogue.kind,
        "name": offer.name,
        "hook": catalogue.hook,
        "package": offer.plugin.package,
        "entry": offer.plugin.entry,
        "state": "ok" if len(catalogue.rivals(offer.name)) == 1 else "conflict",
        "options": _options(catalogue, offer),
        "capabilities": None if can is None else {name: _as_json(value) for name, value in can.items()},
    }


def _options(catalogue: Catalogue[object], offer: Offer[object]) -> list[OptionRecord] | None:
    try:
        takes = catalogue.takes(offer)
    except PluginError:
        return None
    return [
        {
            "name": name,
            "required": parameter.default is parameter.empty,
            "filled_in": name == catalogue.given,
            "default": None if parameter.default is parameter.empty else _as_json(parameter.default),
            "annotation": _annotation(parameter),
        }
        for name, parameter in takes.items()
    ]


def _annotation(parameter: inspect.Parameter) -> str | None:
    written: object = parameter.annotation
    if written is parameter.empty:
        return None
    if isinstance(written, str):
        return written
    try:
        return inspect.formatannotation(written)
    except Exception:  # noqa: BLE001 - a stranger's object may be shown by code that fails
        return f"<{type(written).__name__}>"


def _as_json(value: object) -> object:
    """A value that JSON can spell, as it is; of any other, what Python shows."""
    try:
        json.dumps(value, allow_nan=False)
    except Exception:  # noqa: BLE001 - it may be anything
        try:
            return repr(value)
        except Exception:  # noqa: BLE001
            return f"<{type(value).__name__}>"
    return value
