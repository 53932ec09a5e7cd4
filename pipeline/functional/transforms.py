"""Modes of torch in which every operation must be one of torch's own, without in-place changes."""

from collections.abc import Callable
from importlib import import_module
from typing import Final

from torch.autograd import forward_ad

# Private, because torch has no public question for these. A torch without one of them has no such mode to detect.
_CORE: Final = import_module("torch._C")
_has_transform: Callable[[], bool] = getattr(_CORE, "_are_functorch_transforms_active", lambda: False)
_count_dispatch_modes: Callable[[], int] = getattr(_CORE, "_len_torch_dispatch_stack", lambda: 0)


def are_functions_transformed() -> bool:
    """Return whether a transform of `torch.func` or forward-mode differentiation is active."""
    return _has_transform() or getattr(forward_ad, "_current_level", -1) >= 0


def name_transform() -> str | None:
    """Return the active mode of torch that must see each operation, as words for a message; None if there is none.

    In these modes tensors are no plain memory, or each operation is differentiated forward, counted or replaced. A
    compiled kernel, or an `autograd.Function` without rules for them, would be wrong, or invisible. Code that has one
    asks here first, and uses torch's operations instead.

    Example:
        >>> import torch
        >>> name_transform() is None, torch.func.grad(lambda x: x * (name_transform() is not None))(torch.ones(()))
        (True, tensor(1.))
    """
    if are_functions_transformed():
        return "a transform of torch.func, or forward-mode differentiation,"
    if _count_dispatch_modes():
        return "a dispatch mode, such as FlopCounterMode,"
    return None
