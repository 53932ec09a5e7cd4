"""Checks of a batch: its lengths, its kind, its fields, and values that replace its own."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from pipeline.checks.hints import describe
from pipeline.checks.switches import checks_enabled
from pipeline.data.kinds import Composite, Ids, Kind, Nested, format_kind, get_inner_kind, get_kind_class, is_kind
from pipeline.data.packing_order import PackingOrder
from pipeline.errors import EmptyBatchError, LengthError, ShapeError

if TYPE_CHECKING:
    from pipeline.data.batches import Batch, Carry


def check_lengths(lengths: Tensor, order: PackingOrder, width: int | None = None) -> None:
    """Reject lengths that are impossible for rows of at most `width` steps.

    Raises:
        EmptyBatchError: if there is no row.
        ShapeError: if the lengths are not on the CPU, or differ from those of the order.
        LengthError: if a length is negative or larger than the width.
    """
    if not lengths.is_cpu:
        msg = (
            f"lengths must be on the CPU, got a tensor on {lengths.device}; pass lengths.cpu(), computed once when the "
            "batch is collated (lengths control the packing, and reading them from a device would stall it)."
        )
        raise ShapeError(msg, device=str(lengths.device))
    if lengths.shape[0] == 0:  # `len` of a tensor takes five times as long
        raise EmptyBatchError("lengths is empty, but a batch must have at least one row; skip empty batches.")
    if order.lengths is not lengths and not torch.equal(order.lengths, lengths):
        msg = "order must be computed from the same lengths, got one of other lengths; leave it out to compute it."
        raise ShapeError(msg, argument="order")
    # `shortest` and `longest` are cached in the order, which all batches of the same rows share: only the first check
    # reads the lengths.
    if order.shortest < 0:
        row = int(lengths.argmin())
        msg = f"lengths[{row}] is {int(lengths[row])}, but a row has 0 steps or more; correct the length."
        raise LengthError(msg, row=row, length=int(lengths[row]))
    if width is not None and order.longest > width:
        row = int(lengths.argmax())
        msg = (
            f"lengths[{row}] is {int(lengths[row])}, but values has only {width} steps; "
            "build the batch with Pad, or pass the lengths from before truncation."
        )
        raise LengthError(msg, row=row, length=int(lengths[row]), width=width)


def check_step_count(steps: int, expected: int) -> None:
    """Reject packed values if their number of steps is not the sum of the lengths.

    Raises:
        LengthError: with both numbers.
    """
    if steps != expected:
        msg = f"lengths add up to {expected} steps, but values has {steps}; pack values and lengths of the same rows."
        raise LengthError(msg, steps=steps, wanted=expected)


def check_kind(batch: "Batch[Kind]", axes: int) -> None:
    """Reject values, fields and inner rows that do not fit the kind of their batch.

    Args:
        batch: the batch.
        axes: the number of axes before the features: 2 for padded rows, 1 for packed ones.

    Raises:
        ShapeError: naming what does not fit.
    """
    kind, values = batch.kind, batch.values
    base = cast("type[Kind]", get_kind_class(kind))
    if base is Ids:
        rule, is_right = "int64 ids", values.dtype is torch.int64 and values.ndim == axes
    elif base is Nested:
        rule, is_right = "int64 numbers of inner rows", values.dtype is torch.int64 and values.ndim == axes
    else:
        rule, is_right = "floating-point vectors", values.is_floating_point() and values.ndim == axes + 1
    if not is_right:
        layout = ("batch x time" if axes == 2 else "steps") + ("" if base in {Ids, Nested} else " x feature")
        msg = (
            f"values must be {rule} of {layout} for kind {format_kind(kind)}, got {describe(values)}; "
            "use kind Ids for token ids and Vectors for features."
        )
        raise ShapeError(msg, argument="values")
    if (batch.inner is not None) != (base is Nested) or (batch.fields is not None) != issubclass(base, Composite):
        msg = (
            f"a batch of kind {format_kind(kind)} must have inner rows if it is Nested, and fields if its class has "
            "fields, and else neither; build it with Pad."
        )
        raise ShapeError(msg, argument="kind")
    if batch.fields is not None:
        _check_fields(batch, cast("type[Composite]", base), batch.fields)


def _check_fields(batch: "Batch[Kind]", kind: type[Composite], fields: "Mapping[str, Batch[Kind]]") -> None:
    kinds = kind.get_kinds()
    if fields.keys() != kinds.keys():
        msg = (
            f"fields must be those of {kind.__name__}, {', '.join(kinds)}, got {', '.join(fields)}; build it with Pad."
        )
        raise ShapeError(msg, argument="fields")
    for name, field in fields.items():
        shares_order = field.order is batch.order
        # Fast path: nearly always fields share their order, and with it their lengths, and are of the declared kinds.
        if shares_order and field.kind is kinds[name]:
            continue
        if kind.aligned:
            same = shares_order or torch.equal(field.lengths, batch.lengths)
        else:
            same = len(field.lengths) == len(batch.lengths)
        if not same or not is_kind(field.kind, kinds[name]) or not _has_inner(field, kinds[name]):
            wanted = "the same number of steps in each row" if kind.aligned else "the same number of rows"
            msg = (
                f"field {name!r} must hold {format_kind(kinds[name])} with {wanted} as the batch, got "
                f"{format_kind(field.kind)} with lengths {describe(field.lengths)}; build the batch with Pad."
            )
            raise ShapeError(msg, argument="fields", field=name)


def _has_inner(field: "Batch[Kind]", kind: type[Kind]) -> bool:
    """Return whether a field holds the inner rows that its kind asks for, as `Nested[Ids]` asks for ids."""
    wanted = get_inner_kind(kind)
    return wanted is None or (field.inner is not None and is_kind(field.inner.kind, wanted))


def check_new_values(values: Tensor, positions: torch.Size) -> None:
    """Reject values that are not one vector for each position of the batch whose values they replace.

    Raises:
        ShapeError: with the shape that is needed.
    """
    if not checks_enabled():
        return
    if not values.is_floating_point() or values.ndim != len(positions) + 1 or values.shape[:-1] != positions:
        expected = ", ".join(map(str, positions))
        msg = (
            f"values must be floating-point vectors of shape ({expected}, feature) for the rows of this batch, "
            f"got {describe(values)}; keep one vector per position."
        )
        raise ShapeError(msg, argument="values")


def check_carry(name: str, carry: "Carry | None", batch: int) -> None:
    """Reject a recurrent state of another number of rows.

    Raises:
        ShapeError: naming the tensor.
    """
    for index, tensor in enumerate(carry or ()):
        if tensor.ndim != 3 or tensor.shape[1] != batch:
            msg = (
                f"{name}[{index}] must be layers x batch x size with a batch of {batch}, got {describe(tensor)}; "
                "pass the `carry` that an encoder returned for the same rows."
            )
            raise ShapeError(msg, argument=name)
