"""Keras with torch as its backend: layers that take a mask."""

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Final

import torch
from torch import Tensor, nn

from court.case import Case, Library

_FLOAT64: Final = "float64"


class Masked(nn.Module):
    """A layer of Keras, called with a mask, and built for rows of three features."""

    def __init__(self, layer: Any) -> None:  # noqa: ANN401 - Keras has no types here
        super().__init__()
        self.layer = layer
        layer(torch.zeros(1, 2, 4, dtype=torch.float64), mask=torch.ones(1, 2, dtype=torch.bool))

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Return what the layer returns."""
        result: Tensor = self.layer(values, mask=mask)
        return result


class SelfAttention(nn.Module):
    """The attention of Keras of rows to themselves, with a mask of both sides."""

    def __init__(self, layer: Any) -> None:  # noqa: ANN401 - Keras has no types here
        super().__init__()
        self.layer = layer
        some = torch.zeros(1, 2, 4, dtype=torch.float64)
        layer(some, some)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Return contexts of steps."""
        result: Tensor = self.layer(values, values, query_mask=mask, value_mask=mask)
        return result


def list_cases() -> Sequence[Case]:
    """Return the modules."""
    os.environ["KERAS_BACKEND"] = "torch"
    keras: Any = import_module("keras")
    keras.config.set_floatx(_FLOAT64)
    layers: Any = keras.layers

    def mask(name: str, call: str, make: Callable[[], Any], each: str, *, causal: bool = False) -> Case:
        return Case(
            name=name,
            call=f"{call}(values, mask=mask)",
            make=lambda: Masked(make()),
            options={"input_size": 4, "call": "mask", "each": "row" if each == "row" else "step", "causal": causal},
        )

    options: dict[str, Any] = {"dtype": _FLOAT64}
    return [
        mask("LSTM", "LSTM(4)", lambda: layers.LSTM(4, **options), "row"),
        mask(
            "LSTM, per step",
            "LSTM(4, return_sequences=True)",
            lambda: layers.LSTM(4, return_sequences=True, **options),
            "step",
            causal=True,
        ),
        mask(
            "Bidirectional(GRU)",
            "Bidirectional(GRU(4))",
            lambda: layers.Bidirectional(layers.GRU(4, **options), **options),
            "row",
        ),
        mask(
            "GlobalAveragePooling1D",
            "GlobalAveragePooling1D()",
            lambda: layers.GlobalAveragePooling1D(**options),
            "row",
        ),
        Case(
            name="MultiHeadAttention",
            call="MultiHeadAttention(2, 2)(values, values, query_mask=mask, value_mask=mask)",
            make=lambda: SelfAttention(layers.MultiHeadAttention(2, 2, **options)),
            options={"input_size": 4, "call": "mask", "each": "step"},
        ),
    ]


LIBRARY = Library(
    name="Keras",
    packages=["keras"],
    list_cases=list_cases,
    better="Masks travel from layer to layer by themselves, and the same model runs on torch, JAX and TensorFlow.",
)
