"""Predictions with their scores as plain values: columns of a table, and JSON."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

import attrs
import torch
from typing_extensions import TypeIs

from pipeline.core.chain import Chain
from pipeline.core.stream_chain import StreamChain
from pipeline.data.generation import Generation
from pipeline.data.predictions import ClassPrediction, JointPrediction, MultiLabelPrediction, StepPrediction
from pipeline.data.tensors import to_floats
from pipeline.errors import OptionError, ValuesError
from pipeline.stages.branches import Branching
from pipeline.stages.regress import Regress

Plain: TypeAlias = str | int | float | bool | list[Any] | dict[str, Any] | None
"""A value that JSON can hold."""

_PREDICTION: Final = "prediction"
_PROBABILITY: Final = "probability"


def find_heads(pipe: StreamChain[Any, Any]) -> Sequence[str]:
    """Return the names of the heads of a pipe with several; empty for one head."""
    last: object = [*pipe.stages.values()][-1]
    return list(last.branches) if isinstance(last, Branching) else []


def list_columns(pipe: StreamChain[Any, Any]) -> Sequence[str]:
    """Return the names of the columns of a pipe's predictions, as far as they are known without one."""
    last: object = [*pipe.stages.values()][-1]
    if not isinstance(last, Branching):
        return _name_columns(last)
    return [f"{column}_{name}" for name, head in last.branches.items() for column in _name_columns(head)]


def _name_columns(head: object) -> Sequence[str]:
    end: object = [*head.stages.values()][-1] if isinstance(head, Chain) else head
    return [_PREDICTION] if isinstance(end, Regress) else [_PREDICTION, _PROBABILITY]


def to_columns(prediction: object, heads: Sequence[str] = ()) -> dict[str, Plain]:
    """Return a prediction with its scores as columns: `prediction` and `probability`.

    Several classes, or one per step, are lists, with a probability for each. With several heads each has columns of its
    own, with its name at the end.

    Raises:
        ValuesError: if a probability or a number is NaN or infinite.
        OptionError: if the head predicts objects that are not plain values.

    Example:
        >>> to_columns(ClassPrediction("yes", 0.75, torch.tensor([0.25, 0.75]).log(), ["no", "yes"]))
        {'prediction': 'yes', 'probability': 0.75}
        >>> to_columns([2.5, 1.0])
        {'prediction': [2.5, 1.0]}
    """
    if isinstance(prediction, JointPrediction):
        parts = cast("JointPrediction[Any, Sequence[object]]", prediction).heads
        found: dict[str, Plain] = {}
        for name, part in zip(heads, parts, strict=True):
            found |= {f"{column}_{name}": value for column, value in to_columns(part).items()}
        return found
    if _is_class(prediction):
        return {_PREDICTION: check_plain(prediction.label), _PROBABILITY: check_plain(prediction.probability)}
    if _is_multi_label(prediction):
        probabilities = dict(zip(prediction.names, _list_probabilities(prediction), strict=True))
        labels = list(prediction.labels)
        return {
            _PREDICTION: check_plain(labels),
            _PROBABILITY: check_plain([probabilities[label] for label in labels]),
        }
    texts = _get_generations(prediction)
    if texts:
        return {_PREDICTION: check_plain(texts[0].output), _PROBABILITY: math.exp(texts[0].log_probability)}
    steps = _get_steps(prediction)
    if steps is not None:
        return {
            _PREDICTION: check_plain([step.label for step in steps]),
            _PROBABILITY: check_plain([step.probability for step in steps]),
        }
    return {_PREDICTION: check_plain(prediction)}


def to_json(prediction: object, top: int, heads: Sequence[str] = ()) -> Plain:
    """Return a prediction with its scores as JSON, with the `top` best classes of each decision.

    Raises:
        ValuesError: if a probability or a number is NaN or infinite.
        OptionError: if the head predicts objects that are not plain values.

    Example:
        >>> to_json(ClassPrediction("yes", 0.5, torch.tensor([0.0, 0.0]), ["yes", "no"]), top=1)
        {'label': 'yes', 'probability': 0.5, 'top': [{'label': 'yes', 'probability': 0.5}]}
    """
    if isinstance(prediction, JointPrediction):
        parts = cast("JointPrediction[Any, Sequence[object]]", prediction).heads
        return {name: to_json(part, top) for name, part in zip(heads, parts, strict=True)}
    if _is_class(prediction):
        found: dict[str, Plain] = {
            "label": check_plain(prediction.label),
            _PROBABILITY: check_plain(prediction.probability),
            "top": _list_top(prediction, top),
        }
        if isinstance(prediction, StepPrediction) and prediction.span is not None:
            found |= {"start": prediction.start, "end": prediction.end}
        return found
    if _is_multi_label(prediction):
        return {"labels": check_plain(list(prediction.labels)), "top": _list_top(prediction, top)}
    texts = _get_generations(prediction)
    if texts:
        listed: list[Plain] = [_to_text(each) for each in texts[:top]]
        return {**_to_text(texts[0]), "top": listed}
    steps = _get_steps(prediction)
    return [to_json(step, top) for step in steps] if steps is not None else check_plain(prediction)


def to_plain(prediction: object) -> Plain:
    """Return a prediction as JSON without its scores; attrs classes and dataclasses become objects.

    Raises:
        ValuesError: if a number is NaN or infinite.
        OptionError: if it holds something else than plain values.

    Example:
        >>> to_plain(ClassPrediction("yes", 0.5, torch.tensor([0.0, 0.0]), ["yes", "no"])), to_plain((2.5, "no"))
        ('yes', [2.5, 'no'])
    """
    if texts := _get_generations(prediction):
        prediction = texts[0].output
    if _is_class(prediction):
        return check_plain(prediction.label)
    if _is_multi_label(prediction):
        return check_plain(list(prediction.labels))
    if isinstance(prediction, JointPrediction):
        return to_plain(cast("JointPrediction[object, object]", prediction).prediction)
    names = _list_fields(prediction)
    if names:
        return {name: to_plain(getattr(prediction, name)) for name in names}
    if isinstance(prediction, list | tuple):
        return [to_plain(each) for each in cast("Sequence[object]", prediction)]
    return check_plain(prediction)


def _list_fields(value: object) -> Sequence[str]:
    """Return the names of the fields of an object of an attrs class or a dataclass; empty for other objects."""
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value)]
    cls: type[object] = type(value)
    return [field.name for field in attrs.fields(cls)] if attrs.has(cls) else []


def check_plain(value: object) -> Plain:
    """Return a value that JSON can hold.

    Raises:
        ValuesError: if a number is NaN or infinite.
        OptionError: if it is something else.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            msg = f"a prediction must be a finite number, got {value}; the model's weights or its input are too large."
            raise ValuesError(msg, value=value)
        return value
    if isinstance(value, list | tuple | set | frozenset):
        entries = cast("Sequence[object]", value)
        return [
            check_plain(each) for each in (entries if isinstance(value, list | tuple) else sorted(map(str, entries)))
        ]
    if isinstance(value, Mapping):
        return {str(key): check_plain(each) for key, each in cast("Mapping[object, object]", value).items()}
    msg = (
        f"a prediction must be text, a number, or a list or mapping of these, got {type(value).__name__}; let the "
        "head's `rows` and `scored_rows` yield such values."
    )
    raise OptionError(msg, prediction=type(value).__name__)


def _is_class(value: object) -> TypeIs[ClassPrediction[Any]]:
    return isinstance(value, ClassPrediction)


def _is_multi_label(value: object) -> TypeIs[MultiLabelPrediction[Any]]:
    return isinstance(value, MultiLabelPrediction)


def _get_steps(prediction: object) -> Sequence[StepPrediction[Any]] | None:
    """Return the predictions of the steps of a row; None for another prediction. An empty list has no steps."""
    if not isinstance(prediction, list):
        return None
    steps = cast("list[object]", prediction)
    is_steps = all(isinstance(step, StepPrediction) for step in steps)
    return cast("list[StepPrediction[Any]]", steps) if is_steps else None


def _get_generations(prediction: object) -> Sequence[Generation[object]]:
    """Return the generated texts of a row, best first; none for another prediction."""
    if not isinstance(prediction, list):
        return []
    texts = cast("list[object]", prediction)
    is_text = all(isinstance(text, Generation) for text in texts)
    return cast("list[Generation[object]]", texts) if is_text else []


def _to_text(generation: Generation[object]) -> dict[str, Plain]:
    return {"text": check_plain(generation.output), _PROBABILITY: math.exp(generation.log_probability)}


def _list_probabilities(prediction: MultiLabelPrediction[Any]) -> list[float]:
    scores = prediction.scores
    return to_floats(scores.to(torch.promote_types(scores.dtype, torch.float32)).sigmoid())


def _list_top(prediction: ClassPrediction[Any] | MultiLabelPrediction[Any], top: int) -> Plain:
    best = prediction.top(top)
    return [{"label": check_plain(label), _PROBABILITY: check_plain(probability)} for label, probability in best]
