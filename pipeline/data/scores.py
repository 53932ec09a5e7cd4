"""Scores, their losses, and the answers that they stand for."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Generic, Self

import attrs
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional
from typing_extensions import TypeVar

from pipeline.checks.shapes import checked
from pipeline.checks.switches import at_border
from pipeline.data.batches import check_lengths, check_steps
from pipeline.data.device import STAYS, to_device
from pipeline.data.metadata import IGNORED, BatchMetadata, check_metadata, default_metadata, default_row_metadata
from pipeline.data.order import Order, ints, order_of
from pipeline.data.pytrees import as_pytree
from pipeline.data.rows import FILLER
from pipeline.errors import ShapeError, TargetError

R_co = TypeVar("R_co", covariant=True)
N = TypeVar("N", default=int)
"""What a class is called in the answers: its number, or its name."""


class Predictions(ABC, Generic[R_co]):
    """A batch of answers that knows each row's place in the input."""

    @abstractmethod
    def rows(self) -> Iterator[tuple[int, R_co]]:
        """Each row's place in the input, and its answer; none for rows that fill the batch up."""


@as_pytree
@checked
@attrs.frozen(eq=False)
class Scores(Predictions[N], Generic[N]):
    """A score a class for every row.

    Attributes:
        values: the scores before softmax.
        names: what each class is called in the answers; its number where no labels were given.

    Example:
        >>> scores = Scores(torch.tensor([[0.0, 2.0], [3.0, 1.0]]), ["no", "yes"])
        >>> list(scores.rows())
        [(0, 'yes'), (1, 'no')]
    """

    values: Float[Tensor, "batch classes"]
    names: Sequence[N]
    metadata: BatchMetadata = attrs.field(default=attrs.Factory(default_row_metadata, takes_self=True), kw_only=True)

    def __attrs_post_init__(self) -> None:
        if at_border():
            _check_names(self.names, self.values.shape[1])
            check_metadata(self.metadata, self.values.shape[0])

    def rows(self) -> Iterator[tuple[int, N]]:
        """Each row's place in the input, and its best class."""
        best: list[int] = ints(self.values.argmax(1))
        places = ints(self.metadata.row_ids)
        return ((place, self.names[index]) for place, index in zip(places, best, strict=True) if place != FILLER)

    def log_softmax(self) -> Float[Tensor, "batch classes"]:
        """Logarithms of the classes' probabilities."""
        return self.values.log_softmax(1)

    def loss(self, *, over: Tensor | float | None = None) -> Float[Tensor, ""]:
        """Cross-entropy, a mean over the rows that have a target.

        Args:
            over: what to divide the sum by, instead of these rows: the weight of a whole batch
                (`batch.metadata.weight`, summed), so that micro-batches add up to its loss.

        Raises:
            TargetError: if no row came with a target, or one is no class.
        """
        targets = self.metadata.targets
        if targets is None or targets.ndim != 1:
            raise _missing_targets("row", targets)
        return _cross_entropy(self.values, targets, self.metadata.row_ids, over)

    def to(self, device: torch.device | str) -> Self:
        """The same scores on another device."""
        return to_device(self, device)


@as_pytree
@checked
@attrs.frozen(eq=False)
class StepScores(Predictions[list[N]], Generic[N]):
    """A score a class for every real step, packed.

    Attributes:
        values: the scores before softmax, in packed order.
        lengths: how many steps each row has, rows in reading order; on the CPU.
        names: what each class is called in the answers; its number where no labels were given.

    Example:
        >>> scores = StepScores(torch.eye(3), torch.tensor([1, 2]), range(3))
        >>> list(scores.rows())
        [(0, [1]), (1, [0, 2])]
    """

    values: Float[Tensor, "steps classes"]
    lengths: Int64[Tensor, " batch"] = attrs.field(metadata=STAYS)
    names: Sequence[N]
    metadata: BatchMetadata = attrs.field(default=attrs.Factory(default_metadata, takes_self=True), kw_only=True)
    order: Order = attrs.field(default=attrs.Factory(order_of, takes_self=True), kw_only=True, repr=False)

    def __attrs_post_init__(self) -> None:
        if at_border():
            check_lengths(self.lengths, self.order)
            check_steps(len(self.values), self.order.steps)
            _check_names(self.names, self.values.shape[1])
            check_metadata(self.metadata, self.lengths.shape[0])

    def rows(self) -> Iterator[tuple[int, list[N]]]:
        """Each row's place in the input, and the best class of each of its steps that is asked for."""
        best = self.values.argmax(1).index_select(0, self.order.reading).cpu()
        asked = self.metadata.answer_mask
        ends = ints(self.lengths.cumsum(0))
        for row, (place, length, end) in enumerate(
            zip(ints(self.metadata.row_ids), ints(self.lengths), ends, strict=True)
        ):
            if place == FILLER:
                continue
            classes = best[end - length : end]
            wanted = classes if asked is None else classes[asked[row, :length]]
            yield place, [self.names[index] for index in ints(wanted)]

    def log_softmax(self) -> Float[Tensor, "steps classes"]:
        """Logarithms of the classes' probabilities."""
        return self.values.log_softmax(1)

    def loss(self, *, over: Tensor | float | None = None) -> Float[Tensor, ""]:
        """Cross-entropy, a mean over the steps that have a target: padding, bos and eos weigh nothing.

        Args:
            over: what to divide the sum by, instead of these steps: the weight of a whole batch
                (`batch.metadata.weight`, summed), so that micro-batches add up to its loss.

        Raises:
            TargetError: if no row came with targets, or one is no class.
        """
        targets = self.metadata.targets
        if targets is None or targets.ndim != 2:
            raise _missing_targets("step", targets)
        steps = targets.flatten().index_select(0, self.order.cells(targets.shape[1]))
        return _cross_entropy(self.values, steps, self.metadata.row_ids, over, rows=self.order.row)

    def to(self, device: torch.device | str) -> Self:
        """The same scores on another device."""
        return to_device(self, device)


def _check_names(names: Sequence[object], classes: int) -> None:
    if len(names) != classes:
        msg = f"names has {len(names)} classes, but values scores {classes}; build both from one Labels."
        raise ShapeError(msg, argument="names")


def _missing_targets(unit: str, targets: Tensor | None) -> TargetError:
    came = "none" if targets is None else "one a row" if targets.ndim == 1 else "one a step"
    msg = f"the loss needs targets, one a {unit}, but the batch has {came}; feed Example(input, target=...) with them."
    return TargetError(msg, unit=unit)


def _cross_entropy(
    values: Float[Tensor, "item classes"],
    targets: Int64[Tensor, " item"],
    places: Int64[Tensor, " batch"],
    over: Tensor | float | None,
    rows: Int64[Tensor, " item"] | None = None,
) -> Float[Tensor, ""]:
    classes = values.shape[1]
    # Reading the targets of a device would make it wait: there, torch's own kernel asserts.
    if targets.device.type == "cpu":
        strange = (targets != IGNORED) & ((targets < 0) | (targets >= classes))
        if strange.any():
            item = int(strange.nonzero()[0])
            place = int(places[item if rows is None else rows[item]])
            msg = (
                f"targets must be classes from 0 to {classes - 1}, but {int(targets[item])} arrived in row {place}; "
                "give the head as many classes as there are, or build both from one Labels."
            )
            raise TargetError(msg, row=place, target=int(targets[item]), classes=classes)
    total = functional.cross_entropy(values, targets, ignore_index=IGNORED, reduction="sum")
    return total / ((targets != IGNORED).sum().clamp(min=1) if over is None else over)
