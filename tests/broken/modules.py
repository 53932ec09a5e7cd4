"""Plain modules with one mistake each."""

from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from broken.trial import Trial, trial
from pipeline.testing import MODULE_LAWS, PlainModule


class Scores(nn.Module):
    """A correct module: scores of each row from the mean of its real steps."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(
        self, values: Float[Tensor, "batch time feature"], lengths: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch classes"]:
        """Return scores of rows."""
        row_lengths = lengths.to(values.device).unsqueeze(1)
        mask = self.mask(torch.arange(values.shape[1], device=values.device), row_lengths)
        total = values.masked_fill(~mask.unsqueeze(-1), 0).sum(1)
        scores: Tensor = self.linear(total / row_lengths.clamp(min=1))
        return scores

    def mask(self, time: Tensor, lengths: Tensor) -> Tensor:
        """Return a mask of real steps."""
        return time < lengths


class OffByOne(Scores):
    """Treats the step after the last real one as real."""

    @override
    def mask(self, time: Tensor, lengths: Tensor) -> Tensor:
        return time <= lengths


class IgnoresLengths(Scores):
    """Ignores the lengths."""

    @override
    def mask(self, time: Tensor, lengths: Tensor) -> Tensor:
        return time < 1_000 + 0 * lengths


class Smoothed(nn.Module):
    """Averages each step with its neighbors, without padding: correct, but not causal."""

    def forward(
        self, values: Float[Tensor, "batch time feature"], lengths: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch time feature"]:
        """Return smoothed steps."""
        mask = torch.arange(values.shape[1], device=values.device) < lengths.to(values.device).unsqueeze(1)
        rows = nn.functional.pad(values.masked_fill(~mask.unsqueeze(-1), 0), (0, 0, 1, 1))
        return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 3


def off_by_one() -> PlainModule:
    """Wrap `OffByOne`."""
    return PlainModule(OffByOne(), input_size=3)


def ignores_lengths() -> PlainModule:
    """Wrap `IgnoresLengths`."""
    return PlainModule(IgnoresLengths(), input_size=3)


def smoothed() -> PlainModule:
    """Wrap `Smoothed`, which is declared causal."""
    return PlainModule(Smoothed(), input_size=3, causal=True)


TRIALS: Final[tuple[Trial, ...]] = (
    trial(
        off_by_one,
        MODULE_LAWS,
        """padding_values_have_no_effect no_gradient_reaches_padding empty_rows_have_no_effect
        low_precision_agrees many_and_long_rows_are_independent training_obeys_laws_of_rows""",
        "one step of padding is read, of an empty row's as well",
    ),
    trial(
        ignores_lengths,
        MODULE_LAWS,
        """padding_values_have_no_effect no_gradient_reaches_padding empty_rows_have_no_effect
        low_precision_agrees many_and_long_rows_are_independent training_obeys_laws_of_rows""",
        "all padding is read, of an empty row's as well",
    ),
    trial(
        smoothed,
        MODULE_LAWS,
        """causal_steps_do_not_look_ahead training_obeys_laws_of_rows""",
        "it looks ahead in training too",
    ),
)
"""The broken parts of this file, with the laws that each breaks."""
