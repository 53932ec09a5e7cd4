"""The laws of rows: neither padding nor batch mates, nor their order, nor the layout changes what a row gives."""

import math
from collections.abc import Callable
from typing import Final

import attrs
import torch
from torch import Tensor

from pipeline.data.batches import Padded
from pipeline.data.rows import Vectors
from pipeline.laws.compare import gradients, same
from pipeline.laws.law import FaultError, Law, law
from pipeline.laws.run import PlainModule, Tried, may_be_empty, prepared, results, size_of
from pipeline.laws.samples import FILLINGS, LENGTHS, drawn, padded
from pipeline.parts.encoder import Encoder
from pipeline.parts.pooling import Pooling

_PADDING: Final = (
    "Usually a sum, mean, maximum or softmax over the whole width, or a mask that multiplies (NaN times 0 is NaN): "
    "select or fill instead, as batch.fill_padding(0) does, or compute on batch.packed()."
)
_WIDTH: Final = (
    "Usually a mean over the width instead of the length, the last column taken for the last step, or a backward "
    "direction that begins in the padding."
)
_MATES: Final = (
    "Usually statistics over the whole batch, a reshape that mixes its axes, or something that depends on the width, "
    "which longer mates make larger."
)
_ORDER: Final = "Usually rows that are sorted by length and not put back, or a number a place in the batch."


@law
def padding_is_inert(make: Callable[[], Encoder | Pooling | PlainModule]) -> None:
    """What padding holds (0, NaN, infinity, 1e38) changes no bit of any result."""
    part = prepared(make)
    for lengths in LENGTHS:
        rows = drawn(lengths, size_of(part))
        first = results(part, padded(rows, extra=2))
        for filling in FILLINGS:
            found = results(part, padded(rows, extra=2, filling=filling))
            same(found, first, f"with {filling} instead of 0 in the padding", remedy=_PADDING, rounding=0)


@law
def no_gradient_reaches_padding(make: Callable[[], Encoder | Pooling | PlainModule]) -> None:
    """Padding gets no gradient, and what it holds (NaN included) changes no bit of those of real steps and weights."""
    part = prepared(make)
    for lengths in LENGTHS:
        _check_gradients(part, padded(drawn(lengths, size_of(part)), extra=2))


def _check_gradients(part: Tried, batch: Padded[Vectors]) -> None:
    real = batch.order.mask(batch.width)
    weights = [weight for weight in part.parameters() if weight.requires_grad]
    wanted: list[Tensor] | None = None
    for filling in FILLINGS:
        values = batch.fill_padding(filling).values.detach().requires_grad_()
        found, *others = gradients(results(part, Padded(Vectors, values, batch.lengths)), [values, *weights])
        if found[~real].count_nonzero():
            row = int(found.masked_fill(real.unsqueeze(-1), 0).flatten(1).any(1).nonzero()[0])
            msg = f"with {filling} in the padding, the padding of row {row} gets a gradient. {_PADDING}"
            raise FaultError(msg, filling=filling, row=row)
        wanted = wanted or [found[real], *others]
        of = f"with {filling} instead of 0 in the padding, gradients (of values, then of weights)"
        same([found[real], *others], wanted, of, remedy=_PADDING, rounding=0)


@law
def amount_of_padding_is_inert(make: Callable[[], Tried]) -> None:
    """More padding changes rounding at most."""
    part = prepared(make)
    for lengths in LENGTHS:
        rows = drawn(lengths, size_of(part))
        first = results(part, padded(rows))
        for extra in (1, 7):
            found = results(part, padded(rows, extra=extra))
            same(found, first, f"in a rectangle wider than its longest row, by {extra}", remedy=_WIDTH)


@law
def batch_mates_are_inert(make: Callable[[], Tried]) -> None:
    """A row alone, a batch of one, gives what it gives among others, up to rounding; even if those are all NaN."""
    part = prepared(make)
    for lengths in LENGTHS:
        rows = drawn(lengths, size_of(part))
        among = results(part, padded(rows))
        for index, row in enumerate(rows):
            of = f"row {index} of lengths {lengths}"
            same(results(part, padded([row])), [among[index]], f"{of}, alone", remedy=_MATES)
            poisoned = [mate if place == index else torch.full_like(mate, math.nan) for place, mate in enumerate(rows)]
            found = results(part, padded(poisoned))[index]
            same([found], [among[index]], f"{of}, among rows of NaN", remedy=_MATES)


@law
def order_of_rows_is_inert(make: Callable[[], Tried]) -> None:
    """Rows in another order give the same results in that order, up to rounding."""
    part = prepared(make)
    for lengths in LENGTHS:
        rows = drawn(lengths, size_of(part))
        first = results(part, padded(rows))
        for turn in range(1, len(rows)):
            turned = results(part, padded([*rows[turn:], *rows[:turn]]))
            same([*turned[-turn:], *turned[:-turn]], first, f"with the first {turn} rows last", remedy=_ORDER)


@law
def layouts_agree(make: Callable[[], Encoder | Pooling]) -> None:
    """Packed and padded batches of the same rows give the same results, up to rounding."""
    part = prepared(make)
    for lengths in LENGTHS:
        batch = padded(drawn(lengths, size_of(part)))
        remedy = "Read batch.values only after batch.packed() or batch.padded(), which say how they lie."
        same(results(part, batch.packed()), results(part, batch), "packed instead of padded", remedy=remedy)


@law
def input_is_left_as_it_came(make: Callable[[], Tried]) -> None:
    """Nothing is written into the batch: neither its values and lengths, nor the initial states."""
    part = prepared(make)
    rows = drawn(LENGTHS[0], size_of(part))
    batch = padded(rows, extra=2, filling=7.0)
    if isinstance(part, Encoder) and part.stateful:
        carried = part(padded(rows)).carry or ()
        batch = attrs.evolve(batch, initial_carry=tuple(state.detach().clone() for state in carried))
    held = [batch.values, batch.lengths, *(batch.initial_carry or ())]
    before = [tensor.clone() for tensor in held]
    # Without gradients: where they are wanted, torch itself refuses to write into a leaf, but not into a batch.
    with torch.no_grad():
        results(part, batch)
    names = ["values", "lengths", *(f"initial[{index}]" for index in range(len(held) - 2))]
    for name, now, then in zip(names, held, before, strict=True):
        if not torch.equal(now, then):
            msg = f"{name} of the batch were changed in place; work on a copy, as masked_fill (without _) gives."
            raise FaultError(msg, argument=name)


@law
def empty_rows_are_inert(make: Callable[[], Tried]) -> None:
    """Rows of no steps give finite results, with finite gradients, and change their mates' by rounding at most.

    They may stand anywhere, hold anything in their padding, and be all that there is in a batch.
    """
    part = prepared(make)
    if not may_be_empty(part):
        return
    rows = drawn((0, 4, 0, 1, 6), size_of(part))
    wanted = results(part, padded([row for row in rows if len(row)]))
    _finite(part, rows)
    first = results(part, padded(rows))
    same([first[index] for index in (1, 3, 4)], wanted, "rows among empty ones")
    for filling in FILLINGS:
        found = results(part, padded(rows, extra=1, filling=filling)) if not _masked(part) else first
        same(found, first, f"empty rows with {filling} in their padding", remedy=_PADDING)
    alone = results(part, padded(drawn((0,), size_of(part)), extra=2))
    for count, extra in ((1, 0), (3, 0), (3, 2)):
        none = drawn((0,) * count, size_of(part))
        _finite(part, none, extra=extra)
        of = f"a batch of {count} empty rows, {extra} steps wide"
        same(results(part, padded(none, extra=extra)), alone * count, of)


def _masked(part: Tried) -> bool:
    """Whether a part takes masks instead of rows, and so never sees padding."""
    return not isinstance(part, Encoder | Pooling | PlainModule)


def _finite(part: Tried, rows: list[Tensor], *, extra: int = 0) -> None:
    batch = padded(rows, extra=extra)
    values = batch.values.requires_grad_()
    found = results(part, Padded(Vectors, values, batch.lengths))
    for what, tensors in (("results", found), ("gradients", gradients(found, [values, *part.parameters()]))):
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            msg = (
                f"rows of lengths {[len(row) for row in rows]} give {what} that are not finite; usually a division by "
                "their length (clamp(min=1)), or a softmax over nothing (pipeline.parts.attention.masked_softmax)."
            )
            raise FaultError(msg)


EVERY_ROW: tuple[Law[Tried], ...] = (
    batch_mates_are_inert,
    order_of_rows_is_inert,
    amount_of_padding_is_inert,
    empty_rows_are_inert,
    input_is_left_as_it_came,
)
"""The laws of rows that parts of every kind obey."""
