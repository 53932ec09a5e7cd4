"""Context managers that restore what they changed: random number generators, and the mode of a module."""

import random
from collections.abc import Callable, Generator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

_is_cuda_used: Callable[[], bool] = torch.cuda.is_initialized
"""Typed by hand: torch leaves its type open."""


@contextmanager
def preserve_random_state(*, seed: int | None = None) -> Generator[None]:
    """Restore the random number generators of Python, NumPy and torch (CPU and CUDA) at the end.

    Args:
        seed: a seed for torch's CPU generator inside the context; by default it continues from its current state.

    Example:
        >>> with preserve_random_state(seed=3):
        ...     first = torch.rand(3)
        >>> with preserve_random_state(seed=3):
        ...     torch.equal(torch.rand(3), first)
        True
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global generator that others use
    cpu = torch.get_rng_state()
    # Asking CUDA for its state would initialize it, which takes seconds and forbids to fork.
    cuda = torch.cuda.get_rng_state_all() if _is_cuda_used() else []
    try:
        if seed is not None:
            # Not `torch.manual_seed`, which seeds the generators of all devices.
            torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        torch.cuda.set_rng_state_all(cuda)


@contextmanager
def temporary_mode(module: nn.Module, *, training: bool) -> Generator[None]:
    """Put a module into training or evaluation mode; the mode of each child is restored at the end.

    Example:
        >>> dropout = nn.Dropout()
        >>> with temporary_mode(dropout, training=False):
        ...     dropout.training
        False
        >>> dropout.training
        True
    """
    modes = {child: child.training for child in module.modules()}
    try:
        module.train(training)
        yield
    finally:
        for child, mode in modes.items():
            child.training = mode
