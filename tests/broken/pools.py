"""Poolings with one mistake each."""

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from broken.trial import Trial, trial
from pipeline import MaybeCausal, Pooling, States
from pipeline.testing import POOL_LAWS

_ALONE: Final = (
    "a result that depends on batchmates or the width also differs alone, for prefixes, or next to empty rows"
)


class MeanOverTheWidth(Pooling):
    """Averages over the width, as `out.mean(1)` does."""

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return states.padded().values.sum(1) / max(1, states.width)


class MaxWithThePadding(Pooling):
    """Includes the zeros of the padding in the maximum."""

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        rows = states.padded()
        return rows.values.amax(1) if rows.width else states.final * 0


class DividesByZeroLengths(Pooling):
    """Divides by lengths that may be 0."""

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return states.padded().values.sum(1) / states.order.lengths_on_device.unsqueeze(1)


class WithABias(Pooling):
    """Adds a bias to the sum of each row, also to an empty one."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size = 3
        self.bias = nn.Parameter(torch.ones(3))

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return states.padded().values.sum(1) + self.bias


class DeclaresHalfTheSize(Pooling):
    """Concatenates mean and sum, but declares the size of one of them."""

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        total = states.padded().values.sum(1)
        return torch.cat([total, total / 2], 1)


TRIALS: Final[tuple[Trial, ...]] = (
    trial(
        MeanOverTheWidth,
        POOL_LAWS,
        """amount_of_padding_has_no_effect batchmates_have_no_effect empty_rows_have_no_effect
        large_values_are_stable many_and_long_rows_are_independent training_obeys_laws_of_rows""",
        _ALONE,
    ),
    trial(
        MaxWithThePadding,
        POOL_LAWS,
        """amount_of_padding_has_no_effect batchmates_have_no_effect empty_rows_have_no_effect
        large_values_are_stable many_and_long_rows_are_independent""",
        _ALONE,
    ),
    trial(
        DividesByZeroLengths,
        POOL_LAWS,
        """empty_rows_give_zeros empty_rows_have_no_effect low_precision_agrees packed_and_padded_agree
        training_without_randomness_equals_evaluation""",
        "NaN is neither finite nor zero",
    ),
    trial(WithABias, POOL_LAWS, "empty_rows_give_zeros"),
    trial(DeclaresHalfTheSize, POOL_LAWS, "pooled_sizes_match_declared"),
)
"""The broken parts of this file, with the laws that each breaks."""
