"""Laws about batches of ordinary size: rows of 14 to 600 steps, and many rows. Other laws use a few short rows."""

import math
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from pipeline.data.batches import Padded
from pipeline.data.kinds import Vectors
from pipeline.laws.law import FaultError, Law, check_equal, compute_weighted_sum, law
from pipeline.laws.parts import (
    AnyModule,
    PlainModule,
    choose_input_size,
    draw_rows,
    list_layouts,
    make_batch,
    prepare,
    run_all,
    run_flat,
    run_rows,
)
from pipeline.parts.attention import Attention
from pipeline.parts.encoder import Encoder

# Steps of a long row. Position tables, windows and truncation often end at 512 steps or fewer.
_LONG: Final = 600

# Lengths of its batchmates: longer than the rows of other laws, in no order.
_ORDINARY: Final = (14, 64, 37, 130)

# Lengths of many rows. Some kernels, and some mistakes, process blocks of 8, 32 or 64 rows.
_MANY: Final = tuple(1 + (7 * index) % 10 for index in range(70))

# Rows of one length may take a shortcut, since they have no padding.
_EVEN: Final = (64, 64, 64)

# Allowed relative difference: a sum of hundreds of terms loses more digits than a sum of a few.
_SUMS: Final = 1e-7

# Size of finite differences: the error of the second order is 1e-12, and that of rounding 1e-10.
_STEP: Final = 1e-6


@law
def many_and_long_rows_are_independent(make: Callable[[], AnyModule]) -> None:
    """Among 70 rows, and with up to 600 steps, a row gives the same result as alone, up to rounding."""
    part = prepare(make)
    for lengths, chosen, extra in (
        ((*_ORDINARY, _LONG), range(5), 1),
        (_EVEN, range(3), 0),
        (_MANY, (0, 8, 31, 33, 65, len(_MANY) - 1), 1),
    ):
        rows = draw_rows(lengths, choose_input_size(part))
        with torch.no_grad():
            batches = list_layouts(part, make_batch(rows, extra=extra, filling=math.nan))
            together = {layout: run_all(part, batch) for layout, batch in batches.items()}
            for index in chosen:
                alone = run_all(part, make_batch([rows[index]]))[0]
                for layout, found in together.items():
                    condition = f"row {index} of {len(rows)}, with {lengths[index]} steps, in {layout} instead of alone"
                    check_equal(found[index], alone, condition, rounding=_SUMS)


@law
def gradients_of_long_rows_are_correct(make: Callable[[], AnyModule]) -> None:
    """Gradients through 600 steps, and of many rows, equal a finite difference along a random direction."""
    part = prepare(make)
    for lengths in ((_LONG, 37), (2,) * len(_MANY)):
        _check_slope(part, make_batch(draw_rows(lengths, choose_input_size(part))))


def _check_slope(part: AnyModule, batch: Padded[Vectors]) -> None:
    """Check gradients along a random direction: cheaper than `gradcheck`, which makes a dense Jacobian."""
    values = batch.values.requires_grad_()
    weights = [weight for weight in part.parameters() if weight.requires_grad]

    def compute() -> Tensor:
        return compute_weighted_sum(run_flat(part, Padded(Vectors, values, batch.lengths)))

    total = compute()
    if not total.requires_grad:
        raise FaultError("the results of long rows have no gradient; usually because of detach() or no_grad().")
    slopes = torch.autograd.grad(total, [values, *weights], allow_unused=True, materialize_grads=True)
    generator = torch.Generator().manual_seed(3)
    for name, inputs, own in (("values", [values], slopes[:1]), ("weights", weights, slopes[1:])):
        moves = [torch.randn(each.shape, dtype=each.dtype, generator=generator) * _STEP for each in inputs]
        expected = _move_and_compute(compute, inputs, moves, 1) - _move_and_compute(compute, inputs, moves, -1)
        found = 2 * sum(float((slope * move).sum()) for slope, move in zip(own, moves, strict=True))
        # Relative to the length of the gradient: the slope along one direction may be 0 by chance.
        size = 2 * _STEP * math.sqrt(sum(float(slope.square().sum()) for slope in own))
        # Below the effect of detached states, and far above the error of finite differences.
        if not abs(found - expected) <= 1e-3 * max(abs(expected), size):
            msg = (
                f"along a random direction, the gradient of {name} says that results change by {found:.4g}, but they "
                f"change by {expected:.4g}, in {len(batch.lengths)} rows of up to {batch.width} steps; usually because "
                "states are detached every few steps."
            )
            raise FaultError(msg)


def _move_and_compute(
    compute: Callable[[], Tensor], inputs: Sequence[Tensor], moves: Sequence[Tensor], sign: int
) -> float:
    """Compute with all inputs moved, and move them back."""
    with torch.no_grad():
        before = [each.clone() for each in inputs]
        for each, move in zip(inputs, moves, strict=True):
            each.add_(move, alpha=sign)
        found = float(compute())
        for each, old in zip(inputs, before, strict=True):
            each.copy_(old)
    return found


@law
def long_rows_are_read_like_short_ones(make: Callable[[], AnyModule]) -> None:
    """What holds for the steps of a short row holds for all steps of a long one.

    If the order of steps matters at the start of a row, it does at step 595. If the number of equal steps does not
    change a result, or multiplies it, then it does so for 600 steps too. If all steps of a short row change its result
    alike, so do the steps of a long row. An attention does not depend on the order of 600 keys.
    """
    part = prepare(make)
    row = draw_rows((_LONG,), choose_input_size(part))[0]

    def run(each: Tensor) -> Tensor:
        with torch.no_grad():
            return run_rows(part, make_batch([each]))[0]

    if isinstance(part, Attention):
        mask = torch.ones(1, 3, _LONG, dtype=torch.bool)
        ordered, turned = (part(row[None, :3], keys, mask) for keys in (row[None], row[None].flip(1)))
        check_equal(list(turned), list(ordered), f"with the order of {_LONG} keys reversed", rounding=_SUMS)
        return
    if _is_order_sensitive(run, row, 2) and not _is_order_sensitive(run, row, _LONG - 5):
        msg = (
            f"two steps may be swapped at step {_LONG - 5} of {_LONG} steps, but not at step 2; usually because "
            "positions end at the length of a table."
        )
        raise FaultError(msg)
    per_step = isinstance(part, Encoder) or (isinstance(part, PlainModule) and len(run(row)) == _LONG)
    if not per_step:
        _check_each_step_counts(run, row)
    # The last result: the final state of an encoder, or the last step of a module.
    which = -1 if per_step else slice(None)
    _check_numbers_of_steps([run(row[:1].expand(count, -1))[which] for count in _EQUAL])


# Numbers of equal steps; the first three are short rows.
_EQUAL: Final = (1, 3, 5, 14, 37, 130, 600)


def _is_order_sensitive(run: Callable[[Tensor], Tensor], row: Tensor, at: int) -> bool:
    """Return whether results change, other than by a swap, if the steps `at` and `at` + 3 are swapped."""
    order = torch.arange(len(row))
    order[at], order[at + 3] = at + 3, at
    found, wanted = run(row[order]), run(row)
    if len(found) >= len(row):
        found = torch.cat([found[: len(row)][order], found[len(row) :]])
    return not torch.allclose(found, wanted, rtol=0, atol=1e-9)


def _check_numbers_of_steps(results: Sequence[Tensor]) -> None:
    for rule, power in (("does not change", 0), ("multiplies", 1)):
        # The mean of equal steps does not depend on their number, and their sum is proportional to it. A part that
        # follows such a rule for short rows must do so for long ones too, where rounding errors are larger.
        scaled = [result / count**power for count, result in zip(_EQUAL, results, strict=True)]
        if not all(torch.allclose(each, scaled[0], rtol=1e-9, atol=1e-12) for each in scaled[:3]):
            continue
        for count, each in zip(_EQUAL, scaled, strict=True):
            if not torch.allclose(each, scaled[0], rtol=1e-6, atol=1e-9):
                msg = (
                    f"the number of equal steps {rule} the result for 1 to 5 steps, but not for {count}; usually "
                    "because of a limit on lengths, or a division by a constant."
                )
                raise FaultError(msg)


def _check_each_step_counts(run: Callable[[Tensor], Tensor], row: Tensor) -> None:
    for length, steps in ((14, (0, 2, 5, 9, 13)), (_LONG, (2, 50, 150, 450, _LONG - 10))):
        base = run(row[:length])
        changes: list[float] = []
        for step in steps:
            spike = row[:length].clone()
            # Larger than all values, so that a maximum sees it too, and smaller: a quantile sees one of both.
            changes.append(0.0)
            for value in (30, -30):
                spike[step] = value
                changes[-1] = max(changes[-1], float((run(spike) - base).square().sum().sqrt()))
        # Alike: within a factor of two. A part that forgets early steps of a short row as well may do so in a long one.
        if min(changes) > 0.5 * max(changes) > 0:
            continue
        if length == _LONG:
            msg = (
                f"all steps of a short row change its result alike, but of a row of {_LONG} steps, step "
                f"{steps[changes.index(min(changes))]} does not; usually because rows are cut."
            )
            raise FaultError(msg)
        return


LONG_ROW_LAWS: Final[tuple[Law[AnyModule], ...]] = (
    many_and_long_rows_are_independent,
    long_rows_are_read_like_short_ones,
    gradients_of_long_rows_are_correct,
)
"""The laws of this file."""
