"""A metric of torchmetrics as one of this library's."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias, TypeVar, cast, final

import attrs
import torch
from jaxtyping import Shaped
from torch import Tensor
from typing_extensions import TypeIs, override

from pipeline.builtin.class_metrics import get_class_targets, has_class_scores
from pipeline.builtin.sums import make_kind_error, make_missing_error
from pipeline.checks.hints import describe
from pipeline.data.metadata import IGNORED, has_target
from pipeline.data.scores import Predictions
from pipeline.data.values import MultiLabelScores, Values
from pipeline.errors import OptionError, TargetError
from pipeline.parts.metric import Metric

A = TypeVar("A")


class UpdatesAndComputes(Protocol):
    """A metric of torchmetrics, as far as it is used here: `update(predictions, targets)`, `compute` and `reset`."""

    def reset(self) -> None:
        """Forget all updates."""
        ...

    @property
    def update(self) -> Callable[..., None]:
        """Add a batch."""
        ...

    @property
    def compute(self) -> Callable[..., object]:
        """Return the result of all batches."""
        ...


Inputs: TypeAlias = Callable[[Predictions[object, object]], tuple[object, ...]]
"""Returns what a metric's `update` takes, from a batch of predictions."""


@attrs.frozen(eq=False)
class Selected:
    """The rows or steps of a batch that have a target, in the form in which torchmetrics takes them.

    Attributes:
        values: probabilities of classes, or numbers.
        targets: classes, one or zero for each class, or numbers.
    """

    values: Shaped[Tensor, "item *classes"]
    targets: Shaped[Tensor, "item *classes"]


@final
class TorchMetric(Metric):
    """A metric of torchmetrics, or a collection of them.

    It gets the rows or steps that have a target, and no others. Scores become probabilities, by softmax, or by the
    sigmoid for several classes per row; a `Binary...` metric gets the probability of class 1, and `Perplexity` gets one
    row with all steps. The given object is copied, and not changed.

    Pass metrics of torchmetrics as they are wherever a metric is expected. This class is for a metric that needs other
    inputs, such as texts.

    Args:
        metric: the metric of torchmetrics.
        inputs: returns the arguments of its `update` for a batch of predictions; by default as above.

    Attributes:
        parts: copies of the metrics of a collection by name; of a single metric its copy under the empty name.
        targets: the number of rows or steps with a target so far.
        classes: the class names of the predictions.

    Raises:
        OptionError: if it is no metric of torchmetrics.
    """

    def __init__(self, metric: UpdatesAndComputes, inputs: Inputs | None = None) -> None:
        given = cast("object", metric)
        if not is_torch_metric(given):
            msg = f"metric must be one of torchmetrics, got {describe(given)}; create it: Accuracy(task=...)."
            raise OptionError(msg)
        self.metric: Final = metric
        self.inputs: Final = inputs
        # The metrics of a collection share states, which could not be merged one by one.
        parts = {str(name): part for name, part in _list_parts(metric).items()}
        self.parts: dict[str, UpdatesAndComputes] = {name: copy.deepcopy(part) for name, part in parts.items()}
        for part in self.parts.values():
            part.reset()
            # It would wait for all ranks in `compute`. Ranks merge their metrics instead, when all of them call for it.
            setattr(part, "distributed_available_fn", _is_never_distributed)  # noqa: B010 - its type is open
        # None if the metric does not say, or those of a collection differ.
        directions: set[object] = {getattr(part, "higher_is_better", None) for part in self.parts.values()}
        self.higher_is_better: bool | None = True if directions == {True} else False if directions == {False} else None
        self.targets: int = 0
        self.classes: Sequence[object] = ()

    @override
    def update(self, predictions: Predictions[object, object], /) -> None:
        if self.inputs is not None:
            arguments = self.inputs(predictions)
            for part in self.parts.values():
                part.update(*arguments)
            self.targets += 1
            return
        with torch.no_grad():
            selected = select_items(predictions)
        if not len(selected.targets):
            return
        self.classes = cast("Sequence[object]", getattr(predictions, "names", ()))
        for part in self.parts.values():
            move: Callable[[torch.device], object] | None = getattr(part, "to", None)
            if move is not None:
                move(selected.values.device)
            part.update(*_convert(part, selected))
        self.targets += len(selected.targets)

    @override
    def merge(self, other: Metric, /) -> None:
        if not isinstance(other, TorchMetric) or self.list_types() != other.list_types():
            msg = f"{self!r} can be merged with its own kind, got {other!r}."
            raise OptionError(msg)
        if not other.targets:
            return
        if not self.targets:
            self.parts = copy.deepcopy(other.parts)
        else:
            for name, part in self.parts.items():
                _merge_states(part, other.parts[name])
        self.targets += other.targets
        self.classes = self.classes or other.classes

    @override
    def compute(self) -> float:
        found = self.results()
        if len(found) != 1:
            msg = f"{self!r} has several results, {', '.join(found)}; use results() for all of them."
            raise OptionError(msg)
        return next(iter(found.values()))

    @override
    def results(self) -> Mapping[str, float]:
        if not self.targets:
            msg = f"{self!r} needs at least one target, got none; call update with batches that have some."
            raise TargetError(msg)
        found: dict[str, float] = {}
        for name, part in self.parts.items():
            found |= {_join(name, key): value for key, value in self._flatten(part.compute()).items()}
        return found

    @override
    def __repr__(self) -> str:
        return f"TorchMetric({', '.join(self.list_types().values())})"

    def list_types(self) -> Mapping[str, str]:
        """Return the class of each metric by name."""
        return {name: type(part).__name__ for name, part in self.parts.items()}

    def _flatten(self, result: object) -> dict[str, float]:
        """Return the numbers of a result by name: of a mapping its keys, of a vector with one per class the classes.

        Raises:
            OptionError: if it is not made of numbers.
        """
        if isinstance(result, Mapping):
            entries = cast("Mapping[object, object]", result)
            nested = {str(key): self._flatten(value) for key, value in entries.items()}
            return {_join(key, inner): number for key, found in nested.items() for inner, number in found.items()}
        if isinstance(result, Tensor) and result.numel() == 1:
            return {"": float(result)}
        if isinstance(result, int | float):
            return {"": float(result)}
        if isinstance(result, Tensor) and result.ndim == 1:
            names = self.classes if len(self.classes) == len(result) else range(len(result))
            return {str(name): float(number) for name, number in zip(names, result, strict=True)}
        msg = f"{self!r} must return numbers, got {describe(result)}; compute such a result outside of an evaluation."
        raise OptionError(msg)


def is_torch_metric(value: object) -> TypeIs[UpdatesAndComputes]:
    """Return whether an object has the methods of a metric of torchmetrics."""
    return not isinstance(value, type) and all(
        callable(getattr(value, name, None)) for name in ("update", "compute", "reset")
    )


def select_items(predictions: Predictions[object, object]) -> Selected:
    """Return the probabilities, or the numbers, and the targets of the rows or steps with a target.

    Raises:
        TargetError: for predictions of another kind, or without targets.
    """
    name = "a metric of torchmetrics"
    if has_class_scores(predictions):
        scores, targets = get_class_targets(predictions, name)
        is_known = targets != IGNORED
        return Selected(_widen(scores.values[is_known]).softmax(1), targets[is_known])
    if not isinstance(predictions, Values | MultiLabelScores):
        raise make_kind_error(name, "scores of classes or numbers", predictions)
    given, values = predictions.targets, predictions.values
    if given is None or not given.is_floating_point() or given.shape != values.shape:
        raise make_missing_error(name, "numbers or sets of classes as targets", predictions.metadata)
    is_known = has_target(given)
    values, numbers = _widen(values[is_known]), given[is_known]
    if isinstance(predictions, MultiLabelScores):
        return Selected(values.sigmoid(), (numbers > 0.5).long())
    return Selected(values, numbers.to(values.dtype))


def _widen(values: Tensor) -> Tensor:
    # Without gradients, and in float32 or more: many metrics reject lower precision on the CPU.
    return values.detach().to(torch.promote_types(values.dtype, torch.float32))


def _convert(part: object, selected: Selected) -> tuple[Tensor, Tensor]:
    """Return the arguments of a metric's `update`.

    Raises:
        TargetError: if the metric is for two classes, and there are more.
    """
    inner, seen = part, {id(part)}
    # A wrapper, such as a bootstrap, keeps the metric it wraps under this name.
    while is_torch_metric(wrapped := getattr(inner, "metric", None)) and id(wrapped) not in seen:
        inner = wrapped
        seen.add(id(inner))
    name, values = type(inner).__name__, selected.values
    if name == "Perplexity":
        return values.log().unsqueeze(0), selected.targets.unsqueeze(0)
    if name.startswith("Binary") and values.ndim == 2 and selected.targets.ndim == 1:
        if values.shape[1] != 2:
            msg = f"{name} must get two classes, got {values.shape[1]}; create it with task='multiclass'."
            raise TargetError(msg, classes=values.shape[1])
        return values[:, 1], selected.targets
    return values, selected.targets


def _list_parts(metric: UpdatesAndComputes) -> Mapping[object, UpdatesAndComputes]:
    """Return the metrics of a collection by name; of a single one, itself without a name."""
    if not isinstance(metric, Mapping) and not hasattr(metric, "compute_groups"):
        return {"": metric}
    items: Callable[[], Sequence[tuple[object, UpdatesAndComputes]]] = getattr(metric, "items")  # noqa: B009
    return dict(items())


def _merge_states(part: UpdatesAndComputes, other: UpdatesAndComputes) -> None:
    """Merge the state of a metric into another.

    Raises:
        OptionError: if the metric does not allow it.
    """
    merge: Callable[[object], None] | None = getattr(part, "merge_state", None)
    name = type(part).__name__
    try:
        if merge is None:
            raise RuntimeError("it has no merge_state")  # noqa: TRY301 - one message for both
        merge(other)
    except RuntimeError as error:
        msg = f"{name} of torchmetrics cannot be merged over ranks or parts: {error}; evaluate on one rank."
        raise OptionError(msg, metric=name) from error


def _join(*names: str) -> str:
    return ".".join(name for name in names if name)


def _is_never_distributed() -> bool:
    return False
