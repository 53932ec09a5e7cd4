"""Tests of dropout by random bits."""

import math

import pytest
import torch

from pipeline.functional.dropout import draw_mask, drop
from support.untyped import as_any, seed, to_list


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.8, 0.999])
def test_zeros_have_their_probability_and_other_values_are_scaled(p: float) -> None:
    """The share of zeros is within five standard deviations, for a number of values that fills no whole draw."""
    seed(0)
    count = 999_999
    dropped = drop(torch.full((count,), 3.0, dtype=torch.float64), p)
    zeros = int((dropped == 0).sum())
    assert abs(zeros - p * count) <= 5 * math.sqrt(count * p * (1 - p)) + count / 2**16
    assert bool(((dropped == 0) | ((dropped - 3 / (1 - p)).abs() < 1e-6)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_gradient_is_the_mask(dtype: torch.dtype) -> None:
    """A zeroed value has no gradient, and another one that of its scale; the values keep their dtype."""
    seed(0)
    values = torch.ones(7, 3, dtype=dtype, requires_grad=True)
    dropped = drop(values, 0.5)
    (gradient,) = torch.autograd.grad(dropped.sum(), [values])
    assert dropped.dtype is dtype
    assert torch.equal(gradient, dropped.detach())
    assert 0 < int((gradient == 0).sum()) < 21


def test_a_seed_determines_the_mask_and_draws_differ() -> None:
    """Two masks of one seed are equal; the next one is another, and its values are independent of their neighbours."""
    like = torch.empty(0)
    seed(3)
    first, second = draw_mask(like, (400, 50), 0.5), draw_mask(like, (400, 50), 0.5)
    seed(3)
    assert torch.equal(first, draw_mask(like, (400, 50), 0.5))
    for other in (second, first.roll(1, 1), first.roll(1, 0), first.roll(4, 1)):
        # Of 20,000 pairs half agree, give or take five standard deviations.
        assert abs(int((first == other).sum()) - 10_000) < 5 * math.sqrt(5_000)


def test_transforms_and_extreme_probabilities_work() -> None:
    """A mapped function draws another mask for each entry; no probability keeps all by accident, or none."""
    seed(0)

    def drop_half(row: torch.Tensor) -> torch.Tensor:
        return drop(row, 0.5)

    mapped = torch.func.vmap(drop_half, randomness="different")(torch.ones(2, 64))
    assert set(to_list(mapped.flatten())) == {0.0, 2.0}
    assert not torch.equal(mapped[0], mapped[1])
    assert drop(torch.ones(0, 3), 0.5).shape == (0, 3)
    assert bool((drop(torch.ones(1_000), 1e-9) == 1).all())
    assert int((drop(torch.ones(10_000), 1 - 1e-9) != 0).sum()) < 10


def test_the_default_device_does_not_matter() -> None:
    """Random bits are drawn on the CPU, whatever torch's default is."""
    values = torch.ones(50)
    as_any(torch).set_default_device("meta")
    try:
        seed(0)
        dropped = drop(values, 0.5)
    finally:
        as_any(torch).set_default_device(None)
    assert set(to_list(dropped)) == {0.0, 2.0}
