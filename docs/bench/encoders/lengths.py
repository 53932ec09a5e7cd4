"""Rows of unequal length, drawn as they occur."""

import math
from typing import Literal, TypeAlias

import torch
from jaxtyping import Int64
from torch import Tensor

Lengths: TypeAlias = Literal["~20", "~230", "1-512", "2,000", "~20 and 2,000", "even 128", "even 1,024"]
"""Sentences, reviews, any length up to 512, one row of 2,000 alone or among sentences, and rows all of one length."""


def drawn(lengths: Lengths, rows: int) -> Int64[Tensor, " batch"]:
    """So many lengths, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    match lengths:
        case "~20":
            return _spread(rows, 0.5, 17.6, generator)
        case "~230":
            return _spread(rows, 0.7, 180.0, generator)
        case "1-512":
            return torch.randint(1, 513, (rows,), generator=generator)
        case "2,000":
            return torch.full((rows,), 2_000)
        case "~20 and 2,000":
            return torch.cat([torch.tensor([2_000]), _spread(rows - 1, 0.5, 17.6, generator)])
        case "even 128":
            return torch.full((rows,), 128)
        case "even 1,024":
            return torch.full((rows,), 1_024)


def _spread(rows: int, spread: float, middle: float, generator: torch.Generator) -> Int64[Tensor, " batch"]:
    """Lengths whose logarithms are normal, as those of sentences nearly are."""
    logarithms = torch.randn(rows, generator=generator) * spread + math.log(middle)
    return logarithms.exp().round().long().clamp(2, 600)
