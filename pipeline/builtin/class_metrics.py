"""Metrics of classes: accuracy, macro F1 and weighted F1."""

from typing import final

import torch
from jaxtyping import Int64
from torch import Tensor
from typing_extensions import TypeIs, override

from pipeline.builtin.sums import Counted, SumMetric, make_kind_error, make_missing_error
from pipeline.data.decoded import Decoded
from pipeline.data.metadata import IGNORED
from pipeline.data.scores import Predictions, Scores, StepScores
from pipeline.errors import TargetError


class ClassMetric(SumMetric):
    """A metric of the number of targets, of predictions and of correct predictions of each class."""

    @override
    def count(self, predictions: Predictions[object, object], /) -> Counted:
        scores, targets = get_class_targets(predictions, type(self).__name__)
        classes = len(scores.names)
        is_known = targets != IGNORED
        best = scores.best
        # Items that do not count become class 0 of one class more, which is dropped: selecting the others would wait
        # for the device.
        correct = (is_known & (best == targets), targets)
        found = [torch.where(*each, -1) + 1 for each in ((is_known, targets), (is_known, best), correct)]
        return torch.stack([count_ids(each, classes + 1)[1:] for each in found]), is_known.sum()


def get_class_targets(
    predictions: Predictions[object, object], metric: str
) -> tuple[Scores[object] | StepScores[object], Int64[Tensor, " item"]]:
    """Return scores of classes, and the target of each of their rows or steps; `IGNORED` for a missing one.

    Args:
        predictions: the predictions.
        metric: the metric that needs them, for errors.

    Raises:
        TargetError: if they are no scores of classes, have no such targets, or a target is not a class.
    """
    predictions = get_token_scores(predictions)
    if not has_class_scores(predictions):
        raise make_kind_error(metric, "scores of classes, Scores or StepScores", predictions)
    targets = predictions.packed_targets if has_step_scores(predictions) else predictions.targets
    if targets is None or targets.ndim != 1 or targets.is_floating_point():
        unit = "step" if has_step_scores(predictions) else "row"
        raise make_missing_error(metric, f"a class per {unit}", predictions.metadata)
    classes = len(predictions.names)
    # On the CPU only: elsewhere this would wait for the device.
    if targets.device.type == "cpu" and not bool(((targets < classes) & ((targets >= 0) | (targets == IGNORED))).all()):
        msg = f"targets must be classes, 0 to {classes - 1}, got {int(targets.max())}; use the labels of the model."
        raise TargetError(msg)
    return predictions, targets


def has_class_scores(
    predictions: Predictions[object, object],
) -> TypeIs[Scores[object] | StepScores[object]]:
    """Return whether predictions are scores of classes, of rows or of steps."""
    return isinstance(predictions, Scores | StepScores)


def has_step_scores(predictions: Predictions[object, object]) -> TypeIs[StepScores[object]]:
    """Return whether predictions are scores of steps."""
    return isinstance(predictions, StepScores)


def get_token_scores(predictions: Predictions[object, object]) -> Predictions[object, object]:
    """Return the scores of target tokens of generated texts; other predictions as they are.

    Raises:
        TargetError: if there are none, because the batch has no target texts.
    """
    return predictions.get_scores() if isinstance(predictions, Decoded) else predictions


def count_ids(ids: Int64[Tensor, " item"], number: int) -> Int64[Tensor, " id"]:
    """Return how often each id from 0 to `number - 1` occurs."""
    # Not bincount, which waits for the device.
    return ids.new_zeros(number).index_add_(0, ids, torch.ones_like(ids))


def compute_f1(targets: Tensor, predicted: Tensor, correct: Tensor) -> Tensor:
    """Return F1, the harmonic mean of precision and recall, from counts; 0 without targets and predictions.

    Example:
        >>> compute_f1(torch.tensor([4, 0]), torch.tensor([2, 0]), torch.tensor([1, 0])).tolist()
        [0.3333333333333333, 0.0]
    """
    return 2 * correct.double() / (targets + predicted).clamp(min=1)


@final
class Accuracy(ClassMetric):
    """The share of targets, of rows or of steps, that are predicted. Micro F1 over all classes is the same number."""

    @override
    def summarize(self, sums: Tensor, targets: int, /) -> Tensor:
        return sums[2].sum().double() / targets


@final
class MacroF1(ClassMetric):
    """The mean over the classes of F1, the harmonic mean of precision and recall.

    A class that is neither a target nor predicted does not count, as in scikit-learn's `f1_score(average="macro")`.
    """

    @override
    def summarize(self, sums: Tensor, targets: int, /) -> Tensor:
        return compute_f1(*sums)[sums[0] + sums[1] > 0].mean()


@final
class WeightedF1(ClassMetric):
    """The mean over the classes of F1, weighted by the number of targets of the class.

    The same as scikit-learn's `f1_score(average="weighted")`.
    """

    @override
    def summarize(self, sums: Tensor, targets: int, /) -> Tensor:
        return (compute_f1(*sums) * sums[0]).sum() / targets
