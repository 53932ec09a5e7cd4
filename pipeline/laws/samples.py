"""The rows that laws are tried on: the same at every call, no two numbers alike."""

import math
from collections.abc import Sequence
from typing import Final, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.data.batches import Padded
from pipeline.data.rows import Vectors

Rows: TypeAlias = Sequence[Float[Tensor, "time feature"]]

LENGTHS: Final = ((4, 1, 6, 4, 2), (3, 5), (1, 1), (3,))
"""Mixes of lengths: neither sorted nor all different, of single steps, and of a batch of one. Empty rows come apart."""

FILLINGS: Final = (0.0, math.nan, math.inf, 1e38)
"""What the padding is filled with, to see that nothing looks at it."""


def drawn(lengths: Sequence[int], features: int, *, seed: int = 5) -> list[Float[Tensor, "time feature"]]:
    """Rows of random float64 vectors."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, features, dtype=torch.float64, generator=generator) for length in lengths]


def padded(rows: Rows, *, extra: int = 0, filling: float = 0.0) -> Padded[Vectors]:
    """Rows in one rectangle, `extra` steps wider than the longest, its padding filled.

    Example:
        >>> padded([torch.ones(2, 1), torch.ones(1, 1)], extra=1, filling=9.0).values.squeeze(-1).tolist()
        [[1.0, 1.0, 9.0], [1.0, 9.0, 9.0]]
    """
    width = max(len(row) for row in rows) + extra
    values = torch.stack([torch.nn.functional.pad(row, (0, 0, 0, width - len(row)), value=filling) for row in rows])
    return Padded(Vectors, values, torch.tensor([len(row) for row in rows]))
