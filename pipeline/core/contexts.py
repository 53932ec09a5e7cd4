"""Context managers that restore what they changed: random number generators, and the mode of a module."""

import random
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from operator import attrgetter

import numpy as np
import torch
from torch import nn

_is_cuda_used: Callable[[], bool] = torch.cuda.is_initialized
"""Typed by hand: torch leaves its type open."""


@contextmanager
def preserve_random_state() -> Generator[None]:
    """Restore the random number generators of Python, NumPy and torch (CPU and CUDA) at the end.

    Example:
        >>> with preserve_random_state():
        ...     first = torch.rand(3)
        >>> torch.equal(torch.rand(3), first)
        True
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global generator that others use
    cpu = torch.get_rng_state()
    # Asking CUDA for its state would initialize it, which takes seconds and makes it impossible to fork.
    cuda = torch.cuda.get_rng_state_all() if _is_cuda_used() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        torch.cuda.set_rng_state_all(cuda)


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Seed torch's CPU generator, and restore it at the end. Other generators are not touched.

    Example:
        >>> with seeded(3):
        ...     first = torch.rand(3)
        >>> with seeded(3):
        ...     torch.equal(torch.rand(3), first)
        True
    """
    # Not `torch.manual_seed`, which seeds the generators of all devices.
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)


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
    modes = {child: child.training for child in _list_modules(module)}
    if set(modes.values()) == {training}:
        yield
        return
    try:
        module.train(training)
        yield
    finally:
        for child, mode in modes.items():
            child.training = mode


@contextmanager
def evaluating(module: nn.Module) -> Generator[None]:
    """Run in evaluation mode and without gradients; the mode is restored at the end.

    Example:
        >>> with evaluating(nn.Dropout()):
        ...     torch.is_grad_enabled()
        False
    """
    with torch.no_grad():
        # A pipe for inference is never in training mode. Not to look at its modules saves a tenth of a short request.
        if getattr(module, "prepared", None) is not None:
            yield
            return
        with temporary_mode(module, training=False):
            yield


def _list_modules(module: nn.Module) -> list[nn.Module]:
    """Return a module and all modules in it, in a third of the time of `module.modules()`, which also has names."""
    found, waiting = dict[nn.Module, None](), [module]
    while waiting:
        each = waiting.pop()
        if each not in found:
            found[each] = None
            waiting += filter(None, _get_children(each).values())
    return list(found)


_get_children: Callable[[nn.Module], Mapping[str, nn.Module | None]] = attrgetter("_modules")
"""The child modules of a module; torch has no other way that makes no generators."""
