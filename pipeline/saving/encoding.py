"""The configuration of a pipe as JSON: stages, parts and their options by registered names.

A JSON object is always one tagged value:

    {"stage": "pack", "options": {...}}    a part, by its kind and its registered name; "arguments" are positional
    {"chain": [...]}                       stages joined by >>
    {"ref": 3}                             the part with "id" 3 once more: the same object, so that weights are shared
    {"labels": 0}                          labels, from the table at the end of the file
    {"kind": ...}, {"record": name}        a kind of sequences, a class of fields
    {"outcome": name}                      a class of joint predictions
    {"through": ...}, {"unused": true}     what EmbedFields takes for a field
    {"read": ..., "columns": [...]}        what FromColumns takes for a field
    {"targets": name, "options": {...}}    a type of targets
    {"tuple": [...]}, {"mapping": {...}}, {"float": "inf"}, {"dtype": "float32"}
"""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Final, cast

import attrs
import torch
from torch import nn

from pipeline.core.chain import Chain, TypePreservingChain
from pipeline.core.stage import StageBase
from pipeline.core.stream_chain import StreamChain
from pipeline.data.kinds import Composite, Kind, get_kind_class
from pipeline.errors import SaveError
from pipeline.labels import Labels
from pipeline.parts.config import POSITIONAL, read_config
from pipeline.parts.deferred import Deferred
from pipeline.parts.tokenizer import Tokenizer
from pipeline.registry import Registry, registry
from pipeline.registry.catalogue import Catalogue, Offer, Plugin
from pipeline.saving.json_files import Json
from pipeline.saving.records import describe_record, encode_kind, list_outcome_fields
from pipeline.saving.weights import list_frozen
from pipeline.stages.embed_fields import Through, Unused
from pipeline.stages.from_columns import Reader
from pipeline.stages.texts import Texts
from pipeline.targets import MultiLabels, Numbers, TargetType
from pipeline.text import format_error

PART_KINDS: Final = ("stage", "head", "embedder", "encoder", "attention", "pool", "policy")
"""The kinds of parts that a configuration may name. Sources, for example, are not among them: they read files."""

TARGETS: Final[Mapping[str, type[TargetType]]] = {"numbers": Numbers, "multi_labels": MultiLabels, "texts": Texts}
"""The types of targets by name, other than labels."""

_CHAINS: Final[tuple[object, ...]] = (Chain, StreamChain, TypePreservingChain)

_MAX_DEPTH: Final = 40
"""Limit of parts within parts; the file may be nested twice as deep."""


@attrs.define
class Encoded:
    """A pipe as JSON, and what belongs to it but is no JSON.

    Attributes:
        config: the content of `pipeline.json`.
        tokenizers: the tokenizers, each once; the configuration names them by their index.
        plugins: the plugins that offer the parts, with the parts that each offers.
        classes: the classes of fields and of joint predictions.
    """

    config: dict[str, Json]
    tokenizers: list[Tokenizer]
    plugins: dict[Plugin, list[str]]
    classes: list[type]


def encode_pipe(pipe: StageBase) -> Encoded:
    """Return the configuration of a pipe.

    Raises:
        SaveError: if a part has no registered name, or an option cannot be written.
    """
    writer = _Writer()
    found = writer.encode(pipe, "pipe", 0)
    config: dict[str, Json] = {
        "pipe": found,
        "labels": [list(labels.names) for labels in writer.labels],
        "records": {name: describe_record(record) for name, record in writer.records.items()},
        "outcomes": {name: cast("Json", list_outcome_fields(outcome)) for name, outcome in writer.outcomes.items()},
        "tokenizers": [],
        "frozen": cast("Json", list_frozen(pipe) if isinstance(pipe, nn.Module) else []),
    }
    classes = [*writer.records.values(), *writer.outcomes.values()]
    return Encoded(config, writer.tokenizers, writer.plugins, classes)


def get_part_catalogues(found: Registry) -> dict[str, Catalogue[object]]:
    """Return the catalogues of the kinds of parts that a configuration may name."""
    return {each.kind: each for each in found.catalogues() if each.kind in PART_KINDS}


class _Writer:
    """Encodes values, and collects the tables."""

    def __init__(self) -> None:
        self.labels: list[Labels] = []
        self.records: dict[str, type[Composite]] = {}
        self.outcomes: dict[str, type] = {}
        self.tokenizers: list[Tokenizer] = []
        self.plugins: dict[Plugin, list[str]] = {}
        # Parts and their nodes by identity, so that a part that occurs twice becomes a reference.
        self._nodes: dict[int, dict[str, Json]] = {}
        self._ids = 0
        self._catalogues = get_part_catalogues(registry())

    def encode(self, value: object, where: str, depth: int) -> Json:
        if depth > _MAX_DEPTH:
            msg = f"{where[:200]} is nested deeper than {_MAX_DEPTH} parts; make it flatter."
            raise SaveError(msg)
        if value is None or type(value) in {bool, int, str, float}:
            infinite = isinstance(value, float) and not math.isfinite(value)
            return {"float": str(value)} if infinite else cast("Json", value)
        if type(value) is list:
            return self._encode_items(cast("list[object]", value), where, depth)
        if type(value) is tuple:
            return {"tuple": self._encode_items(cast("tuple[object, ...]", value), where, depth)}
        if isinstance(value, Mapping):
            return {"mapping": self._encode_mapping(cast("Mapping[object, object]", value), where, depth)}
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        return self._encode_type(value, where) or self._encode_object(value, where, depth)

    def _encode_items(self, values: Sequence[object], where: str, depth: int) -> list[Json]:
        return [self.encode(each, f"{where}[{index}]", depth + 1) for index, each in enumerate(values)]

    def _encode_mapping(self, values: Mapping[object, object], where: str, depth: int) -> dict[str, Json]:
        wrong = next((key for key in values if not isinstance(key, str)), None)
        if wrong is not None:
            msg = f"{where} must have texts as keys to be saved, got {wrong!r:.60}; convert the keys."
            raise SaveError(msg, where=where)
        return {str(key): self.encode(each, f"{where}[{key!r}]", depth + 1) for key, each in values.items()}

    def _encode_type(self, value: object, where: str) -> Json:
        """Return the description of a kind or a class; None if the value is neither."""
        kind = get_kind_class(value)
        if isinstance(kind, type) and issubclass(kind, Composite):
            return {"record": _add_class(self.records, kind)}
        if isinstance(kind, type) and issubclass(kind, Kind):
            return {"kind": encode_kind(value)}
        if where.endswith(".into") and callable(value):
            list_outcome_fields(value)
            return {"outcome": _add_class(self.outcomes, cast("type", value))}
        return None

    def _encode_object(self, value: object, where: str, depth: int) -> Json:
        if isinstance(value, Labels):
            # By identity first, since comparing millions of names takes time.
            index = next((index for index, each in enumerate(self.labels) if each is value or each == value), None)
            if index is None:
                self.labels.append(value)
            return {"labels": len(self.labels) - 1 if index is None else index}
        if isinstance(value, Through):
            return {"through": self.encode(value.stage, where, depth + 1)}
        if isinstance(value, Unused):
            return {"unused": True}
        if isinstance(value, Reader):
            columns = cast("list[Json]", list(value.columns))
            return {"read": self.encode(value.stage, where, depth + 1), "columns": columns}
        name = next((name for name, cls in TARGETS.items() if type(value) is cls), None)
        if name is not None:
            options = self._encode_mapping(cast("Mapping[object, object]", read_config(value)), where, depth)
            return {"targets": name, "options": options}
        return self._encode_shared(value, where, depth)

    def _encode_shared(self, value: object, where: str, depth: int) -> Json:
        """Return the node of a part, or a reference to it if it has one already."""
        node = self._nodes.get(id(value))
        if node is not None:
            if "id" not in node:
                self._ids += 1
                node["id"] = self._ids
            return {"ref": node["id"]}
        node = self._encode_new(value, where, depth)
        self._nodes[id(value)] = node
        return node

    def _encode_new(self, value: object, where: str, depth: int) -> dict[str, Json]:
        if isinstance(value, Tokenizer):
            self.tokenizers.append(value)
            return {"tokenizer": len(self.tokenizers) - 1}
        if type(value) in _CHAINS:
            stages, name = (
                cast("Mapping[str, StageBase]", getattr(value, "stages", {})),
                cast("Json", getattr(value, "name", None)),
            )
            found = [self.encode(stage, f"{where}.{name}", depth + 1) for name, stage in stages.items()]
            return {"chain": found} if name is None else {"chain": found, "name": name}
        return self._encode_part(value, where, depth)

    def _encode_part(self, part: object, where: str, depth: int) -> dict[str, Json]:
        catalogue, offer = self._find_offer(part, where)
        self._use(offer, catalogue.kind)
        for other, name in _list_named_parts(part):
            self._use(other.offer(name), other.kind)
        try:
            config = dict(read_config(part))
        except SaveError as error:
            msg = f"{where}: {error}"
            raise SaveError(msg, **{**error.details, "where": where}) from error
        except Exception as error:
            # For example of a part whose child modules were replaced.
            msg = f"{where} cannot be saved: its options cannot be read, {format_error(error, 200)}."
            raise SaveError(msg, where=where) from error
        node: dict[str, Json] = {catalogue.kind: offer.name}
        positional = config.pop(POSITIONAL, None)
        if positional is not None:
            node["arguments"] = self._encode_items(cast("Sequence[object]", positional), where, depth)
        node["options"] = {key: self.encode(each, f"{where}.{key}", depth + 1) for key, each in config.items()}
        return node

    def _find_offer(self, part: object, where: str) -> tuple[Catalogue[object], Offer[object]]:
        for catalogue in self._catalogues.values():
            for offer in catalogue.offers:
                if _resolve(offer.factory) is type(part):
                    # Two plugins may offer the name: then it means nothing when it is loaded.
                    return catalogue, catalogue.offer(offer.name)
        cls = type(part)
        what = "part" if isinstance(part, nn.Module | StageBase) else "value"
        msg = (
            f"{where} cannot be saved: the {what} {cls.__module__}.{cls.__qualname__} has no registered name; offer "
            "the class in a plugin, through its hook (docs/plugins.md), so that it is found when the pipe is loaded."
        )
        raise SaveError(msg, where=where, part=cls.__qualname__)

    def _use(self, offer: Offer[object], kind: str) -> None:
        names = self.plugins.setdefault(offer.plugin, [])
        if f"{kind} {offer.name!r}" not in names:
            names.append(f"{kind} {offer.name!r}")


def _resolve(factory: object) -> object:
    if not isinstance(factory, Deferred):
        return factory
    # If its module is not imported, no object of the class can exist.
    return factory.resolve() if factory.target.partition(":")[0] in sys.modules else None


def _list_named_parts(stage: object) -> list[tuple[Catalogue[object], str]]:
    """Return the part of a stage that was given by name, with its catalogue."""
    if getattr(stage, "is_named", False) is not True:
        return []
    catalogue, name = getattr(stage, "get_catalogue")(), getattr(stage, "part_name")  # noqa: B009 - of PartStage
    return [(cast("Catalogue[object]", catalogue), str(name))]


def _add_class(table: dict[str, type], cls: type) -> str:
    name = cls.__name__
    if table.setdefault(name, cls) is not cls:
        msg = f"two classes are named {name!r}, and classes are saved by name; rename one of them."
        raise SaveError(msg, name=name)
    return name
