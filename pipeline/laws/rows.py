"""Laws about rows: padding, batchmates, their order and the layout must not change a row's result."""

import math
from collections.abc import Callable, Sequence
from typing import Final

import attrs
import torch
from torch import Tensor

from pipeline.data.batches import Padded
from pipeline.data.kinds import Vectors
from pipeline.data.states import MaybeCausal
from pipeline.laws.law import FaultError, Law, check_equal, compute_gradients, law
from pipeline.laws.parts import (
    FILLINGS,
    LENGTHS,
    AnyModule,
    PlainModule,
    add_carry,
    allows_empty_rows,
    choose_input_size,
    draw_rows,
    make_batch,
    prepare,
    run_all,
    run_flat,
    run_rows,
)
from pipeline.parts.encoder import Encoder
from pipeline.parts.pooling import Pooling

# Hints at the usual mistake, appended to the messages below.
_PADDING: Final = (
    "Usually a sum, mean, maximum or softmax over the whole width, or a mask that multiplies (NaN times 0 is NaN): "
    "select or fill instead, as masked_fill and torch.where do; in a part of this library, use batch.fill_padding(0) "
    "or batch.packed()."
)
WIDTH: Final = (
    "Usually a mean over the width instead of the length, the last column used as the last step, or a backward "
    "direction that starts in the padding."
)
_BATCHMATES: Final = (
    "Usually statistics over the whole batch, a reshape that mixes its axes, or a result that depends on the width, "
    "which longer batchmates increase."
)
_ORDER: Final = "Usually rows that are sorted by length and not restored, or a number that depends on the row's index."
_FUTURE: Final = "Usually a direction, a mask or a convolution that sees the future, or a mean over the row."


@law
def padding_values_have_no_effect(make: Callable[[], Encoder | Pooling | PlainModule]) -> None:
    """Results are bitwise the same whatever the padding holds: 0, NaN, infinity or 1e38."""
    part = prepare(make)
    for lengths in LENGTHS:
        rows = draw_rows(lengths, choose_input_size(part))
        # Wider than the longest row, so that every row has padding. Bitwise equality is possible here, because the
        # shapes, and so the order of all sums, stay the same.
        first = run_rows(part, make_batch(rows, extra=2))
        for filling in FILLINGS:
            found = run_rows(part, make_batch(rows, extra=2, filling=filling))
            check_equal(found, first, f"with {filling} instead of 0 in the padding", fix=_PADDING, rounding=0)


@law
def no_gradient_reaches_padding(make: Callable[[], Encoder | Pooling | PlainModule]) -> None:
    """Padding gets no gradient, and its values (NaN included) change no bit of the gradients of steps and weights."""
    part = prepare(make)
    for lengths in LENGTHS:
        _check_gradients(part, make_batch(draw_rows(lengths, choose_input_size(part)), extra=2))


def _check_gradients(part: AnyModule, batch: Padded[Vectors]) -> None:
    real = batch.order.mask(batch.width)
    weights = [weight for weight in part.parameters() if weight.requires_grad]
    wanted: list[Tensor] | None = None
    for filling in FILLINGS:
        values = batch.fill_padding(filling).values.detach().requires_grad_()
        results = run_rows(part, Padded(Vectors, values, batch.lengths))
        found, *others = compute_gradients(results, [values, *weights])
        if found[~real].count_nonzero():
            row = int(found.masked_fill(real.unsqueeze(-1), 0).flatten(1).any(1).nonzero()[0])
            msg = f"with {filling} in the padding, the padding of row {row} gets a gradient. {_PADDING}"
            raise FaultError(msg, filling=filling, row=row)
        wanted = wanted or [found[real], *others]
        condition = f"with {filling} instead of 0 in the padding, gradients (of values, then of weights)"
        check_equal([found[real], *others], wanted, condition, fix=_PADDING, rounding=0)


@law
def amount_of_padding_has_no_effect(make: Callable[[], AnyModule]) -> None:
    """Wider batches give the same results, up to rounding."""
    part = prepare(make)
    for lengths in LENGTHS:
        rows = draw_rows(lengths, choose_input_size(part))
        first = run_rows(part, make_batch(rows))
        # Another width may change the order of sums inside kernels, so results are equal up to rounding only.
        for extra in (1, 7):
            found = run_rows(part, make_batch(rows, extra=extra))
            check_equal(found, first, f"in a batch that is {extra} wider than its longest row", fix=WIDTH)


@law
def batchmates_have_no_effect(make: Callable[[], AnyModule]) -> None:
    """A row gives the same result alone and among other rows, up to rounding; even if those are all NaN."""
    part = prepare(make)
    for lengths in LENGTHS:
        rows = draw_rows(lengths, choose_input_size(part))
        together = run_all(part, make_batch(rows))
        for index, row in enumerate(rows):
            which = f"row {index} of lengths {lengths}"
            alone = run_all(part, make_batch([row]))[0]
            check_equal(alone, together[index], f"{which}, alone (its result, then its carry)", fix=_BATCHMATES)
            # NaN shows a dependence of any size: a result that uses one NaN is NaN.
            others = [mate if mate is row else torch.full_like(mate, math.nan) for mate in rows]
            found = run_all(part, make_batch(others))[index]
            check_equal(found, together[index], f"{which}, among rows of NaN", fix=_BATCHMATES)


@law
def row_order_has_no_effect(make: Callable[[], AnyModule]) -> None:
    """Rows in another order give the same results in that order, up to rounding."""
    part = prepare(make)
    for lengths in LENGTHS:
        rows = draw_rows(lengths, choose_input_size(part))
        first = run_rows(part, make_batch(rows))
        # All rotations, so that every row has been at every position.
        for shift in range(1, len(rows)):
            found = run_rows(part, make_batch([*rows[shift:], *rows[:shift]]))
            restored = [*found[-shift:], *found[:-shift]]
            check_equal(restored, first, f"with the first {shift} rows moved to the end", fix=_ORDER)


@law
def packed_and_padded_agree(make: Callable[[], Encoder | Pooling]) -> None:
    """Packed and padded batches of the same rows give the same results and gradients, up to rounding."""
    part = prepare(make)
    fix = "Read batch.values only after batch.packed() or batch.padded(), which fix its layout."
    empty = ((4, 2, 0, 0), (0, 3, 0, 1)) if allows_empty_rows(part) else ()
    for lengths in (*LENGTHS, *empty):
        batch = add_carry(part, make_batch(draw_rows(lengths, choose_input_size(part))))
        values = batch.values.requires_grad_()
        batch = attrs.evolve(batch, values=values)
        padded, packed = (run_flat(part, each) for each in (batch, batch.packed()))
        check_equal(packed, padded, "packed instead of padded", fix=fix)
        inputs = [values, *part.parameters()]
        slopes = compute_gradients(packed, inputs)
        check_equal(slopes, compute_gradients(padded, inputs), "packed instead of padded, gradients", fix=fix)


@law
def empty_rows_have_no_effect(make: Callable[[], AnyModule]) -> None:
    """Empty rows give finite results and gradients, and change other rows by rounding at most.

    They may be anywhere, hold anything in their padding, and be the only rows of a batch.
    """
    part = prepare(make)
    if not allows_empty_rows(part):
        return
    for lengths in ((4, 2, 0), (0, 4, 0, 1, 6), (3, 5, 0, 0)):
        rows = draw_rows(lengths, choose_input_size(part))
        wanted = run_rows(part, make_batch([row for row in rows if len(row)]))
        _check_finite(part, rows)
        first = run_rows(part, make_batch(rows))
        real = [result for result, row in zip(first, rows, strict=True) if len(row)]
        check_equal(real, wanted, "rows among empty rows")
        # An attention gets a mask instead of rows, and so never sees padding.
        for filling in FILLINGS if isinstance(part, Encoder | Pooling | PlainModule) else ():
            found = run_rows(part, make_batch(rows, extra=1, filling=filling))
            check_equal(found, first, f"empty rows with {filling} in their padding", fix=_PADDING)
    # A batch without any real step is a case of its own: many kernels reject empty input.
    alone = run_rows(part, make_batch(draw_rows((0,), choose_input_size(part)), extra=2))
    for count, extra in ((1, 0), (3, 0), (3, 2)):
        empty = draw_rows((0,) * count, choose_input_size(part))
        _check_finite(part, empty, extra=extra)
        condition = f"a batch of {count} empty rows, {extra} steps wide"
        check_equal(run_rows(part, make_batch(empty, extra=extra)), alone * count, condition)


def _check_finite(part: AnyModule, rows: list[Tensor], *, extra: int = 0) -> None:
    batch = make_batch(rows, extra=extra)
    values = batch.values.requires_grad_()
    found = run_rows(part, Padded(Vectors, values, batch.lengths))
    for name, tensors in (("results", found), ("gradients", compute_gradients(found, [values, *part.parameters()]))):
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            msg = (
                f"rows of lengths {[len(row) for row in rows]} give {name} that are not finite; usually a division by "
                "their length (use clamp(min=1)), or a softmax over nothing (use pipeline.extend.masked_softmax)."
            )
            raise FaultError(msg)


@law
def causal_steps_do_not_look_ahead(make: Callable[[], Encoder[MaybeCausal] | PlainModule]) -> None:
    """If `causal` is declared, changing or removing later steps leaves earlier results as they were."""
    part = prepare(make)
    if not part.causal:
        return
    rows = draw_rows((6, 4, 5), choose_input_size(part))
    whole = run_rows(part, make_batch(rows))
    for cut in range(1, 6):
        wanted = [whole[0][:cut]]
        # Another future shows a part that reads later steps; no future shows a part that uses the row's length.
        found = run_rows(part, make_batch(redraw_steps(rows, 0, cut, 6, cut)))[0]
        check_equal([found[:cut]], wanted, f"after a change of the steps from {cut} on, earlier steps", fix=_FUTURE)
        found = run_rows(part, make_batch([rows[0][:cut], *rows[1:]]))[0]
        check_equal([found[:cut]], wanted, f"after the row was cut at step {cut}, the remaining steps", fix=_FUTURE)


def redraw_steps(rows: Sequence[Tensor], index: int, start: int, end: int, seed: int) -> list[Tensor]:
    """Return the rows with some steps of one of them replaced by new random vectors."""
    row = rows[index].clone()
    row[start:end] = draw_rows((end - start,), row.shape[1], seed=100 + seed)[0]
    return [*rows[:index], row, *rows[index + 1 :]]


ROW_LAWS: tuple[Law[AnyModule], ...] = (
    batchmates_have_no_effect,
    row_order_has_no_effect,
    amount_of_padding_has_no_effect,
    empty_rows_have_no_effect,
)
"""The laws about rows that hold for parts of every kind."""
