"""Parts and batches that have shapes and no content: on torch's `meta` device, which holds no memory."""

import copy
import random
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any, Final, TypeVar, cast, get_args, get_origin

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

from pipeline.data.batches import Packed, Padded
from pipeline.data.rows import Hidden, Ids
from pipeline.data.states import Pooled, States

M = TypeVar("M", bound=nn.Module)

META: Final = torch.device("meta")


@contextmanager
def unmarked() -> Generator[None]:
    """What draws random numbers meanwhile leaves no mark on the next ones; and the default device is the CPU."""
    state, pythons = torch.get_rng_state(), random.getstate()
    # Where it is the CPU already, the context would only take time.
    elsewhere = torch.get_default_device().type != "cpu"
    try:
        with torch.device("cpu") if elsewhere else nullcontext():
            yield
    finally:
        torch.set_rng_state(state)
        # Torch draws from it too, when it loads what it needs for shapes alone.
        random.setstate(pythons)


def twin(module: M, memo: dict[int, Any]) -> M:
    """A copy of a module with its shapes and none of its numbers, in evaluation mode.

    Hooks stay behind, since they may write down what they see, but for torch's own, of which weights are made.

    Args:
        module: what to copy.
        memo: what was copied before: modules that share a weight must share the memo too.

    Example:
        >>> huge = twin(nn.Linear(10, 20), {})
        >>> huge(torch.zeros(3, 10, device="meta")).shape
        torch.Size([3, 20])
    """
    for tensor in chain.from_iterable(map(_tensors, module.modules())):
        if id(tensor) not in memo:
            memo[id(tensor)] = _shadow(tensor)
    copied = copy.deepcopy(module, memo)
    for child in copied.modules():
        for hooks in ("_forward_hooks", "_forward_pre_hooks"):
            held: dict[int, object] = vars(child)[hooks]
            for key in [key for key, hook in held.items() if not _is_torchs(hook)]:
                del held[key]
    return copied.eval()


def sample(hint: object, size: int | None, *, rows: int, time: int, dtype: torch.dtype) -> object | None:
    """Something of a type, without content: rows of one length; None if it is no batch, or its size is not known.

    Example:
        >>> sample(Padded[Ids], None, rows=2, time=5, dtype=torch.float32).values.shape
        torch.Size([2, 5])
        >>> sample(Pooled, None, rows=2, time=5, dtype=torch.float32) is None
        True
    """
    holder, kind = get_origin(hint) or hint, next(iter(get_args(hint)), Hidden)
    lengths = torch.full((rows,), time, device="cpu")
    if holder in (Padded, Packed) and kind is Ids:
        ids = torch.zeros(rows, time, dtype=torch.int64, device=META)
        return Padded(Ids, ids, lengths) if holder is Padded else Packed(Ids, ids.flatten(), lengths)
    if size is None:
        return None
    packed = torch.zeros(rows * time, size, dtype=dtype, device=META)
    final = torch.zeros(rows, size, dtype=dtype, device=META)
    vectors = kind if isinstance(kind, type) and issubclass(kind, Hidden) else Hidden
    if holder is Padded:
        return Padded(vectors, packed.reshape(rows, time, size), lengths)
    if holder is Packed:
        return Packed(vectors, packed, lengths)
    if holder is States:
        return States(Packed(Hidden, packed, lengths), final)
    return Pooled(final) if holder is Pooled else None


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """All that a module holds itself, plain attributes among them: those would be copied with their numbers."""
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)
    yield from (value for value in vars(module).values() if isinstance(value, Tensor))


def _shadow(tensor: Tensor) -> Tensor:
    if is_lazy(tensor):
        # Their arguments are missing in torch's types.
        made = UninitializedParameter if isinstance(tensor, nn.Parameter) else UninitializedBuffer
        return cast("Callable[..., Tensor]", made)(device=META, dtype=tensor.dtype)
    empty = torch.empty_like(tensor.detach(), device=META)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _is_torchs(hook: object) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("torch.")
