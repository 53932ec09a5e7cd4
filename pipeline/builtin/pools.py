"""Poolings without weights. Each uses real steps only; an empty row gives zeros."""

from collections.abc import Iterable, Sequence
from typing import cast, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from pipeline.checks.options import check_bool, check_int, check_positive
from pipeline.data.batches import Batch
from pipeline.data.kinds import Hidden
from pipeline.data.states import MaybeCausal, States, first_by_row, last_by_row
from pipeline.errors import OptionError
from pipeline.functional.segments import max_by_row, mean_by_row, sum_by_row
from pipeline.functional.statistics import (
    largest_by_row,
    logsumexp_by_row,
    mean_and_std_by_row,
    min_by_row,
    quantiles_by_row,
    scale_sum_by_row,
)
from pipeline.parts.pooling import Pooling


@final
class FinalPool(Pooling):
    """The encoder's final state of each row.

    For a bidirectional encoder: the forward state at the last real step and the backward state at the first, merged.
    """

    exportable = True

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return states.final


@final
class LastPool(Pooling):
    """The hidden vector of each row's last real step.

    Of a bidirectional encoder, the backward direction has read that one step only, and its recurrent weights get no
    gradient. `final` has read the whole row in both directions.
    """

    exportable = True

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return last_by_row(states.steps)


@final
class FirstPool(Pooling):
    """The hidden vector of each row's first step.

    Of a bidirectional encoder, the forward direction has read that one step only, and its recurrent weights get no
    gradient. `final` has read the whole row in both directions.
    """

    exportable = True

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return first_by_row(states.steps)


@final
class SumPool(Pooling):
    """The sum of each row's steps."""

    exportable = True

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return sum_by_row(_get_steps(self, states))


@final
class MeanPool(Pooling):
    """The mean of each row's steps.

    Source: Conneau et al. 2017, "Supervised Learning of Universal Sentence Representations from Natural Language
    Inference Data", arXiv:1705.02364.
    """

    exportable = True

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return mean_by_row(_get_steps(self, states))


@final
class MaxPool(Pooling):
    """The maximum of each feature over a row's steps; equal maxima share the gradient.

    Source: Collobert et al. 2011, "Natural Language Processing (Almost) from Scratch", arXiv:1103.0398.
    """

    exportable = True

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return max_by_row(states.steps)


@final
class MinPool(Pooling):
    """The minimum of each feature over a row's steps; equal minima share the gradient."""

    exportable = True

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return min_by_row(states.steps)


@final
class MeanSqrtPool(Pooling):
    """The sum of each row's steps, divided by the square root of their number.

    Where steps are independent, it has the same spread for short and long rows. A mean has less the longer the row is.

    Source: Cer et al. 2018, "Universal Sentence Encoder", arXiv:1803.11175, section 3, for the states of a transformer.
    """

    exportable = True

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return scale_sum_by_row(_get_steps(self, states))


@final
class LogSumExpPool(Pooling):
    """A smooth maximum of each feature: `t log(sum(exp(x / t)))`. Every step has a gradient, as in a softmax.

    Args:
        temperature: t. Near 0 it is the maximum. If it is large and `mean` is True, it is the mean.
        mean: divide the sum by the number of steps. Then rows of equal steps give this step whatever their length.

    Raises:
        OptionError: if the temperature is not above 0.

    Source: Pinheiro and Collobert 2015, "From Image-level to Pixel-level Labeling with Convolutional Networks",
    arXiv:1411.6228, equation 6; their `r` is `1 / temperature`, and they divide by the number, as `mean=True` does.

    Example:
        >>> states = States.from_padded(torch.tensor([[[1.0], [3.0]]]), torch.tensor([2]))
        >>> [round(LogSumExpPool(each)(states).item(), 3) for each in (0.1, 1.0)]
        [3.0, 3.127]
    """

    exportable = True

    def __init__(self, temperature: float = 1.0, *, mean: bool = False) -> None:
        super().__init__()
        check_positive("temperature", temperature, advice="near 0 it is the maximum")
        check_bool("mean", mean)
        self.temperature: float = float(temperature)
        self.mean: bool = mean

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return logsumexp_by_row(_get_steps(self, states), self.temperature, mean=self.mean)


@final
class KMaxPool(Pooling):
    """The k largest values of each feature, in the order of their steps: k x hidden features.

    The vector begins with the first of these values of every feature. Of equal values the earlier ones are taken. A
    row with fewer than k steps gives all of them in their order, and then zeros.

    Args:
        k: the number of values; 4 by default, as after the last convolution in the source.

    Raises:
        OptionError: if k is below 1.

    Source: Kalchbrenner, Grefenstette and Blunsom 2014, "A Convolutional Neural Network for Modelling Sentences",
    arXiv:1404.2188, section 3.2, with a constant k.

    Example:
        >>> values = torch.tensor([[[3.0], [1.0], [2.0]], [[5.0], [0.0], [0.0]]])
        >>> states = States.from_padded(values, torch.tensor([3, 1]))
        >>> KMaxPool(2)(states).tolist()
        [[3.0, 2.0], [5.0, 0.0]]
    """

    exportable = True

    def __init__(self, k: int = 4) -> None:
        super().__init__()
        self.k: int = check_int("k", k, minimum=1)

    @override
    def output_size(self, input_size: int) -> int:
        return self.k * input_size

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch places"]:
        return largest_by_row(states.steps, self.k).flatten(1)


@final
class QuantilePool(Pooling):
    """Quantiles of each feature over a row's steps, interpolated as `torch.quantile` does: quantiles x hidden features.

    Args:
        quantiles: from 0 (the minimum) to 1 (the maximum); the quartiles by default.

    Raises:
        OptionError: if there is no quantile, or one is not a number from 0 to 1.

    Example:
        >>> states = States.from_padded(torch.tensor([[[3.0], [1.0], [2.0]]]), torch.tensor([3]))
        >>> QuantilePool((0.0, 0.5, 0.75))(states).tolist()
        [[1.0, 2.0, 2.5]]
    """

    exportable = True

    def __init__(self, quantiles: Sequence[float] = (0.25, 0.5, 0.75)) -> None:
        super().__init__()
        listed = tuple(quantiles) if isinstance(cast("object", quantiles), Iterable) else ()
        if not listed or not all(_is_share(each) for each in listed):
            msg = f"quantiles must be a sequence of numbers from 0 to 1, got {quantiles!r:.200}; (0.5,) is the median."
            raise OptionError(msg, quantiles=quantiles)
        self.quantiles: tuple[float, ...] = listed

    @override
    def output_size(self, input_size: int) -> int:
        return len(self.quantiles) * input_size

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch quantiles"]:
        return quantiles_by_row(states.steps, self.quantiles).flatten(1)


@final
class MeanStdPool(Pooling):
    """The mean of each feature over a row's steps, and then the standard deviation of each: 2 x hidden features.

    The deviation of a row with one step is 0, with a gradient of 0.

    Source: Snyder et al. 2018, "X-Vectors: Robust DNN Embeddings for Speaker Recognition", ICASSP, section 2.2: the
    statistics pooling layer.

    Example:
        >>> states = States.from_padded(torch.tensor([[[1.0], [5.0]], [[7.0], [0.0]]]), torch.tensor([2, 1]))
        >>> MeanStdPool()(states).tolist()
        [[3.0, 2.0], [7.0, 0.0]]
    """

    exportable = True

    @override
    def output_size(self, input_size: int) -> int:
        return 2 * input_size

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch statistics"]:
        return torch.cat(mean_and_std_by_row(_get_steps(self, states)), dim=1)


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _get_steps(pooling: Pooling, states: States[MaybeCausal]) -> Batch[Hidden]:
    """Return the steps; packed, if the bits of a sum may not depend on whether other rows have the same length."""
    return states.packed() if pooling.deterministic else states.steps
