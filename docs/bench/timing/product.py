"""The machine's matrix peak, measured beside what is held against it."""

from collections.abc import Callable
from typing import Final

import torch

SIZE: Final = 1_536
"""Rows and columns of the two matrices: large enough that a larger product is no faster an operation."""

OPERATIONS: Final = 2 * SIZE**3
"""Multiplications and additions of their product."""

PRODUCT: Final = "matrix product"
"""What it is called among the candidates."""


def product() -> Callable[[], object]:
    """One product of two large matrices in float32, to be timed by turns with the candidates."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(SIZE, SIZE, generator=generator) for _ in range(2))
    return lambda: left @ right
