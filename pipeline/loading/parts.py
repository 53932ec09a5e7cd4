"""A part of a row: its steps, and all that is said of each of them."""

from collections.abc import Callable, Sequence
from typing import cast

import attrs
from torch import Tensor

from pipeline.sequences.rows import K, Row, is_step_target


def part_of(row: Row[K], begin: int, end: int | None) -> Row[K]:
    """The steps of a row from `begin` to `end`, with their targets; its place, and a target of the whole row, stay.

    Example:
        >>> import torch
        >>> from pipeline import Ids
        >>> part = part_of(Row(Ids(torch.tensor([5, 6, 7])), target=["a", "b", "c"], place=4), 1, None)
        >>> part.sequence.values.tolist(), part.target, part.place
        ([6, 7], ['b', 'c'], 4)
    """
    if not begin and (end is None or len(row) <= end):
        return row
    steps = slice(begin, end)
    names = [field.name for field in attrs.fields(cast("type[attrs.AttrsInstance]", type(row.sequence)))]
    values: dict[str, object] = {name: getattr(row.sequence, name) for name in names}
    # mypy's own idea of evolve refuses a type variable.
    evolve: Callable[..., K] = cast("Callable[..., K]", attrs.evolve)
    cut = {name: value[steps] for name, value in values.items() if isinstance(value, Tensor)}
    target = row.target
    if isinstance(target, Sequence) and is_step_target(target):
        target = target[steps]
    asked = None if row.asked is None else row.asked[steps]
    return Row(evolve(row.sequence, **cut), target, row.place, asked)
