"""Padding filled with what shows in an answer, to find the stage that lets it in."""

import math
from typing import Final, TypeVar, cast

import attrs
import torch
from torch import Tensor
from typing_extensions import TypeIs

from pipeline.data.batches import Padded, is_batch
from pipeline.data.rows import Ids
from pipeline.data.states import MaybeCausal, States
from pipeline.errors import PaddingLeakError

A = TypeVar("A")

GUARD: Final = -(2**62)
"""The id that padding holds under poison: no table has it."""


def poisoned(value: A) -> A:
    """The same batch or states, their padding filled with NaN, or with `GUARD` if they hold ids; all else as it is.

    Example:
        >>> from pipeline import Vectors
        >>> poisoned(Padded(Vectors, torch.ones(1, 2, 1), torch.tensor([1]))).values.flatten().tolist()
        [1.0, nan]
    """
    held: object = value
    if _is_states(held) and isinstance(held.steps, Padded):
        held = attrs.evolve(held, steps=held.steps.fill_padding(math.nan))
    elif is_batch(held) and isinstance(held, Padded):
        held = held.fill_padding(GUARD if held.kind is Ids else math.nan)
    return cast("A", held)


def look_for_leaks(stage: str, value: object, result: object) -> None:
    """Refuse a result with a NaN in it that what came in did not have at any real step.

    Raises:
        PaddingLeakError: naming the stage, the field and the first row.
    """
    came, given = _real(value), _real(result)
    # On meta there are shapes and no values; and what was NaN before is no leak.
    if any(tensor.is_meta or bool(tensor.isnan().any()) for _, tensor, _ in came):
        return
    for field, tensor, rows in given:
        strange = tensor.flatten(1).isnan().any(1) if tensor.ndim > 1 else tensor.isnan()
        if bool(strange.any()):
            item = int(strange.nonzero()[0])
            row = int(rows[item])
            msg = (
                f"{stage} let padding into its {field}: under poison, row {row} is NaN, and nothing real that came in "
                "was; clear or mask the padding in the stage before anything is computed from it."
            )
            raise PaddingLeakError(msg, stage=stage, row=row, field=field)


def _is_states(value: object) -> TypeIs[States[MaybeCausal]]:
    return isinstance(value, States)


def _real(value: object) -> list[tuple[str, Tensor, Tensor]]:
    """The floating-point fields of what flows: their names, their real values, and the row of each."""
    if _is_states(value):
        final = ("final", value.final, torch.arange(len(value.final)))
        return [*_real(value.steps), final]
    if is_batch(value):
        packed = value.packed()
        return [("values", packed.values, packed.order.row)] if packed.values.is_floating_point() else []
    held: object = getattr(value, "values", None)
    if isinstance(held, Tensor) and held.is_floating_point():
        order = getattr(value, "order", None)
        rows = order.row if order is not None else torch.arange(len(held))
        return [("values", held, rows)]
    return []
