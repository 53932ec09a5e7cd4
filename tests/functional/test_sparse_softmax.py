"""Tests of sparsemax and 1.5-entmax against bisection in float64."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.functional.sparse_softmax import entmax15, sparsemax
from support.untyped import to_list

Function = Callable[[Tensor, Tensor], Tensor]
FUNCTIONS: dict[str, Function] = {"sparsemax": sparsemax, "entmax15": entmax15}


def bisect(name: str, scores: Tensor) -> Tensor:
    """Return the weights of one row: those whose threshold makes their sum 1, found by bisection."""
    scores = scores if name == "sparsemax" else scores / 2
    low, high = scores.max() - 1, scores.max()

    def weigh(threshold: Tensor) -> Tensor:
        return (scores - threshold).clamp(min=0) ** (1 if name == "sparsemax" else 2)

    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if weigh(middle).sum() > 1 else (low, middle)
    return weigh((low + high) / 2)


@pytest.mark.parametrize("name", FUNCTIONS)
@given(
    scores=st.lists(st.floats(-1e6, 1e6) | st.floats(-3, 3), min_size=1, max_size=9),
    masked=st.lists(st.booleans(), min_size=9, max_size=9),
)
def test_weights_equal_bisection(name: str, scores: list[float], masked: list[bool]) -> None:
    """Masked scores get 0, and change no other weight; a fully masked row is zeros."""
    values = torch.tensor(scores, dtype=torch.float64)
    mask = ~torch.tensor(masked[: len(scores)])
    found = FUNCTIONS[name](values.masked_fill(~mask, torch.nan), mask)
    wanted = torch.zeros_like(values)
    if mask.any():
        wanted[mask] = bisect(name, values[mask])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_equal_finite_differences(name: str) -> None:
    """First and second ones, with masked scores and a fully masked row; without NaN."""
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(4, 3, 6, dtype=torch.float64, generator=generator).requires_grad_()
    mask = torch.rand(4, 3, 6, generator=generator) < 0.7
    mask[0, 0] = False

    def function(values: Tensor) -> Tensor:
        return FUNCTIONS[name](values, mask)

    assert torch.autograd.gradcheck(function, scores)
    assert torch.autograd.gradgradcheck(function, scores)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_transforms_give_the_same_derivative(name: str) -> None:
    """`torch.func` uses torch's own derivatives."""
    scores = torch.tensor([0.3, -0.2, 0.1, -4.0], dtype=torch.float64)
    mask = torch.ones(4, dtype=torch.bool)
    leaf = scores.clone().requires_grad_()
    wanted = torch.stack([torch.autograd.grad(FUNCTIONS[name](leaf, mask)[key], leaf)[0] for key in range(4)])

    def normalize(values: Tensor) -> Tensor:
        return FUNCTIONS[name](values, mask)

    torch.testing.assert_close(torch.func.jacrev(normalize)(scores), wanted)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_half_precision_is_computed_in_float32(name: str) -> None:
    """Many small weights still sum to 1."""
    weights = FUNCTIONS[name](torch.zeros(512, dtype=torch.bfloat16), torch.ones(512, dtype=torch.bool))
    assert weights.dtype is torch.bfloat16
    assert set(to_list(weights)) == {1 / 512}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_keys_give_no_weights(name: str) -> None:
    """An axis of size 0 is legal."""
    assert FUNCTIONS[name](torch.zeros(2, 0), torch.ones(2, 0, dtype=torch.bool)).shape == (2, 0)
