"""Make a pipe from its configuration: the parts that plugins register, with the options of the file.

Nothing of the file is imported or executed. Parts are made on torch's `meta` device, so that a size from the file
allocates nothing before it has been compared with the weights.
"""

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NoReturn, cast

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from pipeline.core.contexts import preserve_random_state
from pipeline.core.join import join
from pipeline.core.stage import Stage, StageBase
from pipeline.data.batches import Batch
from pipeline.data.kinds import Kind, Vectors
from pipeline.errors import LoadError
from pipeline.labels import Labels
from pipeline.parts.tokenizer import Tokenizer
from pipeline.registry import registry
from pipeline.saving.encoding import TARGETS, get_part_catalogues
from pipeline.saving.inference import INFERENCE
from pipeline.saving.json_files import Json
from pipeline.saving.records import Records, decode_kind
from pipeline.stages.embed_fields import Through, Unused
from pipeline.stages.from_columns import Reader
from pipeline.stages.input_stage import InputStage
from pipeline.text import to_one_line

_FLOATS: Final = {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}
_KEYS: Final = frozenset({"pipe", "labels", "records", "outcomes", "tokenizers", "frozen"})
_NODE_KEYS: Final = frozenset({"options", "arguments", "id"})

_HARMLESS_NUMBER: Final = 2**16
"""A head or an embedder may have any number up to this as an option: it takes no time to list as many classes."""


def decode_pipe(
    config: Json, *, tokenizers: Sequence[Tokenizer], records: Records, largest: int, tensors: int
) -> StageBase:
    """Make a pipe, with its weights on the `meta` device.

    Args:
        config: the content of `pipeline.json`.
        tokenizers: the tokenizers by index.
        records: resolves the names of classes.
        largest: the largest size of an axis of the weights. A head cannot have more classes, if they are very many.
        tensors: the number of names of tensors. A pipe that makes many more parameters is not finished: it could be
            made to have any number of layers.

    Raises:
        LoadError: if the configuration is not valid.
        PipelineError: if a part cannot be made with its options.
    """
    if not isinstance(config, dict) or frozenset(config) - {INFERENCE} != _KEYS:
        _reject(f"it must have {', '.join(sorted(_KEYS))}")
    reader = _Reader(config, tokenizers, records, largest)
    # The random state is kept, since parts draw their first weights, on this device too.
    with preserve_random_state(), _limit_parameters(2 * tensors + 100), torch.device("meta"):
        pipe = reader.decode(config["pipe"])
    if not isinstance(pipe, StageBase):
        _reject("its pipe is not a stage")
    return pipe


class _Reader:
    """Decodes values, with the tables of the file."""

    def __init__(
        self, config: Mapping[str, Json], tokenizers: Sequence[Tokenizer], records: Records, largest: int
    ) -> None:
        self._tokenizers = tokenizers
        self._records = records
        self._largest = largest
        self._described = _as_mapping(config["records"])
        self._outcomes = _as_mapping(config["outcomes"])
        self._labels = [_make_labels(names) for names in _as_list(config["labels"])]
        self._by_id: dict[int, object] = {}
        self._catalogues = get_part_catalogues(registry())
        self._tags: Mapping[str, Callable[[dict[str, Json]], object]] = {
            "ref": self._decode_reference,
            "chain": self._decode_chain,
            "labels": lambda node: _pick(self._labels, node["labels"]),
            "tokenizer": lambda node: _pick(self._tokenizers, node["tokenizer"]),
            "kind": lambda node: decode_kind(node["kind"]),
            "record": self._decode_record,
            "outcome": self._decode_outcome,
            "through": self._decode_through,
            "unused": lambda _: Unused(),
            "read": self._decode_reader,
            "targets": self._decode_targets,
            "tuple": lambda node: tuple(map(self.decode, _as_list(node["tuple"]))),
            "mapping": lambda node: self._decode_mapping(node["mapping"]),
            "float": lambda node: _FLOATS[str(node["float"])],
            "dtype": lambda node: _decode_dtype(node["dtype"]),
            **{kind: partial(self._decode_part, kind) for kind in self._catalogues},
        }

    def decode(self, value: Json) -> object:
        if isinstance(value, list):
            return list(map(self.decode, value))
        if not isinstance(value, dict):
            return value
        tags = [key for key in value if key in self._tags]
        if len(tags) != 1:
            _reject(f"an object has the keys {', '.join(sorted(value))!r:.80}, which have no single meaning")
        found = self._tags[tags[0]](value)
        if "id" in value and "ref" not in value:
            number = value["id"]
            if type(number) is not int or number in self._by_id:
                _reject("the id of a part must be a number that occurs once")
            self._by_id[number] = found
        return found

    def _decode_mapping(self, value: Json) -> dict[str, object]:
        return {key: self.decode(each) for key, each in _as_mapping(value).items()}

    def _decode_reference(self, node: dict[str, Json]) -> object:
        # A part within itself is not known yet when the reference is read.
        number = node["ref"]
        if type(number) is not int or number not in self._by_id:
            _reject("a reference must be the id of a part before it")
        return self._by_id[number]

    def _decode_chain(self, node: dict[str, Json]) -> StageBase:
        stages = [_as_stage(self.decode(stage)) for stage in _as_list(node["chain"])]
        if not stages:
            _reject("a chain has no stages")
        chain = join(*stages)
        name = node.get("name")
        if name is not None:
            chain.name = _as_text(name)
        return chain

    def _decode_record(self, node: dict[str, Json]) -> type:
        name = _as_text(node["record"])
        return self._records.get_record(name, self._described.get(name))

    def _decode_outcome(self, node: dict[str, Json]) -> type:
        name = _as_text(node["outcome"])
        return self._records.get_outcome(name, self._outcomes.get(name))

    def _decode_through(self, node: dict[str, Json]) -> Through:
        return Through(cast("Stage[Batch[Kind], Batch[Vectors]]", _as_stage(self.decode(node["through"]))))

    def _decode_reader(self, node: dict[str, Json]) -> Reader:
        columns = [_as_text(column) for column in _as_list(node.get("columns"))]
        stage = self.decode(node["read"])
        if not isinstance(stage, InputStage):
            _reject("a field is read by something else than an input stage")
        return Reader(cast("InputStage[Any, Kind]", stage), columns)

    def _decode_targets(self, node: dict[str, Json]) -> object:
        name = _as_text(node["targets"])
        if name not in TARGETS:
            _reject(f"the type of targets {name!r:.60} is not known")
        make = cast("Callable[..., object]", TARGETS[name])
        return make(**self._decode_mapping(node.get("options", {})))

    def _decode_part(self, kind: str, node: dict[str, Json]) -> object:
        if not set(node) <= {kind, *_NODE_KEYS}:
            _reject(f"{kind} {node[kind]!r:.60} has the keys {', '.join(sorted(node))!r:.80}")
        name = _as_text(node[kind])
        if kind in {"head", "embedder"}:
            self._check_sizes(name, node.get("options", {}))
        options = self._decode_mapping(node.get("options", {}))
        catalogue = self._catalogues[kind]
        if "arguments" not in node:
            return catalogue.make(name, **options)
        arguments = [self.decode(each) for each in _as_list(node["arguments"])]
        found = catalogue.offer(name).factory(*arguments, **options)
        if not isinstance(found, catalogue.base):
            _reject(f"{kind} {name!r} made something else")
        return found

    def _check_sizes(self, name: str, options: Json) -> None:
        for option, value in _as_mapping(options).items():
            if type(value) is int and value > max(self._largest, _HARMLESS_NUMBER):
                _reject(f"option {option!r:.60} of {name!r:.60} is {value:,}, and no tensor is as large")


@contextmanager
def _limit_parameters(limit: int) -> Generator[None]:
    """Stop this thread with an error when it registers more parameters than a limit."""
    thread, count = threading.get_ident(), 0

    def check(_module: nn.Module, _name: str, _parameter: nn.Parameter) -> None:
        nonlocal count
        count += threading.get_ident() == thread
        if count > limit:
            _reject("its parts have more parameters than the weights have tensors")

    handle = register_module_parameter_registration_hook(check)
    try:
        yield
    finally:
        handle.remove()


def _make_labels(names: Json) -> Labels:
    return Labels([_as_text(name) for name in _as_list(names)])


def _decode_dtype(name: Json) -> torch.dtype:
    found: object = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(found, torch.dtype):
        _reject(f"{name!r:.60} is not the name of a type of numbers")
    return found


def _pick(values: Sequence[object], index: Json) -> object:
    if type(index) is not int or not 0 <= index < len(values):
        _reject(f"{index!r:.60} is not an index of {len(values)} values")
    return values[index]


def _as_mapping(value: Json) -> dict[str, Json]:
    if not isinstance(value, dict):
        _reject(f"a JSON object is missing, got {value!r:.60}")
    return value


def _as_list(value: Json) -> list[Json]:
    if not isinstance(value, list):
        _reject(f"a list is missing, got {value!r:.60}")
    return value


def _as_text(value: Json) -> str:
    if not isinstance(value, str):
        _reject(f"a text is missing, got {value!r:.60}")
    return value


def _as_stage(value: object) -> StageBase:
    if not isinstance(value, StageBase):
        _reject(f"a stage is missing, got {to_one_line(value, 60)!r}")
    return value


def _reject(reason: str) -> NoReturn:
    msg = f"the configuration of the saved pipe is not valid: {reason}; save the pipe again."
    raise LoadError(msg, reason=reason)
