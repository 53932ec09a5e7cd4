"""Functions that users have registered on modules, and that run at each forward or backward pass."""

from typing import Final

from torch import nn

FORWARD_HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks")
"""The attributes of a module that hold those of the forward pass."""

_BACKWARD_HOOKS: Final = ("_backward_hooks", "_backward_pre_hooks")


def has_hooks(module: nn.Module) -> bool:
    """Return whether a module, or one within it, has hooks, which run only if it is called.

    Example:
        >>> linear = nn.Linear(2, 2)
        >>> hook = linear.register_forward_hook(lambda module, inputs, output: output * 2)
        >>> has_hooks(nn.Sequential(linear)), has_hooks(nn.Linear(2, 2))
        (True, False)
    """
    return any(vars(each)[hooks] for each in module.modules() for hooks in (*FORWARD_HOOKS, *_BACKWARD_HOOKS))
