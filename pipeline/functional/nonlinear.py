"""Nonlinear functions of single numbers whose bits do not depend on where a number lies in its tensor.

Torch computes most numbers of a tensor by vector instructions, and the few that remain one by one. For some functions,
among them the sigmoid and GELU, the two round differently. Those here are made of operations that round alike.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def compute_sigmoid(values: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Return the sigmoid of each number, with the same bits at every place of the tensor.

    Example:
        >>> values = torch.linspace(-9, 9, 1001)
        >>> torch.equal(compute_sigmoid(values)[3:6], compute_sigmoid(values[3:6].clone()))
        True
    """
    return (_widen(-values).exp() + 1).reciprocal().to(values.dtype)


def compute_gelu(values: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Return the GELU of each number, `x (1 + erf(x / sqrt(2))) / 2`, with the same bits at every place of the tensor.

    Example:
        >>> compute_gelu(torch.zeros(2)).tolist()
        [0.0, 0.0]
    """
    wide = _widen(values)
    return ((torch.erf(wide * math.sqrt(0.5)) + 1) * (wide * 0.5)).to(values.dtype)


def _widen(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
