"""Copies of modules on torch's `meta` device: their weights have shapes, but no values."""

import copy
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

from pipeline.checks.module_hooks import FORWARD_HOOKS
from pipeline.core.contexts import preserve_random_state
from pipeline.summary.samples import META

M = TypeVar("M", bound=nn.Module)


@contextmanager
def isolate_run() -> Generator[None]:
    """Use the CPU as default device, and restore the random generators at the end.

    Torch draws from Python's generator too, while it imports what the meta device needs.
    """
    # Entering the device context takes time, so only do it if it changes something.
    elsewhere = torch.get_default_device().type != "cpu"
    with preserve_random_state(), torch.device("cpu") if elsewhere else nullcontext():
        yield


def copy_to_meta(module: M, memo: dict[int, Any]) -> M:
    """Return a copy of a module on the `meta` device, in evaluation mode.

    Hooks of the user are removed, because they may record their inputs. Hooks of torch are kept, because some create
    weights: those of weight normalization and of lazy modules.

    Args:
        module: the module to copy.
        memo: the copies made so far; modules that share a weight must share the memo too.

    Example:
        >>> linear = copy_to_meta(nn.Linear(10, 20), {})
        >>> linear(torch.zeros(3, 10, device="meta")).shape
        torch.Size([3, 20])
    """
    # Filling deepcopy's memo first makes it take the empty tensors instead of copying numbers.
    for tensor in chain.from_iterable(map(_get_tensors, module.modules())):
        if id(tensor) not in memo:
            memo[id(tensor)] = _make_empty(tensor)
    copied = copy.deepcopy(module, memo)
    for child in copied.modules():
        for hooks in FORWARD_HOOKS:
            held: dict[int, object] = vars(child)[hooks]
            for key in [key for key, hook in held.items() if not _is_torch_hook(hook)]:
                del held[key]
    return copied.eval()


def _get_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Yield the tensors of a module itself. Plain attributes count: `deepcopy` would copy their numbers."""
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)
    yield from (value for value in vars(module).values() if isinstance(value, Tensor))


def _make_empty(tensor: Tensor) -> Tensor:
    if is_lazy(tensor):
        # Torch's stubs leave out the arguments of these classes.
        made = UninitializedParameter if isinstance(tensor, nn.Parameter) else UninitializedBuffer
        return cast("Callable[..., Tensor]", made)(device=META, dtype=tensor.dtype)
    empty = torch.empty_like(tensor.detach(), device=META)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _is_torch_hook(hook: object) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("torch.")
