"""Modes of torch in which every operation must be one of torch's own, without in-place changes."""

from collections.abc import Callable
from importlib import import_module
from typing import Final

from torch import Tensor
from torch.autograd import forward_ad

# Private functions, because torch has no public ones. A version of torch without one of them has no such mode.
_CORE: Final = import_module("torch._C")
_has_transform: Callable[[], bool] = getattr(_CORE, "_are_functorch_transforms_active", lambda: False)
_count_dispatch_modes: Callable[[], int] = getattr(_CORE, "_len_torch_dispatch_stack", lambda: 0)
_get_dispatch_keys: Callable[[Tensor], object] = getattr(_CORE, "_dispatch_keys", lambda _: None)


def are_functions_transformed() -> bool:
    """Return whether a transform of `torch.func` or forward-mode differentiation is active."""
    return _has_transform() or getattr(forward_ad, "_current_level", -1) >= 0


def name_transform(*gradients: Tensor) -> str | None:
    """Return a description of the active mode of torch that must see each operation; None if no such mode is active.

    In these modes a tensor may have no memory of its own, or torch counts, replaces or differentiates each operation. A
    compiled kernel, or an `autograd.Function` without rules for the mode, would give wrong results, or not be counted.
    Code with either calls this function first, and uses torch's own operations if a mode is active. The description
    suits an error message.

    Args:
        gradients: in a backward pass, its gradients: each may be a batch of gradients (`is_grads_batched=True`).

    Example:
        >>> import torch
        >>> name_transform() is None, torch.func.grad(lambda x: x * (name_transform() is not None))(torch.ones(()))
        (True, tensor(1.))
    """
    if are_functions_transformed():
        return "a transform of torch.func, or forward-mode differentiation,"
    if _count_dispatch_modes():
        return "a dispatch mode, such as FlopCounterMode,"
    if any("Batched" in str(_get_dispatch_keys(gradient)) for gradient in gradients):
        return "a backward pass for a batch of gradients (is_grads_batched=True)"
    return None
