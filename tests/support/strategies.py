"""Strategies of rows for property tests, with empty rows and batches of one row."""

import torch
from hypothesis import strategies as st
from torch import Tensor


@st.composite
def row_lengths(draw: st.DrawFn, *, longest: int = 6, rows: int = 4) -> list[int]:
    """Draw lengths of a few rows; often some are empty, or there is only one row."""
    return draw(st.lists(st.integers(0, longest), min_size=1, max_size=rows))


@st.composite
def ragged_rows(draw: st.DrawFn, *, features: int = 3) -> list[Tensor]:
    """Draw rows of distinct float64 vectors."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    return [torch.randn(time, features, dtype=torch.float64, generator=generator) for time in draw(row_lengths())]
