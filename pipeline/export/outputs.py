"""The outputs of an exported model: plain tensors, read from the model's predictions."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, TypeAlias, cast, final

import attrs
import torch
from torch import Tensor

from pipeline.data.batches import is_batch, unpack_values
from pipeline.data.scores import Predictions, Scores, StepScores
from pipeline.data.states import MaybeCausal, Pooled, States
from pipeline.data.tensors import to_floats
from pipeline.data.values import Joint, MultiLabelScores, Values
from pipeline.errors import ExportError
from pipeline.labels import ClassIds

Meaning: TypeAlias = Literal["classes", "paths", "labels", "numbers", "vectors", "state"]
"""What an output holds: scores of one class, scores of one class per step that are chosen together, scores of several
classes, numbers, vectors, or a state."""


@final
@attrs.frozen
class Output:
    """One tensor that an exported model returns.

    Attributes:
        name: its name.
        meaning: what it holds.
        axes: the names of its first axes; empty for one of fixed size.
        names: the class names, if it has any.
        thresholds: for several classes, the probability from which each is predicted.
        transitions: for paths, the score of each class (column) after each class (row). The last row is the start of a
            row of steps, and the last column its end; None is forbidden.
    """

    name: str
    meaning: Meaning
    axes: tuple[str, ...]
    names: Sequence[str] | None = None
    thresholds: Sequence[float] | None = None
    transitions: Sequence[Sequence[float | None]] | None = None


def read_outputs(result: object) -> dict[str, Tensor]:
    """Return the tensors of a model's output; scores of steps are padded with zeros. Works in graphs.

    Raises:
        ExportError: if the output is of another type than those of this library.
    """
    result = _simplify(result)
    if isinstance(result, Joint):
        parts = cast("Mapping[str, object]", result.parts)
        return {name: next(iter(read_outputs(part).values())) for name, part in parts.items()}
    name, tensor = _read_output(result)
    return {name: tensor}


def _simplify(result: object) -> object:
    """Return predictions of a plugin's type as a type of this library."""
    return cast("Predictions[object, object]", result).for_export() if isinstance(result, Predictions) else result


def _read_output(result: object) -> tuple[str, Tensor]:
    if isinstance(result, StepScores):
        scores = cast("StepScores[object]", result)
        if scores.values.ndim == 3:
            return "scores", scores.values
        # Eager scores do not know the width of their batch: the longest row is as wide as is needed.
        return "scores", unpack_values(scores.values, scores.order, scores.order.longest)
    if isinstance(result, Scores | MultiLabelScores):
        return "scores", cast("Scores[object]", result).values
    if isinstance(result, Values | Pooled):
        return ("vectors" if isinstance(result, Pooled) else "values"), cast("Pooled", result).values
    if isinstance(result, States):
        return "states", cast("States[MaybeCausal]", result).padded().values
    if is_batch(result):
        return "vectors", result.padded().fill_padding(0).values
    msg = (
        f"a model that returns {type(result).__name__} cannot be exported, because its tensors are not known; end it "
        "with a head of this library, or with Pool; predictions of your own type can have a method for_export."
    )
    raise ExportError(msg)


def describe_outputs(result: object) -> list[Output]:
    """Return a description of each tensor of `read_outputs`."""
    result = _simplify(result)
    # Read first: below, a checker knows only parts of the type.
    weights: list[object] = [getattr(result, each, None) for each in ("transitions", "start", "end")]
    held: object = getattr(result, "names", None)
    if isinstance(result, Joint):
        parts = cast("Mapping[str, object]", result.parts)
        return [attrs.evolve(describe_outputs(part)[0], name=name) for name, part in parts.items()]
    name, _ = _read_output(result)
    is_per_step = is_batch(result) or isinstance(result, StepScores | States)
    axes = ("batch", "time") if is_per_step else ("batch",)
    names = None if held is None or isinstance(held, ClassIds) else [str(each) for each in cast("Sequence[str]", held)]
    if isinstance(result, MultiLabelScores):
        found = cast("MultiLabelScores[object]", result).thresholds
        thresholds = to_floats(found)
        return [Output(name, "labels", axes, names, thresholds)]
    # Of predictions of a plugin, such as a CRF: their graph has the scores of steps, and paths are found outside of it.
    if all(isinstance(weight, Tensor) for weight in weights):
        return [Output(name, "paths", axes, names, transitions=_join_transitions(*cast("list[Tensor]", weights)))]
    if isinstance(result, Scores | StepScores):
        return [Output(name, "classes", axes, names)]
    return [Output(name, "numbers" if isinstance(result, Values) else "vectors", axes)]


def rename_outputs(outputs: Sequence[Output], inputs: Collection[str]) -> list[Output]:
    """Put `output_` before the name of each output that has the name of an input: in ONNX, names are unique.

    Example:
        >>> [each.name for each in rename_outputs([Output("vectors", "vectors", ("batch",))], ["vectors", "lengths"])]
        ['output_vectors']
    """
    taken = {*inputs, *(each.name for each in outputs)}
    return [
        attrs.evolve(each, name=_make_unique(each.name, taken)) if each.name in inputs else each for each in outputs
    ]


def _make_unique(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name = f"output_{name}"
    return name


def _join_transitions(transitions: Tensor, start: Tensor, end: Tensor) -> list[list[float | None]]:
    """Return the scores of transitions, of starts and of ends as one square."""
    rows = torch.cat([transitions, start.unsqueeze(0)]).detach()
    square = torch.cat([rows, torch.cat([end, end.new_zeros(1)]).unsqueeze(1).detach()], dim=1)
    return [[None if score == -math.inf else score for score in to_floats(row)] for row in square]
