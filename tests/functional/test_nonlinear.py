"""Nonlinear functions whose bits do not depend on the place of a number in its tensor."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu

from pipeline.functional.nonlinear import compute_gelu, compute_sigmoid

FUNCTIONS = [(compute_sigmoid, torch.sigmoid), (compute_gelu, gelu)]


@pytest.mark.parametrize(("function", "plain"), FUNCTIONS)
def test_numbers_have_the_same_bits_at_every_place(
    function: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor]
) -> None:
    """Alone, and at the ends and in the middle of tensors of any size; they are those of torch up to rounding."""
    values = torch.randn(2000, generator=torch.Generator().manual_seed(0)) * 4
    whole = function(values)
    for start in range(0, 400, 7):
        for size in (1, 2, 3, 5, 7, 13, 31):
            assert torch.equal(function(values[start : start + size].clone()), whole[start : start + size])
    torch.testing.assert_close(whole, plain(values))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("function", "plain"), FUNCTIONS)
def test_the_dtype_is_kept(
    function: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    """With results as accurate as those of torch, also far from zero."""
    values = torch.tensor([-1e4, -30, -1, 0, 1, 30, 1e4], dtype=dtype)
    torch.testing.assert_close(function(values), plain(values))
