"""Metrics of numbers: mean absolute error, mean squared error, its root, and R squared."""

from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from pipeline.builtin.perplexity import get_sum_type
from pipeline.builtin.sums import Counted, SumMetric, make_kind_error, make_missing_error
from pipeline.data.metadata import has_target
from pipeline.data.scores import Predictions
from pipeline.data.values import Values


class NumberMetric(SumMetric):
    """A metric of predicted numbers, one or several per row."""

    higher_is_better: bool | None = False
    unit: ClassVar[str] = "numbers per row"

    @override
    def count(self, predictions: Predictions[object, object], /) -> Counted:
        name = type(self).__name__
        if not isinstance(predictions, Values):
            raise make_kind_error(name, "predicted numbers, Values", predictions)
        targets = predictions.targets
        if targets is None or not targets.is_floating_point() or targets.shape != predictions.values.shape:
            wanted = "a number" if predictions.values.ndim == 1 else f"{predictions.values.shape[1]} numbers"
            raise make_missing_error(name, f"{wanted} per row", predictions.metadata)
        is_known = has_target(targets)
        # One column for one number per row. Rows without a target are filled, not multiplied: NaN times zero is NaN.
        precise = get_sum_type(targets.device)
        values, targets = (
            each.to(precise).reshape(len(each), each[:1].numel() or 1).masked_fill(~is_known.unsqueeze(1), 0)
            for each in (predictions.values, targets)
        )
        return self.count_numbers(values, targets, is_known), is_known.sum()

    def count_numbers(
        self,
        values: Float[Tensor, "batch size"],
        targets: Float[Tensor, "batch size"],
        known: Bool[Tensor, " batch"],
    ) -> Float[Tensor, "sum size"]:
        """Return the sums of a batch. Rows without a target hold 0."""
        raise NotImplementedError


class _ErrorMetric(NumberMetric):
    """A metric of the sum of a function of the errors."""

    @override
    def count_numbers(
        self,
        values: Float[Tensor, "batch size"],
        targets: Float[Tensor, "batch size"],
        known: Bool[Tensor, " batch"],
    ) -> Float[Tensor, "1 size"]:
        return self.transform(values - targets).sum(0, keepdim=True)

    def transform(self, errors: Float[Tensor, "batch size"]) -> Float[Tensor, "batch size"]:
        """Return the number that is added for each error."""
        return errors.square()

    @override
    def summarize(self, sums: Tensor, targets: int, /) -> Tensor:
        return sums.double().mean() / targets


@final
class MeanAbsoluteError(_ErrorMetric):
    """The mean of the absolute errors; of several numbers per row, the mean over all of them."""

    @override
    def transform(self, errors: Float[Tensor, "batch size"]) -> Float[Tensor, "batch size"]:
        return errors.abs()


@final
class MeanSquaredError(_ErrorMetric):
    """The mean of the squared errors; of several numbers per row, the mean over all of them."""


@final
class RootMeanSquaredError(_ErrorMetric):
    """The root of the mean of the squared errors, in the unit of the numbers.

    Of several numbers per row, it is the root of the mean over all of them.
    """

    @override
    def summarize(self, sums: Tensor, targets: int, /) -> Tensor:
        return super().summarize(sums, targets).sqrt()


@final
class R2(NumberMetric):
    """The coefficient of determination: 1 minus the squared errors over the squared deviations from the mean.

    It is 1 for perfect predictions, and 0 for those that are always the mean of the targets. If all targets are equal,
    it is 1 for perfect predictions and 0 for others, as in scikit-learn's `r2_score`. Of several numbers per row, it is
    the mean over the numbers.
    """

    higher_is_better: bool | None = True

    @override
    def count_numbers(
        self,
        values: Float[Tensor, "batch size"],
        targets: Float[Tensor, "batch size"],
        known: Bool[Tensor, " batch"],
    ) -> Float[Tensor, "4 size"]:
        # The number of rows, the mean of the targets, their squared deviations from it, and the squared errors. The
        # sum of the squares itself would lose all digits if the mean is large.
        number = known.sum().to(targets.dtype)
        mean = targets.sum(0) / number.clamp(min=1)
        deviations = (targets - mean).masked_fill(~known.unsqueeze(1), 0)
        errors = (values - targets).square().sum(0)
        return torch.stack([number.expand_as(mean), mean, deviations.square().sum(0), errors])

    @override
    def combine(self, sums: Tensor, others: Tensor, /) -> Tensor:
        # Chan, Golub and LeVeque 1983, "Algorithms for Computing the Sample Variance",
        # doi:10.1080/00031305.1983.10483115.
        number = sums[0] + others[0]
        share = others[0] / number.clamp(min=1)
        distance = others[1] - sums[1]
        mean = sums[1] + distance * share
        deviations = sums[2] + others[2] + distance.square() * sums[0] * share
        return torch.stack([number, mean, deviations, sums[3] + others[3]])

    @override
    def summarize(self, sums: Tensor, targets: int, /) -> Tensor:
        _, _, deviations, errors = sums.double()
        # Where all targets are equal, the share is undefined.
        ratio = torch.where(deviations > 0, errors / deviations.masked_fill(deviations == 0, 1), (errors > 0).double())
        return (1 - ratio).mean()
