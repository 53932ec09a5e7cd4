"""Rows for property tests: of any mix of lengths, empty ones and a batch of one among them."""

import torch
from hypothesis import strategies as st
from torch import Tensor


@st.composite
def lengths(draw: st.DrawFn, *, longest: int = 6, rows: int = 4) -> list[int]:
    """Lengths of a few rows; often some are empty, often there is one row."""
    return draw(st.lists(st.integers(0, longest), min_size=1, max_size=rows))


@st.composite
def ragged(draw: st.DrawFn, *, features: int = 3) -> list[Tensor]:
    """Rows of float64 vectors, no two numbers alike."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    return [torch.randn(time, features, dtype=torch.float64, generator=generator) for time in draw(lengths())]
