"""Modules of one's own that are wrong in one way each."""

from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from broken.trial import Trial, trial
from pipeline.testing import MODULE_LAWS, PlainModule


class Scores(nn.Module):
    """An honest module of one's own: scores of each row, from the mean of its real steps."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(
        self, values: Float[Tensor, "batch time feature"], lengths: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch classes"]:
        """Scores of rows."""
        beside = lengths.to(values.device).unsqueeze(1)
        mask = self.mask(torch.arange(values.shape[1], device=values.device), beside)
        total = values.masked_fill(~mask.unsqueeze(-1), 0).sum(1)
        scores: Tensor = self.linear(total / beside.clamp(min=1))
        return scores

    def mask(self, time: Tensor, lengths: Tensor) -> Tensor:
        """Which steps are real."""
        return time < lengths


class OffByOne(Scores):
    """Takes the step behind the last real one for real."""

    @override
    def mask(self, time: Tensor, lengths: Tensor) -> Tensor:
        return time <= lengths


class IgnoresLengths(Scores):
    """Does not look at the lengths."""

    @override
    def mask(self, time: Tensor, lengths: Tensor) -> Tensor:
        return time < 1_000 + 0 * lengths


class Smoothed(nn.Module):
    """Each step's mean with its neighbours', the padding cleared: right, but not causal."""

    def forward(
        self, values: Float[Tensor, "batch time feature"], lengths: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch time feature"]:
        """Smoothed steps."""
        mask = torch.arange(values.shape[1], device=values.device) < lengths.to(values.device).unsqueeze(1)
        rows = nn.functional.pad(values.masked_fill(~mask.unsqueeze(-1), 0), (0, 0, 1, 1))
        return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 3


def off_by_one() -> PlainModule:
    """See `OffByOne`."""
    return PlainModule(OffByOne(), input_size=3)


def ignores_lengths() -> PlainModule:
    """See `IgnoresLengths`."""
    return PlainModule(IgnoresLengths(), input_size=3)


def smoothed() -> PlainModule:
    """See `Smoothed`; it is said to be causal."""
    return PlainModule(Smoothed(), input_size=3, causal=True)


TRIALS: Final[tuple[Trial, ...]] = (
    trial(
        off_by_one,
        MODULE_LAWS,
        "padding_values_have_no_effect no_gradient_reaches_padding empty_rows_have_no_effect",
        "one step of padding is read, of an empty row's as well",
    ),
    trial(
        ignores_lengths,
        MODULE_LAWS,
        "padding_values_have_no_effect no_gradient_reaches_padding empty_rows_have_no_effect",
        "all padding is read, of an empty row's as well",
    ),
    trial(smoothed, MODULE_LAWS, "causal_steps_do_not_look_ahead"),
)
"""All of them, and the laws that each breaks."""
