"""A scan equals the recurrence computed one step after another, in values and gradients."""

from collections.abc import Generator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from pipeline.extend import PackingOrder
from pipeline_recurrent.scan import BLOCK, scan, shift_steps
from support.needs import KERNELS
from support.strategies import row_lengths
from support.untyped import to_list

WAYS = pytest.mark.parametrize("way", [pytest.param("kernels", marks=KERNELS), "torch"])
"""Runs a test with the compiled kernels, and with torch's operations."""

LENGTHS = {
    "short": [5, 0, 3],
    "ragged": [2 * BLOCK + 7, 3 * BLOCK, BLOCK, BLOCK + 1, 1, 0],
    "even": [2 * BLOCK + 1] * 3,
    "two levels": [BLOCK * BLOCK + 5, 70],
}


@contextmanager
def compute_by(way: str) -> Generator[None]:
    """Switch the kernels off, or leave them on."""
    with pytest.MonkeyPatch.context() as patch:
        if way == "torch":
            patch.setenv("PIPELINE_NATIVE", "0")
        yield


def draw(order: PackingOrder, dtype: torch.dtype, features: int = 2) -> tuple[Tensor, Tensor]:
    """Return factors of modulus below 1, and terms."""
    generator = torch.Generator().manual_seed(3)
    keep = torch.rand(order.steps, features, dtype=torch.float64, generator=generator)
    add = torch.randn(order.steps, features, dtype=dtype, generator=generator)
    factors = torch.polar(keep, 6 * keep) if dtype.is_complex else keep
    return factors.requires_grad_(), add.requires_grad_()


def loop(keep: Tensor, add: Tensor, order: PackingOrder, *, reverse: bool) -> Tensor:
    """Compute each row's states one by one."""
    states = list(add.unbind())
    rows = to_list(order.row_of_step)
    for row in range(len(order.lengths)):
        steps = [step for step, own in enumerate(rows) if own == row]
        steps = steps[::-1] if reverse else steps
        for before, step in pairwise(steps):
            states[step] = keep[step] * states[before] + add[step]
    return torch.stack(states) if states else add


@pytest.mark.parametrize(
    ("dtype", "way"),
    [
        pytest.param(torch.float64, "kernels", marks=KERNELS),
        (torch.float64, "torch"),
        (torch.complex128, "torch"),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_it_equals_the_loop(lengths: list[int], reverse: bool, dtype: torch.dtype, way: str) -> None:
    """Values and gradients, for rows shorter and longer than a block, and for blocks of blocks."""
    order = PackingOrder(torch.tensor(lengths))
    keep, add = draw(order, dtype)
    weights = torch.linspace(-1, 1, add.numel(), dtype=torch.float64).view(add.shape)
    results: list[tuple[Tensor, ...]] = []
    for run in (scan, loop):
        with compute_by(way):
            states = run(keep, add, order, reverse=reverse)
            total = (torch.view_as_real(states).sum(-1) if dtype.is_complex else states).mul(weights).sum()
            results.append((states, *torch.autograd.grad(total, [keep, add])))
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted)


@WAYS
@given(lengths=row_lengths(), reverse=st.booleans())
def test_any_lengths_equal_the_loop(way: str, lengths: list[int], reverse: bool) -> None:
    """Empty rows and batches of empty rows too."""
    order = PackingOrder(torch.tensor(lengths))
    keep, add = draw(order, torch.float64)
    with compute_by(way):
        states = scan(keep, add, order, reverse=reverse)
    torch.testing.assert_close(states, loop(keep, add, order, reverse=reverse))


@WAYS
@pytest.mark.parametrize("reverse", [False, True])
def test_second_derivatives_are_right(reverse: bool, way: str) -> None:
    """The gradient of a scan is made of operations that can be differentiated."""
    order = PackingOrder(torch.tensor([3, 1, 0, 2]))
    keep, add = draw(order, torch.float64)

    def run(keep: Tensor, add: Tensor) -> Tensor:
        return scan(keep, add, order, reverse=reverse)

    with compute_by(way):
        assert gradcheck(run, (keep, add))
        assert gradgradcheck(run, (keep, add))


def test_blocks_equal_the_steps_one_after_another() -> None:
    """Both ways to compute a scan, on wide rows and on narrow ones."""
    order = PackingOrder(torch.tensor([3 * BLOCK + 5, 2 * BLOCK, 1]))
    keep, add = draw(order, torch.float64)
    with compute_by("torch"):
        torch.testing.assert_close(scan(keep, add, order), scan(keep, add, order, deterministic=True))


@WAYS
def test_small_factors_do_not_overflow(way: str) -> None:
    """A scan of logarithms would divide by their product, which is 0 in float32 after a few steps."""
    order = PackingOrder(torch.tensor([4 * BLOCK]))
    add = torch.ones(4 * BLOCK, 1)
    for factor, wanted in ((1e-30, 1.0), (0.0, 1.0), (1.0, 4.0 * BLOCK)):
        keep = torch.full_like(add, factor).requires_grad_()
        with compute_by(way):
            last = scan(keep, add, order)[-1]
            assert float(last.detach()) == wanted
            torch.autograd.backward([last.sum()])
        assert keep.grad is not None
        assert bool(keep.grad.isfinite().all())


@WAYS
def test_nan_stays_in_its_row(way: str) -> None:
    """A factor of 0 between rows would not stop it: 0 times NaN is NaN."""
    order = PackingOrder(torch.tensor([2 * BLOCK, 2 * BLOCK + 9]))
    for reverse in (False, True):
        keep, add = (each.detach().clone() for each in draw(order, torch.float64))
        add[order.row_of_step == 0] = torch.nan
        with compute_by(way):
            states = scan(keep, add, order, reverse=reverse)
        assert bool(states[order.row_of_step == 1].isfinite().all())


@KERNELS
def test_tensors_that_do_not_fit_do_not_reach_the_kernels() -> None:
    """They would read whatever memory follows."""
    order = PackingOrder(torch.tensor([3, 2]))
    keep, add = draw(order, torch.float64)
    with pytest.raises(RuntimeError):
        scan(keep[1:], add[1:], order)


def test_steps_are_shifted_within_rows() -> None:
    """Each step gets the values of the step before it or after it."""
    order = PackingOrder(torch.tensor([3, 2]))
    values = torch.tensor([[1.0], [10.0], [2.0], [20.0], [3.0]])
    assert to_list(shift_steps(values, order).flatten()) == [0, 0, 1, 10, 2]
    assert to_list(shift_steps(values, order, reverse=True).flatten()) == [2, 20, 3, 0, 0]
