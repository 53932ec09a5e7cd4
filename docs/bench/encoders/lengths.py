"""Rows of unequal length, drawn as they occur."""

import math
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import torch
from jaxtyping import Int64
from torch import Tensor

Lengths: TypeAlias = Literal["~20", "~230", "1-512", "2,000", "~20 and 2,000", "even 128", "even 1,024"]
"""Sentences, reviews, any length up to 512, one row of 2,000 alone or among sentences, and rows all of one length."""

_EVEN: Final[Mapping[str, int]] = {"2,000": 2_000, "even 128": 128, "even 1,024": 1_024}
"""What all rows are long, where all are as long."""


def drawn(lengths: Lengths, rows: int) -> Int64[Tensor, " batch"]:
    """So many lengths, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    if lengths in _EVEN:
        return torch.full((rows,), _EVEN[lengths])
    if lengths == "1-512":
        return torch.randint(1, 513, (rows,), generator=generator)
    if lengths == "~230":
        return _spread(rows, 0.7, 180.0, generator)
    sentences = _spread(rows, 0.5, 17.6, generator)
    if lengths == "~20 and 2,000":
        sentences[0] = _EVEN["2,000"]
    return sentences


def _spread(rows: int, spread: float, middle: float, generator: torch.Generator) -> Int64[Tensor, " batch"]:
    """Lengths whose logarithms are normal, as those of sentences nearly are."""
    logarithms = torch.randn(rows, generator=generator) * spread + math.log(middle)
    return logarithms.exp().round().long().clamp(2, 600)
