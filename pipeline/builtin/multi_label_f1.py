"""F1 of several classes per row."""

from typing import Literal, TypeAlias, final, get_args

import torch
from torch import Tensor
from typing_extensions import override

from pipeline.builtin.class_metrics import compute_f1
from pipeline.builtin.sums import Counted, SumMetric, make_kind_error, make_missing_error
from pipeline.checks.options import check_choice
from pipeline.data.metadata import has_target
from pipeline.data.scores import Predictions
from pipeline.data.values import MultiLabelScores

Average: TypeAlias = Literal["micro", "macro"]
"""How the counts of classes become one number."""


@final
class MultiLabelF1(SumMetric):
    """F1, the harmonic mean of precision and recall, where a row may have several classes or none.

    Args:
        average: `micro` counts all classes together, so that frequent classes weigh more; `macro` is the mean over the
            classes. A class that is neither a target nor predicted does not count in it, as in scikit-learn's
            `f1_score(average="macro", zero_division=nan)`. If no row has a class and none is predicted, F1 is 0.
    """

    def __init__(self, average: Average = "micro") -> None:
        super().__init__()
        check_choice("average", average, get_args(Average))
        self.average: Average = average

    @override
    def count(self, predictions: Predictions[object, object], /) -> Counted:
        name = type(self).__name__
        if not isinstance(predictions, MultiLabelScores):
            raise make_kind_error(name, "scores of several classes per row, MultiLabelScores", predictions)
        targets = predictions.targets
        if targets is None or not targets.is_floating_point() or targets.shape != predictions.values.shape:
            raise make_missing_error(name, "a set of classes per row", predictions.metadata)
        is_known = has_target(targets)
        # The targets of rows without any are NaN, which is not above one half either.
        wanted, predicted = targets > 0.5, predictions.predicted & is_known.unsqueeze(1)
        return torch.stack([each.sum(0) for each in (wanted, predicted, wanted & predicted)]), is_known.sum()

    @override
    def summarize(self, sums: Tensor, targets: int, /) -> Tensor | float:
        if self.average == "micro":
            return compute_f1(*sums.sum(1))
        occurs = sums[0] + sums[1] > 0
        return compute_f1(*sums)[occurs].mean() if bool(occurs.any()) else 0.0
