"""Predictions other than one class: numbers, several classes per row, and those of several heads."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import methodcaller
from typing import Final, Generic, Never, Protocol, Self, cast

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import TypeVar, Unpack, override

from pipeline.checks.hints import describe, format_hint
from pipeline.checks.shapes import checked
from pipeline.checks.switches import checks_enabled
from pipeline.data.loss_options import (
    JointLossOptions,
    MultiLabelLossOptions,
    ReductionOptions,
    RegressionLossOptions,
    check_loss_options,
)
from pipeline.data.losses import RegressionLoss, get_numbers, multi_label_loss, regression_loss
from pipeline.data.metadata import BatchMetadata, Collated, check_metadata, make_row_metadata
from pipeline.data.predictions import JointPrediction, LocateSteps, MultiLabelPrediction
from pipeline.data.rows import FILLER
from pipeline.data.scores import N, Predictions, StepScores, check_names
from pipeline.data.tensors import to_ints
from pipeline.data.trees import as_pytree
from pipeline.errors import OptionError, TargetError

R = TypeVar("R")
D_co = TypeVar("D_co", covariant=True, default=tuple[object, ...])
"""The type of the tuple of the heads' predictions with their scores."""
V = TypeVar("V", default=float)
"""The type of a predicted number, or of several: `float` or `list[float]`."""

_SIMPLE_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "str": (str,),
    "int": (int,),
    # As for a type checker, an int is good for a float.
    "float": (float, int),
    "list": (list,),
}

_to_list: Callable[[Tensor], list[object]] = methodcaller("tolist")


@as_pytree
@checked
@attrs.frozen(eq=False)
class Values(Collated, Predictions[V, V], Generic[V]):
    """One number, or a vector of numbers, for each row.

    Attributes:
        values: the numbers.
        metadata: row ids and targets.

    Example:
        >>> import torch
        >>> list(Values[float](torch.tensor([0.5, 2.0])).rows())
        [(0, 0.5), (1, 2.0)]
    """

    values: Float[Tensor, "batch *size"]
    metadata: BatchMetadata = attrs.field(default=attrs.Factory(make_row_metadata, takes_self=True), kw_only=True)

    def __attrs_post_init__(self) -> None:
        if checks_enabled():
            check_metadata(self.metadata, self.values.shape[0])

    def rows(self) -> Iterator[tuple[int, V]]:
        """Yield the row id and the number, or the list of numbers, of each row."""
        row_ids, values = to_ints(self.metadata.row_ids), cast("list[V]", _to_list(self.values))
        return ((row_id, value) for row_id, value in zip(row_ids, values, strict=True) if row_id != FILLER)

    def with_values(self, values: Float[Tensor, "batch *size"]) -> Self:
        """Return the same rows with other numbers, such as rescaled ones."""
        return attrs.evolve(self, values=values)

    def loss(self, kind: RegressionLoss = "mse", **options: Unpack[RegressionLossOptions]) -> Float[Tensor, " *batch"]:
        """Return the squared error, absolute error or Huber's loss, averaged over the rows that have a target.

        Args:
            kind: `mse`, `l1` or `huber`.
            options: see `RegressionLossOptions`.

        Raises:
            TargetError: if the batch has no numbers of this size as targets.
        """
        targets = get_numbers(self.metadata, self.values)
        return regression_loss(self.values, targets, kind, **options)


@as_pytree
@checked
@attrs.frozen(eq=False)
class MultiLabelScores(Collated, Predictions[list[N], MultiLabelPrediction[N]], Generic[N]):
    """One score per class for each row, where a row may have several classes or none.

    Attributes:
        values: the scores before the sigmoid.
        names: the predicted value of each class: its name, or its id if no labels were given.
        thresholds: the probability from which a class is predicted, one for each class.
        metadata: row ids and targets.

    Example:
        >>> import torch
        >>> values, half = torch.tensor([[2.0, -1.0], [3.0, 1.0]]), torch.tensor([0.5, 0.5])
        >>> scores = MultiLabelScores(values, ["new", "spam"], half)
        >>> list(scores.rows())
        [(0, ['new']), (1, ['new', 'spam'])]
    """

    values: Float[Tensor, "batch classes"]
    names: Sequence[N]
    thresholds: Float[Tensor, " classes"]
    metadata: BatchMetadata = attrs.field(default=attrs.Factory(make_row_metadata, takes_self=True), kw_only=True)

    def __attrs_post_init__(self) -> None:
        if checks_enabled():
            check_names(self.names, self.values.shape[1])
            check_metadata(self.metadata, self.values.shape[0])

    @property
    def probabilities(self) -> Float[Tensor, "batch classes"]:
        """The probability of each class."""
        # Torch's sigmoid has other last bits at the end of a tensor. A threshold must not depend on the place of a row.
        return torch.stack([self.values, torch.zeros_like(self.values)], -1).softmax(-1)[..., 0]

    @property
    def predicted(self) -> Bool[Tensor, "batch classes"]:
        """Which classes are predicted."""
        return self.probabilities >= self.thresholds

    def rows(self) -> Iterator[tuple[int, list[N]]]:
        """Yield the row id and the predicted classes of each row."""
        row_ids, predicted = to_ints(self.metadata.row_ids), cast("list[list[bool]]", _to_list(self.predicted))
        for row_id, row in zip(row_ids, predicted, strict=True):
            if row_id != FILLER:
                yield row_id, [name for name, is_predicted in zip(self.names, row, strict=True) if is_predicted]

    @override
    def scored_rows(self, locate: LocateSteps | None = None, /) -> Iterator[tuple[int, MultiLabelPrediction[N]]]:
        """Yield the row id and the predicted classes of each row, with the scores of all classes."""
        rows = zip(self.metadata.row_ids, self.values.detach().cpu(), strict=True)
        real = (scores for row_id, scores in rows if row_id != FILLER)
        for (row_id, labels), scores in zip(self.rows(), real, strict=True):
            yield row_id, MultiLabelPrediction(labels, scores, self.names)

    def with_values(self, values: Float[Tensor, "batch classes"]) -> Self:
        """Return the same rows and classes with other scores, such as scaled ones."""
        return attrs.evolve(self, values=values)

    def loss(self, **options: Unpack[MultiLabelLossOptions]) -> Float[Tensor, " *batch"]:
        """Return the binary cross-entropy, averaged over the classes, and over the rows that have a target.

        Args:
            options: see `MultiLabelLossOptions`.

        Raises:
            TargetError: if the batch has no sets of classes as targets.
        """
        return multi_label_loss(self.values, get_numbers(self.metadata, self.values, "MultiLabels(labels)"), **options)


@as_pytree
@attrs.frozen(eq=False, init=False)
class Joint(Collated, Predictions[R, JointPrediction[R, D_co]], Generic[R, D_co]):
    """The predictions of several heads for the same rows.

    Attributes:
        parts: the predictions of each head, by name.
        into: makes one prediction of those of the heads, in their order.
        weights: the weight of each head's loss.
        metadata: row ids and targets.
    """

    parts: Mapping[str, Predictions[object]]
    into: Callable[..., R]
    weights: Mapping[str, float]
    metadata: BatchMetadata = attrs.field(kw_only=True)

    # By hand, because torch.compile cannot trace the one that attrs makes for a frozen class.
    def __init__(
        self,
        parts: Mapping[str, Predictions[object]],
        into: Callable[..., R],
        weights: Mapping[str, float],
        *,
        metadata: BatchMetadata,
    ) -> None:
        held = (("parts", parts), ("into", into), ("weights", weights), ("metadata", metadata))
        for name, value in held:
            object.__setattr__(self, name, value)

    def rows(self) -> Iterator[tuple[int, R]]:
        """Yield the row id and the joint prediction of each row.

        Raises:
            OptionError: if the prediction of a head is of another type than the field of `into` it becomes.
        """
        has_checked = not checks_enabled()
        for found in zip(*(part.rows() for part in self.parts.values()), strict=True):
            predictions = [prediction for _, prediction in found]
            if not has_checked:
                # All rows have the same types.
                _check_fields(self.into, predictions)
                has_checked = True
            yield found[0][0], self.into(*predictions)

    @override
    def scored_rows(self, locate: LocateSteps | None = None, /) -> Iterator[tuple[int, JointPrediction[R, D_co]]]:
        """Yield the row id and the joint prediction of each row, with the predictions of the heads and their scores."""
        heads = zip(*(part.scored_rows(locate) for part in self.parts.values()), strict=True)
        for (row_id, prediction), scored in zip(self.rows(), heads, strict=True):
            yield row_id, JointPrediction(prediction, cast("D_co", tuple(each for _, each in scored)))

    def losses(self, *kind: Never, **options: Unpack[JointLossOptions]) -> dict[str, Tensor]:
        """Return the loss of each head by name, with the head's own default loss.

        Args:
            kind: none: for another loss of a head, use that of its part.
            options: see `JointLossOptions`.

        Raises:
            OptionError: if a kind is given, `over` does not have one number per head, or an option is unknown.
            TargetError: if a head has no targets, or those of another type.
        """
        if kind:
            msg = (
                f"the loss of several heads takes no kind of loss, got {kind[0]!r:.60}; use the loss of a part, such "
                f"as joint.parts[{[*self.parts][-1]!r}].loss({kind[0]!r:.60})."
            )
            raise OptionError(msg, kind=kind[0])
        check_loss_options(options, JointLossOptions)
        reduction, over = options.get("reduction", "mean"), options.get("over")
        given: object = over
        if over is not None and (not isinstance(given, Mapping) or over.keys() != self.parts.keys()):
            got = ", ".join(over) if isinstance(given, Mapping) else describe(given)
            msg = f"over must have one number for each head, {', '.join(self.parts)}, got {got}; pass metadata.weights."
            raise OptionError(msg, over=over)
        losses: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            try:
                # Every shipped type of predictions has a loss; one of a user's own needs the same method.
                head = cast("_HasLoss", part)
                losses[name] = head.loss(reduction=reduction, over=None if over is None else over[name])
            except TargetError as error:
                msg = f"head {name!r}: {error}"
                if self.metadata.named_targets is None:
                    named = ", ".join(f"{each!r}: ..." for each in self.parts)
                    msg += f" With several heads, name their targets: Pad(targets={{{named}}})."
                raise TargetError(msg, **{**error.details, "head": name}) from error
        return losses

    def loss(self, *kind: Never, **options: Unpack[JointLossOptions]) -> Tensor:
        """Return the sum of the heads' losses, each multiplied by its weight.

        Args:
            kind: none, as in `losses`.
            options: see `JointLossOptions`; with `reduction="none"`, all heads must be for rows, or all for steps.

        Raises:
            OptionError: as `losses`, or if losses of rows and of steps would be added.
            TargetError: if a head has no targets, or those of another type.
        """
        losses = self.losses(*kind, **options)
        shapes = {name: tuple(loss.shape) for name, loss in losses.items()}
        # The shapes may be equal by chance: two rows may have two steps in all.
        units = {isinstance(part, StepScores) for part in self.parts.values()}
        if len(set(shapes.values())) > 1 or (options.get("reduction") == "none" and len(units) > 1):
            msg = f"the losses of rows and of steps cannot be added, got shapes {shapes}; use `losses`."
            raise OptionError(msg, shapes=shapes)
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum(0)


def _check_fields(into: Callable[..., object], predictions: Sequence[object]) -> None:
    """Reject predictions that become a field of another type, where it is annotated as a simple class.

    Raises:
        OptionError: naming the field.
    """
    try:
        parameters = inspect.signature(into).parameters.values()
    except (TypeError, ValueError):
        return
    # Of *parts, only the first is checked.
    for parameter, prediction in zip(parameters, predictions, strict=False):
        # Not evaluated if it is a text, whose names need not exist while a program runs.
        annotation: object = parameter.annotation
        hint = annotation if isinstance(annotation, str) else format_hint(annotation)
        match = re.fullmatch(r"(str|int|float|list)(\[[^|]*\])?", hint)
        if match and not isinstance(prediction, _SIMPLE_TYPES[match[1]]):
            name: str = getattr(into, "__name__", "into")
            msg = (
                f"field {parameter.name!r} of {name} is {hint}, but the head at its place predicts "
                f"{describe(prediction)}, {prediction!r:.60}; list heads and fields in the same order."
            )
            raise OptionError(msg, field=parameter.name)


class _HasLoss(Protocol):
    def loss(self, **options: Unpack[ReductionOptions]) -> Tensor: ...
