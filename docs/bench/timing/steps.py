"""Steps of training and inference to time, the check that they compute the same, threads, and the machine's peak."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor

from bench.errors import MismatchError

Step: TypeAlias = Callable[[], tuple[Tensor, ...]]
"""Returns its output and, in training, the gradients after it."""

Threads: TypeAlias = Literal["one", "all"]
"""One thread, or torch's default: one per core, or `OMP_NUM_THREADS`."""

ALL_THREADS: Final = torch.get_num_threads()

MATMUL: Final = "matrix product"
"""The name of the matrix product among the candidates."""

# Large enough that still larger products reach no higher rate, and small enough to take part in every round.
_MATMUL_SIZE: Final = 1_536

MATMUL_OPERATIONS: Final = 2 * _MATMUL_SIZE**3
"""Multiplications and additions of the matrix product."""

_ALMOST_ZERO: Final = 1e-6


def make_step(forward: Callable[[], Tensor], inputs: Sequence[Tensor], *, training: bool) -> Step:
    """Return a step that runs `forward` and, in training, computes the gradients of `inputs`.

    Args:
        forward: computes the output; any padding in it must be zero.
        inputs: the tensors whose gradients are computed: weights, and the input.
        training: whether to run the backward pass; otherwise `forward` runs in inference mode.

    Example:
        >>> weight = torch.tensor([3.0], requires_grad=True)
        >>> make_step(lambda: 2 * weight, [weight], training=True)()
        (tensor([6.]), tensor([24.]))
        >>> make_step(lambda: 2 * weight, [weight], training=False)()
        (tensor([6.]),)
    """

    def train() -> tuple[Tensor, ...]:
        output = forward()
        # The sum of squares, not the sum: every output then has a gradient of its own, so that a candidate that mixes
        # up steps or rows is found by its gradients too.
        return output.detach(), *torch.autograd.grad(output.square().sum(), inputs)

    def infer() -> tuple[Tensor, ...]:
        with torch.inference_mode():
            return (forward(),)

    return train if training else infer


def check_equal(results: Mapping[str, Sequence[Tensor]], tolerance: float = 1e-3) -> None:
    """Reject candidates whose results differ from those of the first candidate by more than rounding.

    Args:
        results: the tensors that each candidate returned.
        tolerance: the largest allowed difference, as a share of the largest number in the tensor. It is not relative
            to each number: in a sum of many steps, rounding depends on the size of the terms, not on that of the sum.

    Raises:
        MismatchError: if a candidate returns other shapes, another number of tensors, or other numbers.
    """
    (first, expected), *others = results.items()
    for name, found in others:
        if [each.shape for each in found] != [each.shape for each in expected]:
            shapes, wanted = (", ".join(str(tuple(each.shape)) for each in tensors) for tensors in (found, expected))
            msg = f"{name!r} must return tensors of the same shapes as {first!r}, {wanted}, got {shapes}; correct it."
            raise MismatchError(msg)
        for index, (one, two) in enumerate(zip(found, expected, strict=True)):
            allowed = tolerance * _find_largest(two)
            if not torch.allclose(one, two, rtol=0.0, atol=allowed):
                msg = (
                    f"tensor {index} of {name!r} must equal that of {first!r} within {allowed:.2g}, but differs by "
                    f"{_find_largest(one - two):.2g}; correct the candidate before timing it."
                )
                raise MismatchError(msg)


def _find_largest(tensor: Tensor) -> float:
    """Return the largest absolute value; a small positive number if all are zero."""
    return max(_ALMOST_ZERO, float(tensor.detach().abs().max())) if tensor.numel() else _ALMOST_ZERO


def make_matmul() -> Callable[[], object]:
    """Return a product of two large float32 matrices, to be timed in the same rounds as the candidates.

    Its rate is the peak against which the products in a step are compared.
    """
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(_MATMUL_SIZE, _MATMUL_SIZE, generator=generator) for _ in range(2))
    return lambda: left @ right


@contextmanager
def use_threads(threads: Threads) -> Generator[int]:
    """Set torch's number of threads, yield it, and restore the previous one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if threads == "one" else ALL_THREADS)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def describe_threads(threads: Threads) -> str:
    """Return "one thread" or "all threads"."""
    return f"{threads} thread{'s' if threads == 'all' else ''}"
