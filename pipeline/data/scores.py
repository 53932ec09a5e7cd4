"""Class scores of rows or steps, their losses, and the predictions that follow from them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Generic, Self, cast

import attrs
from jaxtyping import Float, Int64
from torch import Tensor
from typing_extensions import TypeVar, Unpack, override

from pipeline.checks.shapes import checked
from pipeline.checks.switches import checks_enabled
from pipeline.data.batch_checks import check_lengths, check_step_count
from pipeline.data.batches import pack_values
from pipeline.data.loss_options import ClassLossOptions
from pipeline.data.losses import cross_entropy, describe_targets
from pipeline.data.metadata import (
    IGNORED,
    BatchMetadata,
    Collated,
    check_metadata,
    has_target,
    make_metadata,
    make_row_metadata,
)
from pipeline.data.packing_order import PackingOrder, make_order
from pipeline.data.predictions import ClassPrediction, LocateSteps, StepPrediction, compute_probabilities
from pipeline.data.rows import FILLER
from pipeline.data.tensors import to_floats, to_ints
from pipeline.data.trees import ON_CPU, as_pytree
from pipeline.errors import ShapeError, TargetError

R_co = TypeVar("R_co", covariant=True)
D_co = TypeVar("D_co", covariant=True, default=object)
N = TypeVar("N", default=int)
"""The type of a predicted class: its id, or its name."""


class Predictions(ABC, Generic[R_co, D_co]):
    """A batch of predictions with the row id of each.

    The second type variable is that of a prediction with its scores.
    """

    @abstractmethod
    def rows(self) -> Iterator[tuple[int, R_co]]:
        """Yield the row id and the prediction of each row; fillers are left out."""

    def scored_rows(self, locate: LocateSteps | None = None, /) -> Iterator[tuple[int, D_co]]:  # noqa: ARG002 - for others
        """Yield the row id and the prediction with its scores; by default the prediction itself.

        Args:
            locate: returns where the steps of a row are in its input.
        """
        return cast("Iterator[tuple[int, D_co]]", self.rows())

    def for_export(self) -> "Predictions[object, object]":
        """Return the same predictions as `Values`, `Scores` or the like, whose tensors `export` writes.

        By default this is the object itself. A type of your own returns, for example, `Values` with one number per row.
        It must work in a traced graph: read no number from a tensor.
        """
        return self


@as_pytree
@checked
@attrs.frozen(eq=False)
class Scores(Collated, Predictions[N, ClassPrediction[N]], Generic[N]):
    """One score per class for each row.

    Attributes:
        values: the scores before softmax.
        names: the predicted value of each class: its name, or its id if no labels were given.
        metadata: row ids and targets.

    Example:
        >>> import torch
        >>> scores = Scores(torch.tensor([[0.0, 2.0], [3.0, 1.0]]), ["no", "yes"])
        >>> list(scores.rows())
        [(0, 'yes'), (1, 'no')]
    """

    values: Float[Tensor, "batch classes"]
    names: Sequence[N]
    metadata: BatchMetadata = attrs.field(default=attrs.Factory(make_row_metadata, takes_self=True), kw_only=True)

    def __attrs_post_init__(self) -> None:
        if checks_enabled():
            check_names(self.names, self.values.shape[1])
            check_metadata(self.metadata, self.values.shape[0])

    @property
    def best(self) -> Int64[Tensor, " batch"]:
        """The number of the predicted class of each row: the one with the highest score."""
        return self.values.argmax(1)

    def rows(self) -> Iterator[tuple[int, N]]:
        """Yield the row id and the best class of each row."""
        best, row_ids = to_ints(self.best), to_ints(self.metadata.row_ids)
        return ((row_id, self.names[index]) for row_id, index in zip(row_ids, best, strict=True) if row_id != FILLER)

    @override
    def scored_rows(self, locate: LocateSteps | None = None, /) -> Iterator[tuple[int, ClassPrediction[N]]]:
        """Yield the row id and the best class of each row, with the scores of all classes."""
        found = _score_classes(self.values, self.best, self.names)
        for row_id, each in zip(to_ints(self.metadata.row_ids), found, strict=True):
            if row_id != FILLER:
                yield row_id, ClassPrediction(*each)

    def with_values(self, values: Float[Tensor, "batch classes"]) -> Self:
        """Return the same rows and classes with other scores, such as scaled ones."""
        return attrs.evolve(self, values=values)

    def log_softmax(self) -> Float[Tensor, "batch classes"]:
        """Return the logarithms of the class probabilities."""
        return self.values.log_softmax(1)

    def loss(self, **options: Unpack[ClassLossOptions]) -> Float[Tensor, " *batch"]:
        """Return the cross-entropy, averaged over the rows that have a target.

        Args:
            options: see `ClassLossOptions`; with `reduction="none"`, one loss per row.

        Raises:
            TargetError: if the batch has no targets per row, or a target is not a class.
        """
        targets = self.metadata.targets
        if targets is None or targets.ndim != 1 or targets.is_floating_point():
            raise make_missing_error("row", self.metadata)
        return cross_entropy(self.values, targets, self.metadata.row_ids, **options)


@as_pytree
@checked
@attrs.frozen(eq=False)
class StepScores(Collated, Predictions[list[N], list[StepPrediction[N]]], Generic[N]):
    """One score per class for each real step, packed.

    Attributes:
        values: the scores before softmax, in packed order.
        lengths: the number of steps of each row, in reading order; on the CPU.
        names: the predicted value of each class: its name, or its id if no labels were given.
        metadata: row ids, targets and masks.
        order: the positions of the steps; computed from the lengths by default.
        step_numbers: the number of each step in its row, where only some steps of the rows have scores; None for all
            steps; on the CPU.

    Example:
        >>> import torch
        >>> scores = StepScores(torch.eye(3), torch.tensor([1, 2]), range(3))
        >>> list(scores.rows())
        [(0, [1]), (1, [0, 2])]
    """

    values: Float[Tensor, "steps classes"]
    lengths: Int64[Tensor, " batch"] = attrs.field(metadata=ON_CPU)
    names: Sequence[N]
    metadata: BatchMetadata = attrs.field(default=attrs.Factory(make_metadata, takes_self=True), kw_only=True)
    order: PackingOrder = attrs.field(default=attrs.Factory(make_order, takes_self=True), kw_only=True, repr=False)
    step_numbers: Int64[Tensor, "batch time"] | None = attrs.field(default=None, kw_only=True, metadata=ON_CPU)

    def __attrs_post_init__(self) -> None:
        if checks_enabled():
            check_lengths(self.lengths, self.order)
            check_step_count(len(self.values), self.order.steps)
            check_names(self.names, self.values.shape[1])
            check_metadata(self.metadata, self.lengths.shape[0])

    @property
    def best(self) -> Int64[Tensor, " steps"]:
        """The number of the predicted class of each step in the order of `values`: the one with the highest score."""
        return self.values.argmax(1)

    @property
    def class_scores(self) -> Float[Tensor, "steps classes"]:
        """The scores to show beside predictions: their softmax is the probability of each class."""
        return self.values

    def rows(self) -> Iterator[tuple[int, list[N]]]:
        """Yield the row id of each row, and the best class of each of its steps that needs a prediction."""
        best = self.best.index_select(0, self.order.reading_order).cpu()
        answer_mask = self.metadata.answer_mask
        # One transfer from the device for the whole batch; the steps of row r are then `best[ends[r] - lengths[r] :
        # ends[r]]`.
        row_ids, lengths, ends = map(to_ints, (self.metadata.row_ids, self.lengths, self.lengths.cumsum(0)))
        for row, (row_id, length, end) in enumerate(zip(row_ids, lengths, ends, strict=True)):
            if row_id == FILLER:
                continue
            classes = best[end - length : end]
            if answer_mask is not None:
                classes = classes[answer_mask[row, :length]]
            yield row_id, [self.names[index] for index in to_ints(classes)]

    @override
    def scored_rows(self, locate: LocateSteps | None = None, /) -> Iterator[tuple[int, list[StepPrediction[N]]]]:
        """Yield the row id of each row, and the best class of each step that needs a prediction, with all scores."""
        order = self.order.reading_order
        found = _score_classes(self.class_scores.index_select(0, order), self.best.index_select(0, order), self.names)
        metadata, lengths = self.metadata, to_ints(self.lengths)
        starts = [0] * len(lengths) if metadata.start_steps is None else to_ints(metadata.start_steps)
        for row, (row_id, length, start) in enumerate(zip(to_ints(metadata.row_ids), lengths, starts, strict=True)):
            steps = list(islice(found, length))
            if row_id == FILLER:
                continue
            needed: Sequence[int] = range(length)
            if metadata.answer_mask is not None:
                needed = to_ints(metadata.answer_mask[row, :length].nonzero().flatten())
            places = range(length) if self.step_numbers is None else to_ints(self.step_numbers[row, :length])
            spans = None if locate is None else locate(row_id)
            if spans is not None and length and len(spans) <= start + places[-1]:
                spans = None  # a stage of the user's own added steps
            found_steps = [(steps[step], start + places[step]) for step in needed]
            yield (
                row_id,
                [
                    StepPrediction(*each, step=place, span=None if spans is None else spans[place])
                    for each, place in found_steps
                ],
            )

    def with_values(self, values: Float[Tensor, "steps classes"]) -> Self:
        """Return the same rows and classes with other scores, such as scaled ones."""
        return attrs.evolve(self, values=values)

    def log_softmax(self) -> Float[Tensor, "steps classes"]:
        """Return the logarithms of the class probabilities."""
        return self.values.log_softmax(1)

    def loss(self, **options: Unpack[ClassLossOptions]) -> Float[Tensor, " *steps"]:
        """Return the cross-entropy, averaged over the steps that have a target (padding, bos and eos have none).

        Args:
            options: see `ClassLossOptions`; with `reduction="none"`, one loss per step.

        Raises:
            TargetError: if the batch has no targets per step, or a target is not a class.
        """
        targets = self.packed_targets
        if targets is None:
            raise make_missing_error("step", self.metadata)
        return cross_entropy(
            self.values, targets, self.metadata.row_ids, lambda: self.order.locate_steps(self.values)[0], **options
        )

    @property
    def packed_targets(self) -> Int64[Tensor, " steps"] | None:
        """The target of each step in the order of `values`, for a loss of your own; None without targets per step."""
        targets = self.metadata.targets
        if targets is None or targets.is_floating_point():
            return None
        if targets.ndim == 1:
            # A batch in which no row has a target does not show whether targets are per row or per step.
            return None if bool(has_target(targets).any()) else targets.new_full(self.values.shape[:1], IGNORED)
        # Targets are padded in either layout; the scores are packed.
        return pack_values(targets, self.order, self.values)


def _score_classes(
    values: Float[Tensor, "item classes"], best: Int64[Tensor, " item"], names: Sequence[N]
) -> Iterator[tuple[N, float, Float[Tensor, " classes"], Sequence[N]]]:
    """Yield the predicted class of each item, its probability, the item's scores, and the names of all classes."""
    # One transfer from the device for the whole batch.
    values = values.detach().cpu()
    best = best.cpu().unsqueeze(1)
    probabilities = compute_probabilities(values).gather(1, best).flatten()
    for index, probability, scores in zip(to_ints(best.flatten()), to_floats(probabilities), values, strict=True):
        yield names[index], probability, scores, names


def check_names(names: Sequence[object], classes: int) -> None:
    """Reject names of another number than the classes.

    Raises:
        ShapeError: with both numbers.
    """
    if len(names) != classes:
        msg = (
            f"names must have one entry per class, got {len(names)} for {classes} classes; build both from one Labels."
        )
        raise ShapeError(msg, argument="names")


def make_missing_error(unit: str, metadata: BatchMetadata) -> TargetError:
    """Return the error for a loss without its targets."""
    msg = (
        f"the loss needs one target per {unit}, but the batch has {describe_targets(metadata)}; pass inputs as "
        "Example(input, target=...)."
    )
    return TargetError(msg, unit=unit)
