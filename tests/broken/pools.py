"""Poolings that are wrong in one way each."""

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from broken.trial import Trial, trial
from pipeline import MaybeCausal, Pooling, States
from pipeline.testing import POOL_LAWS

_ALONE: Final = "what depends on mates or width also differs for a row alone, for prefixes, or beside empty rows"


class MeanOverTheWidth(Pooling):
    """What `out.mean(1)` does."""

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return states.padded().values.sum(1) / max(1, states.width)


class MaxWithThePadding(Pooling):
    """Takes the zeros of the padding into the maximum."""

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        rows = states.padded()
        return rows.values.amax(1) if rows.width else states.final * 0


class MeanOfNothing(Pooling):
    """Divides by lengths that may be 0."""

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return states.padded().values.sum(1) / states.order.lengths_on_device.unsqueeze(1)


class WithABias(Pooling):
    """The sum of each row and a bias, which is there for an empty row as well."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size = 3
        self.bias = nn.Parameter(torch.ones(3))

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        return states.padded().values.sum(1) + self.bias


class TwiceAsLarge(Pooling):
    """Mean and sum, side by side, and says that it gives as many features as come in."""

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        total = states.padded().values.sum(1)
        return torch.cat([total, total / 2], 1)


TRIALS: Final[tuple[Trial, ...]] = (
    trial(
        MeanOverTheWidth,
        POOL_LAWS,
        "amount_of_padding_has_no_effect batchmates_have_no_effect empty_rows_have_no_effect",
        _ALONE,
    ),
    trial(MaxWithThePadding, POOL_LAWS, "amount_of_padding_has_no_effect batchmates_have_no_effect", _ALONE),
    trial(MeanOfNothing, POOL_LAWS, "empty_rows_give_zeros empty_rows_have_no_effect", "NaN is neither finite nor zero"),
    trial(WithABias, POOL_LAWS, "empty_rows_give_zeros"),
    trial(TwiceAsLarge, POOL_LAWS, "pooled_sizes_match_declared"),
)
"""All of them, and the laws that each breaks."""
