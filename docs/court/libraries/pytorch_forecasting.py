"""PyTorch Forecasting: recurrent layers that accept rows of no steps."""

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from court.case import Case, Library


class Padded(nn.Module):
    """A recurrent layer, called with values and lengths."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Return hidden vectors of steps."""
        output: Tensor = self.layer(values, lengths=lengths, enforce_sorted=False)[0]
        return nn.functional.pad(output, (0, 0, 0, values.shape[1] - output.shape[1]))


def make_layer(layer: Any) -> nn.Module:  # noqa: ANN401 - the library has no types here
    """Return a small layer."""
    return Padded(layer(3, 4, batch_first=True))


def list_cases() -> Sequence[Case]:
    """Return the modules."""
    library: Any = import_module("pytorch_forecasting.models.nn.rnn")
    return [
        Case(
            name=name,
            call=f"{name}(3, 4, batch_first=True)(values, lengths=lengths, enforce_sorted=False)",
            make=partial(make_layer, getattr(library, name)),
            options={"input_size": 3, "each": "step", "causal": True},
        )
        for name in ("LSTM", "GRU")
    ]


LIBRARY = Library(
    name="PyTorch Forecasting",
    packages=["pytorch-forecasting"],
    list_cases=list_cases,
    better="It has whole forecasting models, with quantiles and covariates known in advance.",
)
