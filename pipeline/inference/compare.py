"""Compare the predictions of a pipe for inference with those of the original."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeAlias, cast

import torch
from torch import Tensor, nn

from pipeline.core.chain_base import ChainBase
from pipeline.core.contexts import temporary_mode
from pipeline.core.inference import Difference, InferenceReport
from pipeline.data.generation import Generation
from pipeline.data.predictions import ClassPrediction, JointPrediction, MultiLabelPrediction, compute_probabilities
from pipeline.data.rows import reject_single_text
from pipeline.data.scores import Predictions
from pipeline.errors import OptionError

Score: TypeAlias = Callable[[Any, Iterable[Any]], Iterator[object]]
"""Runs a pipe over inputs, and yields the prediction of each row with its scores."""


def compare(original: ChainBase, made: ChainBase, examples: Iterable[Any], score: Score) -> InferenceReport:
    """Return the differences between the predictions of two pipes on the same inputs.

    Raises:
        TextError: if `examples` is one text.
        OptionError: if there are no examples, or a prediction has neither classes nor numbers.
    """
    reject_single_text(examples)
    inputs = list(examples)
    probabilities, numbers = _Differences(), _Differences()
    rows = predictions = changed = 0
    for one, other in zip(score(original, inputs), score(made, inputs), strict=True):
        rows += 1
        for (decision, values), (other_decision, other_values) in zip(
            _list_parts(one), _list_parts(other), strict=True
        ):
            if decision is _NUMBER:
                numbers.add(values, other_values)
            else:
                probabilities.add(values, other_values)
                predictions += 1
                changed += decision != other_decision
    if not rows:
        msg = "examples must have one input or more, got none; leave examples out for no comparison."
        raise OptionError(msg, examples=inputs)
    return InferenceReport(rows, predictions, changed, probabilities.get(), numbers.get())


def score_batches(model: nn.Module, batches: Iterable[Any]) -> Iterator[object]:
    """Yield the predictions of a model's rows with their scores, from batches.

    Raises:
        OptionError: if the model returns something else than predictions.
    """
    for batch in batches:
        with temporary_mode(model, training=False), torch.no_grad():
            output: object = model(batch)
            if not isinstance(output, Predictions):
                msg = (
                    f"examples need a model that ends with a head, to compare its predictions, got "
                    f"{type(output).__name__}; leave examples out."
                )
                raise OptionError(msg)
            found = [prediction for _, prediction in cast("Predictions[object]", output).scored_rows()]
        yield from found


_NUMBER: Final = object()
"""In place of a decision, for predicted numbers."""


def _list_parts(prediction: object) -> Iterator[tuple[object, Tensor]]:
    """Yield each decision of a prediction, with the probabilities of its classes; or the numbers of one without.

    Raises:
        OptionError: if it is a prediction of another kind.
    """
    if isinstance(prediction, JointPrediction):
        for head in cast("JointPrediction[object, tuple[object, ...]]", prediction).heads:
            yield from _list_parts(head)
    elif isinstance(prediction, MultiLabelPrediction):
        found = cast("MultiLabelPrediction[object]", prediction)
        yield list(found.labels), found.scores.double().sigmoid()
    elif isinstance(prediction, ClassPrediction):
        one = cast("ClassPrediction[object]", prediction)
        yield one.label, compute_probabilities(one.scores)
    elif isinstance(prediction, Generation):
        text = cast("Generation[object]", prediction)
        yield text.output, torch.tensor([text.log_probability], dtype=torch.float64, device="cpu").exp()
    elif isinstance(prediction, list) and not all(isinstance(each, float) for each in cast("list[object]", prediction)):
        for step in cast("list[object]", prediction):
            yield from _list_parts(step)
    elif isinstance(prediction, float | list):
        yield _NUMBER, torch.tensor(prediction, dtype=torch.float64, device="cpu").flatten()
    else:
        msg = f"examples need predictions of classes or numbers, got {type(prediction).__name__}; leave examples out."
        raise OptionError(msg)


class _Differences:
    """The largest absolute difference, and the sum of all."""

    def __init__(self) -> None:
        self._largest = self._sum = 0.0
        self._count = 0

    def add(self, one: Tensor, other: Tensor) -> None:
        difference = (one.double() - other.double()).abs()
        if difference.numel():
            self._largest = max(self._largest, float(difference.max()))
            self._sum += float(difference.sum())
            self._count += difference.numel()

    def get(self) -> Difference | None:
        return Difference(self._largest, self._sum / self._count) if self._count else None
