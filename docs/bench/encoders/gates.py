"""Torch's gates in the order of others."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


def reordered(weight: Float[Tensor, "gates_hidden *rest"], order: Sequence[int]) -> Float[Tensor, "gates_hidden *rest"]:
    """The gates of a weight in another order.

    Example:
        >>> reordered(torch.tensor([1, 2, 3, 4, 5, 6]), [1, 0, 2]).tolist()
        [3, 4, 1, 2, 5, 6]
    """
    gates = weight.chunk(len(order))
    return torch.cat([gates[index] for index in order])


def direction(module: nn.LSTM | nn.GRU, number: int, order: Sequence[int]) -> list[Tensor]:
    """Input and recurrent weight, and their biases, of one direction of the first layer."""
    suffix, weights = ("", "_reverse")[number], module.state_dict()
    names = (f"{name}_l0{suffix}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    return [reordered(weights[name], order) for name in names]
