"""The loss of any head, with class weights and options; and its mean over many batches."""

from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any, Final, Protocol, TypeAlias, cast, final

import torch
from torch import Tensor

from pipeline.checks.hints import describe
from pipeline.checks.options import check_choice
from pipeline.data.decoded import Decoded
from pipeline.data.iteration import iterate
from pipeline.data.metadata import IGNORED, BatchMetadata, has_target
from pipeline.data.scores import Scores, StepScores
from pipeline.data.values import Joint, MultiLabelScores
from pipeline.errors import CompositionError, OptionError
from pipeline.labels import Labels
from pipeline.stages.input_stage import to_examples
from pipeline.stages.regress import Regress
from pipeline.stages.several_heads import Heads

Weight: TypeAlias = Tensor | Mapping[str, Tensor]
"""What the sum of the losses of a batch is divided by: the number of targets, or the sum of their classes' weights."""

Over: TypeAlias = "Tensor | float | Mapping[str, Tensor | float] | None"

_ONE: Final = ""
"""The name of the only head."""


class _HasLoss(Protocol):
    metadata: BatchMetadata

    def loss(self, **options: Any) -> Tensor: ...  # noqa: ANN401 - the options differ from head to head


@final
class Loss:
    """The loss of the predictions of one head or several.

    Args:
        class_weights: the weight of each class, or by head.
        label_smoothing: the probability that is spread over all classes.
        options: other options of the head's loss, or by head.
        heads: the names of several heads; empty for a single one.

    Raises:
        OptionError: if options or class weights are not by head, or name another.
    """

    def __init__(
        self,
        class_weights: Tensor | Mapping[str, Tensor] | None = None,
        label_smoothing: float = 0.0,
        options: Mapping[str, object] | None = None,
        heads: Sequence[str] = (),
    ) -> None:
        self.heads: Final = heads
        self._smoothing: Final = label_smoothing
        self._weights: Final = _by_head("class_weights", class_weights, heads)
        self._options: Final = _by_head("loss", options, heads)
        self._is_plain: Final = not (self._weights or self._options or label_smoothing)

    def compute(self, scores: object, over: Over = None, *, plain: bool = False) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the loss of a batch, and that of each head.

        Args:
            scores: the predictions.
            over: a divisor of the sum of the losses to use instead of the weight of the batch, or one by head.
            plain: leave out class weights and smoothing, as in validation.
        """
        if not isinstance(scores, Joint):
            one = self._compute_head(_ONE, scores, over, plain=plain)
            return one, {_ONE: one}
        joint = cast("Joint[object, Any]", scores)
        if self._is_plain:
            losses: Mapping[str, Tensor] = joint.losses(over=cast("Any", over))
        else:
            divisors = cast("Mapping[str, Tensor | float]", {} if over is None else over)
            losses = {
                name: self._compute_head(name, part, divisors.get(name), plain=plain)
                for name, part in joint.parts.items()
            }
        # As in Joint.loss, so that both have the same sum to the last bit.
        return torch.stack([joint.weights[name] * loss for name, loss in losses.items()]).sum(0), losses

    def _compute_head(self, name: str, scores: object, over: Over, *, plain: bool) -> Tensor:
        if not hasattr(scores, "loss"):
            msg = f"the pipe must end with a head, but it returns {describe(scores)}; join Classify or another."
            raise CompositionError(msg)
        options: dict[str, Any] = {**self._options.get(name, {})}
        if over is not None:
            options["over"] = over
        if not plain and isinstance(scores, Scores | StepScores | MultiLabelScores | Decoded):
            if (weight := self._weights.get(name)) is not None:
                options["weight"] = weight
            if self._smoothing:
                options["label_smoothing"] = self._smoothing
        return cast("_HasLoss", scores).loss(**options)

    def weigh(self, metadata: BatchMetadata, *, plain: bool = False) -> Mapping[str, Tensor]:
        """Return the weight of a batch by head: the number of targets, or the sum of their classes' weights."""
        targets = metadata.named_targets if self.heads else {_ONE: metadata.targets}
        return {name: self._weigh_head(name, each, plain=plain) for name, each in (targets or {}).items()}

    def _weigh_head(self, name: str, targets: Tensor | None, *, plain: bool) -> Tensor:
        if targets is None:
            return torch.zeros((), dtype=torch.int64)
        known = has_target(targets)
        weight = None if plain else self._weights.get(name)
        # As in torch, the weights of a multi-label loss do not change its divisor.
        if weight is None or targets.is_floating_point():
            return known.sum()
        weight = cast("Tensor", weight).to(targets.device, torch.promote_types(weight.dtype, torch.float32))
        return weight[targets.masked_fill(~known, 0)].masked_fill(targets == IGNORED, 0).sum()

    def to_over(self, weights: Mapping[str, Tensor]) -> Over:
        """Return weights in the form of `over`."""
        return weights if self.heads else weights.get(_ONE)


def _by_head(name: str, value: Any, heads: Sequence[str]) -> dict[str, Any]:  # noqa: ANN401 - weights or options
    """Return a value by the names of the heads; of a single one, by an empty name."""
    if value is None:
        return {}
    if not heads:
        return {_ONE: value}
    given: object = value
    if not isinstance(given, Mapping) or not set(cast("Mapping[str, object]", given)) <= set(heads):
        names = cast("Mapping[object, object]", given) if isinstance(given, Mapping) else None
        got = describe(value) if names is None else ", ".join(map(str, names))
        msg = f"{name} must be by the names of the heads, {', '.join(heads)}, got {got}; pass {{{heads[0]!r}: ...}}."
        raise OptionError(msg, **{name: value})
    return dict(cast("Mapping[str, Any]", given))


@final
class MeanLoss:
    """The mean of a loss over the targets of many batches; of several heads, the weighted sum of their means."""

    def __init__(self, head_weights: Mapping[str, float]) -> None:
        self._head_weights: Final = head_weights
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, sums: Mapping[str, float], weights: Mapping[str, float]) -> None:
        """Add the sum of the losses of each head in a batch, with its weight."""
        for name, loss in sums.items():
            total, weight = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = total + loss, weight + weights[name]

    def has_targets(self) -> bool:
        """Return whether any batch had a target, of a class whose weight is not 0."""
        return any(weight for _, weight in self._sums.values())

    def compute(self) -> float:
        """Return the mean; NaN if no batch had a target."""
        if not self.has_targets():
            return float("nan")
        return sum(
            self._head_weights.get(name, 1.0) * total / weight for name, (total, weight) in self._sums.items() if weight
        )

    def state_dict(self) -> dict[str, list[float]]:
        """Return the sums, for JSON."""
        return {name: list(pair) for name, pair in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        """Continue from the sums of `state_dict`."""
        self._sums = {name: (pair[0], pair[1]) for name, pair in state.items()}

    def merge(self, state: Mapping[str, Sequence[float]]) -> None:
        """Add the sums of another part of the data, as `state_dict` returned them."""
        self.add({name: pair[0] for name, pair in state.items()}, {name: pair[1] for name, pair in state.items()})


def reject_class_options(class_weights: object, label_smoothing: float, head: object) -> None:
    """Reject options for classes if the head has none: they would be ignored in silence.

    Raises:
        OptionError: with the option and the head.
    """
    heads: Mapping[str, object] = head.branches if isinstance(head, Heads) else {_ONE: head}
    numeric = [name for name, each in heads.items() if isinstance(each, Regress)]
    given: object = class_weights
    named = cast("Mapping[object, object]", given) if isinstance(given, Mapping) else {_ONE: given}
    weighted = next((name for name in numeric if named.get(name) is not None), None)
    if weighted is None and not (label_smoothing and len(numeric) == len(heads)):
        return
    option = "label_smoothing" if weighted is None else "class_weights"
    where = f" in {weighted!r}" if weighted else ""
    msg = f"{option} is for heads with classes, got the head Regress{where}, which has none; leave it out."
    raise OptionError(msg, option=option)


def check_weight_per_class(class_weights: object, head: object) -> None:
    """Reject class weights of which there is not one per class, or that are by head if there is a single one.

    Raises:
        OptionError: with the number of classes.
    """
    if isinstance(head, Heads):
        # Weights that are not by head, or of no head, are rejected by `Loss`.
        named: Mapping[str, object] = cast("Any", class_weights) if isinstance(class_weights, Mapping) else {}
        for name, each in head.branches.items():
            _check_weight_per_class(f"class_weights[{name!r}]", named.get(name), each)
        return
    if isinstance(class_weights, Mapping):
        names = list(cast("Mapping[object, object]", class_weights))
        msg = (
            "class_weights may be a mapping by head if there are several, but this pipe has one head, got the names "
            f"{', '.join(map(str, names))}; pass a weight per class, in the order of the classes."
        )
        raise OptionError(msg, class_weights=names)
    _check_weight_per_class("class_weights", class_weights, head)


def _check_weight_per_class(option: str, weight: object, head: object) -> None:
    names: Sized | None = getattr(head, "names", None)
    if isinstance(weight, Tensor) and names is not None and weight.shape != (len(names),):
        got = f"{weight.shape[0]} weights" if weight.dim() == 1 else describe(weight)
        msg = f"{option} must have one weight for each of {len(names)} classes, got {got}; pass {len(names)} weights."
        raise OptionError(msg, class_weights=weight, classes=len(names))


def find_class_weights(given: object, head: object, train: Iterable[object]) -> Any:  # noqa: ANN401 - see FitOptions
    """Return the class weights as they are given, or balanced.

    Raises:
        OptionError: if they should be balanced, but the head has no labels; for another word; or if there is not one
            per class.
    """
    if not isinstance(given, str):
        check_weight_per_class(given, head)
        return given
    check_choice("class_weights", given, ("balanced",))
    labels: object = getattr(head, "names", None)
    if not isinstance(labels, Labels):
        msg = (
            'class_weights="balanced" needs a head with labels, got '
            f"{type(head).__name__}; pass a tensor with a weight for each class."
        )
        raise OptionError(msg)
    return labels.class_weights(example.target for example in to_examples(iterate(train)))


def add_weights(weights: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """Return the sums of the weights of several batches, by head."""
    return {name: torch.stack([each[name] for each in weights]).sum() for name in weights[0]}
