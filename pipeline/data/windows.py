"""Rows that are cut, and rows that stand for none."""

from collections.abc import Callable, Sequence
from typing import cast

import attrs

from pipeline.data.rows import FILLER, Ids, K, Row, values_of
from pipeline.errors import TargetError
from pipeline.labels import Target, is_step_target


def window_of(row: Row[K], begin: int, end: int) -> Row[K]:
    """The steps of a row from `begin` to `end`, as a row at the same place; they are not copied.

    Targets of steps, and what is asked of them, are cut along; a class of the whole row goes with each of its parts.

    Raises:
        TargetError: if the row's steps do not have one target each.

    Example:
        >>> import torch
        >>> row = Row(Ids(torch.tensor([5, 6, 7])), target=[0, None, 1], place=4)
        >>> part = window_of(row, 1, 3)
        >>> part.sequence.values.tolist(), part.target, part.place, part.begin
        ([6, 7], [None, 1], 4, 1)
    """
    cut = slice(begin, end)
    asked = None if row.answer_mask is None else row.answer_mask[cut]
    return Row(_cut(row.sequence, cut), _target(row, cut), row.row_id, asked, row.start_step + begin)


def filler_like(row: Row[K]) -> Row[K]:
    """A row of no steps that stands for none of the input, with a target of that row's sort: it weighs nothing.

    Example:
        >>> import torch
        >>> filler = filler_like(Row(Ids(torch.tensor([5, 6, 7])), target=[0, None, 1], place=4))
        >>> len(filler), filler.target, filler.place
        (0, [], -1)
    """
    return Row(_cut(row.sequence, slice(0)), _target(row, slice(0)), FILLER)


def _cut(sequence: K, cut: slice) -> K:
    # mypy's own idea of evolve refuses a type variable.
    evolve: Callable[..., K] = cast("Callable[..., K]", attrs.evolve)
    values = values_of(sequence)[cut]
    if isinstance(sequence, Ids) and sequence.offsets is not None:
        return evolve(sequence, values=values, offsets=sequence.offsets[cut])
    return evolve(sequence, values=values)


def _target(row: Row[K], cut: slice) -> Target:
    if not is_step_target(row.target):
        return row.target
    steps = cast("Sequence[int | str | None]", row.target)
    if len(steps) != len(row):
        msg = (
            f"row {row.row_id} has {len(row)} steps but {len(steps)} targets; give each step a target, None for those "
            "that have none."
        )
        raise TargetError(msg, row=row.row_id)
    return steps[cut]
