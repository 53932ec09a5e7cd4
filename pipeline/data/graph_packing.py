"""Packing inside a compiled graph: operators of torch that compute the positions of steps from the lengths.

To a compiler the number of steps is a number that no input's size determines. Everything else about the packed order
comes from two operators, into which it does not look.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from operator import attrgetter
from typing import cast

import torch
from torch import Tensor


def count_steps(lengths: Tensor) -> int:
    """Return the number of steps of all rows, in a graph."""
    with _allow_numbers():
        count = int(lengths.sum().item())
    # For the compiler, which knows nothing of the lengths.
    check: Callable[[bool], None] = getattr(torch, "_check")  # noqa: B009
    check(count >= 0)
    return count


def _allow_numbers() -> AbstractContextManager[object]:
    """Let torch.compile read a number from a tensor without a break of the graph; torch.export does so anyway."""
    if not torch.compiler.is_dynamo_compiling():
        return nullcontext()
    dynamo: object = getattr(torch, "_dynamo")  # noqa: B009 - private
    patch: Callable[..., AbstractContextManager[object]] = getattr(dynamo, "patch_dynamo_config")  # noqa: B009
    return patch(capture_scalar_outputs=True)


def _locate_steps(lengths: Tensor, steps: int) -> Tensor:
    from pipeline.data.packing_order import PackingOrder  # noqa: PLC0415 - which imports this module

    del steps
    order = PackingOrder(lengths)
    return torch.stack([order.row_of_step, order.time_of_step])


def _locate_ends(lengths: Tensor, steps: int) -> Tensor:
    from pipeline.data.packing_order import PackingOrder  # noqa: PLC0415

    order = PackingOrder(lengths)
    found = torch.full((2, len(lengths)), steps)
    found[0, order.nonempty_rows], found[1, order.nonempty_rows] = order.first_steps, order.last_steps
    return found


# Not by `torch.library.custom_op`, which takes several times as long, at each import of this library. Torch leaves the
# types of operators open.
_make_library: Callable[[str, str], object] = getattr(torch.library, "Library")  # noqa: B009
_library = _make_library("pipeline", "FRAGMENT")


def _register(
    name: str, function: Callable[[Tensor, int], Tensor], fake: Callable[[Tensor, int], Tensor]
) -> Callable[[Tensor, int], Tensor]:
    define, implement = (cast("Callable[..., object]", getattr(_library, method)) for method in ("define", "impl"))
    define(f"{name}(Tensor lengths, SymInt steps) -> Tensor")
    implement(name, function, "CompositeExplicitAutograd")
    implement(name, fake, "Meta")
    return cast("Callable[[Tensor, int], Tensor]", attrgetter(f"pipeline.{name}.default")(torch.ops))


locate_steps: Callable[[Tensor, int], Tensor] = _register(
    "locate_steps", _locate_steps, lambda lengths, steps: lengths.new_empty(2, steps)
)
"""Return the row and the time of each packed step: 2 x steps."""

locate_ends: Callable[[Tensor, int], Tensor] = _register(
    "locate_ends", _locate_ends, lambda lengths, _: lengths.new_empty(2, lengths.shape[0])
)
"""Return the packed index of each row's first and last step: 2 x batch; of an empty row the number of all steps."""
