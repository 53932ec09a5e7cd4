"""How a pipe for inference is saved: as the pipe that it was made of, with the options and the comparison."""

import math
from collections.abc import Mapping
from typing import Any, Final, NoReturn, TypeVar, cast

import attrs

from pipeline.core.chain_base import ChainBase
from pipeline.core.inference import Difference, InferenceOptions, InferenceReport, Prepared
from pipeline.core.stream_chain import StreamChain
from pipeline.errors import LoadError, OptionError
from pipeline.saving.json_files import Json

C = TypeVar("C", bound=ChainBase)

INFERENCE: Final = "inference"
"""The key of the configuration. Only a pipe for inference has it."""


def get_original(pipe: C) -> C:
    """Return the pipe that a pipe for inference was made of; any other pipe itself."""
    return pipe if pipe.prepared is None else cast("C", pipe.prepared.original)


def describe_inference(prepared: Prepared) -> Json:
    """Return the options of a pipe for inference, and its comparison, as JSON."""
    report = None if prepared.report is None else cast("Json", attrs.asdict(prepared.report))
    return {**cast("dict[str, Json]", attrs.asdict(prepared.options)), "report": report}


def prepare_again(pipe: StreamChain[Any, Any], described: Json) -> StreamChain[Any, Any]:
    """Make a loaded pipe one for inference again, as `describe_inference` has described it.

    Raises:
        LoadError: if the description is not valid, or a part cannot compute so on this machine.
    """
    if not isinstance(described, dict) or described.keys() != {"precision", "deterministic", "report"}:
        _reject("it must have precision, deterministic and report")
    report = None if described["report"] is None else _read_report(described["report"])
    precision, deterministic = described["precision"], described["deterministic"]
    try:
        found = InferenceOptions(cast("Any", precision), cast("Any", deterministic))
    except OptionError as error:
        _reject(str(error))
    try:
        made = pipe.for_inference(precision=found.precision, deterministic=found.deterministic)
    except OptionError as error:
        msg = f"the pipe was saved for inference, which is not possible on this machine: {error}"
        raise LoadError(msg, **error.details) from error
    if made.prepared is not None:
        made.prepared = attrs.evolve(made.prepared, report=report)
    return made


def _read_report(value: Json) -> InferenceReport:
    fields = _read_fields(value, InferenceReport)
    counts = [fields[name] for name in ("rows", "predictions", "changed")]
    if not all(type(count) is int and count >= 0 for count in counts):
        _reject("the counts of the comparison must be integers")
    rows, predictions, changed = cast("list[int]", counts)
    probabilities, numbers = (
        None if fields[name] is None else _read_difference(fields[name]) for name in ("probabilities", "numbers")
    )
    return InferenceReport(rows, predictions, changed, probabilities, numbers)


def _read_difference(value: Json) -> Difference:
    numbers = _read_fields(value, Difference).values()
    if not all(type(number) is float and math.isfinite(number) for number in numbers):
        _reject("the differences of the comparison must be finite numbers")
    return Difference(*cast("list[float]", list(numbers)))


def _read_fields(value: Json, cls: type[attrs.AttrsInstance]) -> Mapping[str, Json]:
    names = [field.name for field in attrs.fields(cls)]
    if not isinstance(value, dict) or value.keys() != set(names):
        _reject(f"the comparison must have {', '.join(names)}")
    return {name: value[name] for name in names}


def _reject(reason: str) -> NoReturn:
    msg = f"the options for inference of the saved pipe are not valid: {reason}; save the pipe again."
    raise LoadError(msg, reason=reason)
