"""Keras on torch: its LSTM and GRU under a mask. Inference alone."""

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from operator import methodcaller
from typing import Protocol, cast

import torch
from torch import Tensor

from bench.absent import AbsentError
from bench.encoders.gates import direction
from bench.encoders.problem import Problem
from bench.timing.step import Step

_GATES = {"LSTM": (0, 1, 2, 3), "GRU": (1, 0, 2)}
"""Where torch has Keras's gates: input, forget, cell, output; update, reset, new."""

_array: Callable[[Tensor], object] = methodcaller("numpy")


class _Layer(Protocol):
    """A layer."""

    def build(self, shape: tuple[int | None, ...], /) -> None: ...
    def set_weights(self, weights: Sequence[object], /) -> None: ...
    def __call__(self, values: Tensor, /, *, mask: Tensor) -> Tensor: ...


class _Layers(Protocol):
    """What is used of `keras.layers`."""

    LSTM: Callable[..., _Layer]
    GRU: Callable[..., _Layer]
    Bidirectional: Callable[[_Layer], _Layer]


def keras(problem: Problem) -> Step:
    """A step of inference.

    Raises:
        AbsentError: if Keras is not installed.
    """
    os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        layers = cast("_Layers", import_module("keras.layers"))
    except ImportError as error:
        msg = f"not installed ({error}): pip install keras"
        raise AbsentError(msg) from error
    point = problem.point
    layer = (layers.LSTM if point.cell == "LSTM" else layers.GRU)(point.hidden, return_sequences=True)
    layer = layers.Bidirectional(layer) if point.both else layer
    layer.build((None, None, point.features))
    layer.set_weights([weight for number in range(2 if point.both else 1) for weight in _weights(problem, number)])
    mask = torch.arange(problem.values.shape[1]) < problem.lengths.unsqueeze(1)

    def forward(values: Tensor) -> Tensor:
        return layer(values, mask=mask)

    return problem.step(forward, [])


def _weights(problem: Problem, number: int) -> list[object]:
    """One direction's, as Keras has them: transposed, and an LSTM's two biases in one."""
    w_in, w_state, b_in, b_state = direction(problem.weights, number, _GATES[problem.point.cell])
    bias = b_in + b_state if problem.point.cell == "LSTM" else torch.stack([b_in, b_state])
    return [_array(weight.contiguous()) for weight in (w_in.t(), w_state.t(), bias)]
