"""Packing inside a compiled graph: operators of torch that compute the positions of steps from the lengths.

To a compiler the number of steps is a number that no input's size determines. Everything else about the packed order
comes from two operators, into which it does not look.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
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


# Torch leaves the types of operators open.
_make_operator: Callable[..., Callable[..., Tensor]] = getattr(torch.library, "custom_op")  # noqa: B009


def _register(
    name: str, function: Callable[[Tensor, int], Tensor], fake: Callable[[Tensor, int], Tensor]
) -> Callable[[Tensor, int], Tensor]:
    operator = _make_operator(
        f"pipeline::{name}", function, mutates_args=(), schema="(Tensor lengths, SymInt steps) -> Tensor"
    )
    register: Callable[..., object] = getattr(operator, "register_fake")  # noqa: B009
    register(fake)
    return cast("Callable[[Tensor, int], Tensor]", operator)


locate_steps = _register("locate_steps", _locate_steps, lambda lengths, steps: lengths.new_empty(2, steps))
"""Return the row and the time of each packed step: 2 x steps."""

locate_ends = _register("locate_ends", _locate_ends, lambda lengths, _: lengths.new_empty(2, lengths.shape[0]))
"""Return the packed index of each row's first and last step: 2 x batch; of an empty row the number of all steps."""
