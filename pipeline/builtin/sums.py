"""Base class of the metrics that follow from sums over rows or steps."""

from abc import abstractmethod
from typing import ClassVar, TypeAlias

import torch
from jaxtyping import Int64
from torch import Tensor
from typing_extensions import override

from pipeline.checks.hints import describe
from pipeline.data.losses import describe_targets
from pipeline.data.metadata import BatchMetadata
from pipeline.data.scores import Predictions
from pipeline.errors import OptionError, TargetError
from pipeline.parts.metric import Metric

Counted: TypeAlias = tuple[Tensor, Int64[Tensor, ""]]
"""The sums of a batch, and its number of rows or steps with a target."""


class SumMetric(Metric):
    """A metric that is computed from sums over the rows or steps that have a target.

    The sums stay on the device of the predictions, so that an update does not wait for it.

    Attributes:
        sums: the sums so far; None before the first update.
        targets: the number of rows or steps with a target so far; None before the first update.
    """

    unit: ClassVar[str] = "classes"
    """What the last axis of the sums counts, for errors."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self.targets: Int64[Tensor, ""] | None = None

    @override
    def update(self, predictions: Predictions[object, object], /) -> None:
        # Without gradients, which would keep the graph of every batch.
        with torch.no_grad():
            self._add(*self.count(predictions))

    @override
    def merge(self, other: Metric, /) -> None:
        if not isinstance(other, type(self)):
            msg = f"{type(self).__name__} can be merged with its own kind, got {describe(other)}."
            raise OptionError(msg)
        if other.sums is not None and other.targets is not None:
            self._add(other.sums, other.targets)

    @override
    def compute(self) -> float:
        if self.sums is None or self.targets is None or not self.targets:
            msg = f"{type(self).__name__} needs at least one target, got none; call update with batches that have some."
            raise TargetError(msg)
        return float(self.summarize(self.sums.cpu(), int(self.targets)))

    @abstractmethod
    def count(self, predictions: Predictions[object, object], /) -> Counted:
        """Return the sums of a batch, and its number of rows or steps with a target.

        Raises:
            TargetError: if the metric is not for such predictions, or they have no targets.
        """

    @abstractmethod
    def summarize(self, sums: Tensor, targets: int, /) -> Tensor | float:
        """Return the metric from all sums, which are on the CPU."""

    def combine(self, sums: Tensor, others: Tensor, /) -> Tensor:
        """Return the sums of two parts together; by default their sum."""
        return sums + others

    def _add(self, sums: Tensor, targets: Tensor) -> None:
        if self.sums is None or self.targets is None:
            self.sums, self.targets = sums, targets
            return
        if self.sums.shape != sums.shape:
            have, got = self.sums.shape[-1], sums.shape[-1]
            name = type(self).__name__
            msg = f"{name} has counts of {have} {self.unit}, got scores of {got}; use one for each model."
            raise OptionError(msg, have=have, got=got)
        device = self.sums.device
        self.sums = self.combine(self.sums, sums.to(device))
        self.targets = self.targets + targets.to(device)


def make_kind_error(metric: str, wanted: str, predictions: object) -> TargetError:
    """Return the error for predictions of a kind that a metric is not for."""
    return TargetError(f"{metric} must get {wanted}, got {describe(predictions)}.")


def make_missing_error(metric: str, wanted: str, metadata: BatchMetadata) -> TargetError:
    """Return the error for predictions without the targets that a metric needs."""
    msg = f"{metric} needs {wanted}, but the batch has {describe_targets(metadata)}; pass examples with targets."
    return TargetError(msg)
