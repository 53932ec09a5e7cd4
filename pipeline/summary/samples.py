"""Sample batches of every kind of rows on torch's `meta` device: they have shapes, but no values."""

from collections.abc import Mapping
from typing import Any, Final, get_args, get_origin

import torch
from torch import Tensor

from pipeline.data.batches import Packed, Padded
from pipeline.data.kinds import Composite, Hidden, Ids, Kind, Nested, get_inner_kind, get_kind_class
from pipeline.data.packing_order import PackingOrder
from pipeline.data.states import Pooled, States

META: Final = torch.device("meta")

INNER_STEPS: Final = 8
"""The number of inner steps of each step of nested rows: about the letters of a word."""


def make_sample(
    hint: object,
    size: int | None,
    *,
    rows: int,
    time: int,
    dtype: torch.dtype,
    field_sizes: Mapping[str, int | None] | None = None,
) -> object | None:
    """Return a batch of a type on the `meta` device; None if the type is no batch, or its size is unknown.

    Args:
        hint: the type.
        size: the number of features per step.
        rows: the number of rows.
        time: the number of steps of each row; of pairs, of each side.
        dtype: the dtype of vectors.
        field_sizes: of rows with fields, the number of features of each field that is read; None where it is unknown.

    Example:
        >>> make_sample(Padded[Ids], None, rows=2, time=5, dtype=torch.float32).values.shape
        torch.Size([2, 5])
        >>> make_sample(Pooled, None, rows=2, time=5, dtype=torch.float32) is None
        True
    """
    holder, kind = get_origin(hint) or hint, next(iter(get_args(hint)), Hidden)
    if holder in (Padded, Packed):
        lengths = torch.full((rows,), time, device="cpu")
        padded = _make_padded(kind, size, field_sizes or {}, PackingOrder(lengths, META), time, dtype)
        return padded if padded is None or holder is Padded else padded.packed()
    if size is None or holder not in (States, Pooled):
        return None
    final = torch.zeros(rows, size, dtype=dtype, device=META)
    if holder is Pooled:
        return Pooled(final)
    steps = torch.zeros(rows * time, size, dtype=dtype, device=META)
    return States(Packed(Hidden, steps, torch.full((rows,), time, device="cpu")), final)


def _make_padded(
    kind: Any,  # noqa: ANN401 - the argument of a type hint
    size: int | None,
    field_sizes: Mapping[str, int | None],
    order: PackingOrder,
    time: int,
    dtype: torch.dtype,
) -> Padded[Kind] | None:
    """Return a padded batch of a kind; None if a size is unknown."""
    base: Any = get_kind_class(kind)
    lengths = order.lengths
    shape = (len(lengths), time)
    if base is Ids:
        return Padded(Ids, torch.zeros(shape, dtype=torch.int64, device=META), lengths, order=order)
    if base is Nested:
        inner = _make_inner(kind, size, field_sizes, len(lengths) * time, dtype)
        numbers = torch.zeros(shape, dtype=torch.int64, device=META)
        return None if inner is None else Padded[Kind](base, numbers, lengths, order=order, inner=inner)
    if isinstance(base, type) and issubclass(base, Composite):
        fields: dict[str, Padded[Kind]] = {}
        for name, field_kind in base.get_kinds().items():
            # A field that no stage reads may have any size.
            field_size = field_sizes.get(name, 1)
            own = order if base.aligned else PackingOrder(lengths, META)
            field = _make_padded(field_kind, field_size, {}, own, time, dtype)
            if field is None:
                return None
            fields[name] = field
        return Padded(base, _make_vectors(shape, 0, dtype), lengths, order=order, fields=fields)
    if size is None:
        return None
    vectors = base if isinstance(base, type) and issubclass(base, Hidden) else Hidden
    return Padded(vectors, _make_vectors(shape, size, dtype), lengths, order=order)


def _make_inner(
    kind: type[Kind], size: int | None, field_sizes: Mapping[str, int | None], rows: int, dtype: torch.dtype
) -> Packed[Kind] | None:
    order = PackingOrder(torch.full((rows,), INNER_STEPS, device="cpu"), META)
    padded = _make_padded(get_inner_kind(kind), size, field_sizes, order, INNER_STEPS, dtype)
    return None if padded is None else padded.packed()


def _make_vectors(shape: tuple[int, int], size: int, dtype: torch.dtype) -> Tensor:
    return torch.zeros(*shape, size, dtype=dtype, device=META)
