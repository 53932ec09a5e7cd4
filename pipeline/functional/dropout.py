"""Dropout on a CPU, with random bits instead of torch's Bernoulli numbers: three to six times as fast."""

import math
from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float, Int16
from torch import Tensor
from torch.nn import functional

from pipeline.functional.transforms import name_transform

_LEAST: Final = -(2**15)
"""The smallest number of 16 bits."""


def draw_bits(shape: Sequence[int]) -> Int16[Tensor, "*shape"]:
    """Draw numbers of 16 random bits, on the CPU.

    A draw of 64 bits gives four numbers, where `bernoulli_` takes 12 ns for each number.
    """
    count = math.prod(shape)
    bits = torch.empty(-(-count // 4), dtype=torch.int64, device="cpu").random_(-(2**63), None)
    return bits.view(torch.int16)[:count].view(*shape)


def find_last_kept(p: float) -> int:
    """Return the largest number of `draw_bits` that stands for a kept number; larger ones stand for dropped ones.

    The probability is rounded to a multiple of 1 / 65,536, an error that no number of steps would show.

    Example:
        >>> find_last_kept(0.5)
        -1
    """
    return _LEAST - 1 + max(1, round((1 - p) * 2**16))


def drop(values: Float[Tensor, "*axes"], p: float) -> Float[Tensor, "*axes"]:
    """Return values of which each is zero with probability `p`, and the others are divided by 1 - p.

    Args:
        values: the values.
        p: the probability, 0 <= p < 1.

    Example:
        >>> sorted(set(drop(torch.ones(100), 0.5).tolist()))
        [0.0, 2.0]
    """
    if not _can_draw_bits(values):
        return functional.dropout(values, p)
    # Autograd keeps the mask only, since the mask has no gradient.
    return values * _draw_mask(values, values.shape, p)


def draw_mask(like: Tensor, shape: Sequence[int], p: float) -> Tensor:
    """Return numbers of which each is 0 with probability `p`, and else 1 / (1 - p); the mask that `drop` multiplies by.

    Args:
        like: gives the dtype and the device.
        shape: the shape of the mask.
        p: the probability, 0 <= p < 1.
    """
    return _draw_mask(like, shape, p) if _can_draw_bits(like) else functional.dropout(like.new_ones(*shape), p)


def _can_draw_bits(values: Tensor) -> bool:
    # On a GPU torch has one kernel for it; a graph must hold it to stay random; and transforms have rules for it.
    return values.device.type == "cpu" and not torch.compiler.is_compiling() and name_transform() is None


def _draw_mask(like: Tensor, shape: Sequence[int], p: float) -> Tensor:
    mask = like.new_empty(*shape)
    # Written as numbers: a comparison of its own, and then a conversion, take several times as long.
    torch.le(draw_bits(mask.shape), find_last_kept(p), out=mask)
    return mask.mul_(1 / (1 - p))
