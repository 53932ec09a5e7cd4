"""Metrics of classes: accuracy and macro F1."""

from abc import abstractmethod
from typing import final

import torch
from jaxtyping import Int64
from torch import Tensor
from typing_extensions import override

from pipeline.checks.hints import describe
from pipeline.data.metadata import IGNORED
from pipeline.data.scores import Predictions, Scores, StepScores
from pipeline.errors import OptionError, TargetError
from pipeline.parts.metric import Metric


class _ClassMetric(Metric):
    """A metric that is computed from how many targets of each class there are, and how many of them are predicted."""

    def __init__(self) -> None:
        # Targets, predictions and correct predictions of each class. Kept on the device of the scores, so that an
        # update does not wait for it.
        self.counts: Int64[Tensor, "3 classes"] | None = None

    @override
    def update(self, predictions: Predictions[object, object], /) -> None:
        name = type(self).__name__
        if not isinstance(predictions, Scores | StepScores):
            msg = f"{name} must get scores of classes, Scores or StepScores, got {describe(predictions)}."
            raise TargetError(msg)
        targets = predictions.targets if isinstance(predictions, Scores) else predictions.packed_targets
        if targets is None or targets.ndim != 1 or targets.is_floating_point():
            msg = f"{name} needs a target per row or step, but the batch has none; pass examples with targets."
            raise TargetError(msg)
        classes = predictions.values.shape[1]
        is_known = targets != IGNORED
        if targets.device.type == "cpu" and not bool(((targets < classes) & ((targets >= 0) | ~is_known)).all()):
            msg = f"targets must be classes, 0 to {classes - 1}, got {int(targets.max())}; use the labels of the model."
            raise TargetError(msg)
        best = predictions.values.argmax(1)
        # Items that do not count become class 0 of one class more, which is dropped: selecting the others would wait
        # for the device.
        correct = (is_known & (best == targets), targets)
        found = [torch.where(*each, -1) + 1 for each in ((is_known, targets), (is_known, best), correct)]
        self._add(torch.stack([_count(each, classes + 1)[1:] for each in found]))

    @override
    def merge(self, other: Metric, /) -> None:
        if not isinstance(other, type(self)):
            msg = f"{type(self).__name__} can be merged with its own kind, got {describe(other)}."
            raise OptionError(msg)
        if other.counts is not None:
            self._add(other.counts)

    @override
    def compute(self) -> float:
        if self.counts is None or not self.counts[0].any():
            msg = f"{type(self).__name__} needs at least one target, got none; call update with batches that have some."
            raise TargetError(msg)
        return float(self._compute(*self.counts.cpu().unbind()))

    @abstractmethod
    def _compute(self, targets: Tensor, predicted: Tensor, correct: Tensor) -> Tensor:
        """Return the metric from the number of targets, predictions and correct predictions of each class."""

    def _add(self, counts: Int64[Tensor, "3 classes"]) -> None:
        if self.counts is None:
            self.counts = counts
            return
        if self.counts.shape != counts.shape:
            have, got = self.counts.shape[1], counts.shape[1]
            msg = f"{type(self).__name__} has counts of {have} classes, got scores of {got}; use one for each model."
            raise OptionError(msg, classes=have, got=got)
        self.counts = self.counts + counts.to(self.counts.device)


def _count(classes: Int64[Tensor, " item"], number: int) -> Int64[Tensor, " class"]:
    # Not bincount, which waits for the device.
    return classes.new_zeros(number).index_add_(0, classes, torch.ones_like(classes))


@final
class Accuracy(_ClassMetric):
    """The share of targets, of rows or of steps, that are predicted."""

    @override
    def _compute(self, targets: Tensor, predicted: Tensor, correct: Tensor) -> Tensor:
        return correct.sum().double() / targets.sum()


@final
class MacroF1(_ClassMetric):
    """The mean over the classes of F1, the harmonic mean of precision and recall.

    A class that is neither a target nor predicted does not count, as in scikit-learn's `f1_score(average="macro")`.
    """

    @override
    def _compute(self, targets: Tensor, predicted: Tensor, correct: Tensor) -> Tensor:
        total = targets + predicted
        return (2 * correct[total > 0] / total[total > 0].double()).mean()
