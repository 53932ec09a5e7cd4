"""Laws about numbers: large values, float32, half precision and autocast."""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Final

import attrs
import torch
from torch import Tensor

from pipeline.data.batches import Batch, Padded
from pipeline.data.kinds import Vectors
from pipeline.laws.law import UNREGISTERED, FaultError, Law, check_equal, compute_gradients, law
from pipeline.laws.parts import (
    AnyModule,
    PlainModule,
    add_carry,
    allows_empty_rows,
    choose_input_size,
    draw_rows,
    list_layouts,
    make_batch,
    prepare,
    run_flat,
    run_rows,
)
from pipeline.parts.attention import Attention
from pipeline.parts.encoder import Encoder

# Allowed relative difference between float32 and float64 results. float32 has 7 digits; recurrences lose a few.
_FLOAT32: Final = 1e-3

# The same for lower precision: about 12 rounding errors, since errors of several steps add up.
_LOW_PRECISION: Final[Mapping[torch.dtype, float]] = {torch.bfloat16: 0.1, torch.float16: 0.02}

# The same in float64, for values so large that a sum of them loses more digits.
_LARGE: Final = 1e-7

# A sum of 600 ones is 600. Added one by one in bfloat16, it ends at 256, where adding 1 changes nothing.
_LONG: Final = 600


@law
def large_values_are_stable(make: Callable[[], AnyModule]) -> None:
    """Large values, of one sign too, give finite results and gradients, and padding has no effect among them.

    They are not cut off either: results change with values of 25 and of 10,000.
    """
    part = prepare(make)
    drawn = draw_rows((4, 1, 6, 3), choose_input_size(part))
    for name, rows in (
        ("values of 1,000", [1_000 * row for row in drawn]),
        # All below the numbers with which masked positions are often filled: -10, -1e3, -1e4.
        ("values around -20,000", [-20_000 - 50 * row.abs() for row in drawn]),
        ("values around 1,000", [1_000 + 50 * row.abs() for row in drawn]),
    ):
        together = run_rows(part, make_batch(rows, extra=2))
        _check_finite(part, make_batch(rows, extra=2), name)
        alone = [run_rows(part, make_batch([row]))[0] for row in rows]
        fix = "Usually masked positions that are filled with a number such as -10 instead of the lowest one."
        check_equal(together, alone, f"with {name}, in a padded batch instead of alone", fix=fix, rounding=_LARGE)
    _check_limits(part)
    single = part.float()
    _check_finite(single, make_batch([1_000 * row.float() for row in drawn], extra=2), "values of 1,000 in float32")


def _check_finite(part: AnyModule, batch: Padded[Vectors], name: str) -> None:
    values = batch.values.detach().requires_grad_()
    found = run_rows(part, Padded(Vectors, values, batch.lengths))
    for what, tensors in (("results", found), ("gradients", compute_gradients(found, [values, *part.parameters()]))):
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            msg = (
                f"{name} give {what} that are not finite; usually exp() of large numbers: subtract the maximum first, "
                "as softmax and logsumexp do."
            )
            raise FaultError(msg)


def _check_limits(part: AnyModule) -> None:
    if isinstance(part, PlainModule):
        return  # a plain module may cut values off on purpose
    generator = torch.Generator().manual_seed(4)
    weights = [weight.detach().clone() for weight in part.parameters()]
    # Above the limits at which values are often clamped: 10 or 20 before an exponential, 1,000 for "large".
    for scale in (25.0, 1e4):
        with torch.no_grad():
            # Weights that are smaller by as much leave sums where no activation function is saturated.
            for weight, before in zip(part.parameters(), weights, strict=True):
                weight.copy_(before * 25 / scale)
            row = draw_rows((5,), choose_input_size(part))[0]
            row = row.sign() * scale * (1 + torch.rand(row.shape, dtype=row.dtype, generator=generator) / 5)
            other = row * (1.1 + torch.rand(row.shape, dtype=row.dtype, generator=generator) / 5)
            same = torch.equal(run_rows(part, make_batch([row]))[0], run_rows(part, make_batch([other]))[0])
            if isinstance(part, Attention):
                same = same or torch.equal(part.score(row[None], row[None]), part.score(other[None], other[None]))
            for weight, before in zip(part.parameters(), weights, strict=True):
                weight.copy_(before)
        if same:
            msg = f"results do not change when values of {scale:,.0f} grow by a tenth; usually because of clamp()."
            raise FaultError(msg)


@law
def output_dtype_follows_part(make: Callable[[], AnyModule]) -> None:
    """A part that is moved to float32 and back returns that dtype, and equal numbers up to its precision."""
    part = prepare(make)
    batch = make_batch(draw_rows((4, 1, 3), choose_input_size(part)), extra=1)
    wanted = run_rows(part, batch)
    # Back to float64 as well: a tensor that `.to` does not reach is still float64 after the first move, but has
    # mixed with float32 by then.
    for dtype in (torch.float32, torch.float64):
        part.to(dtype)
        found = run_rows(part, Padded(Vectors, batch.values.to(dtype), batch.lengths))
        wrong = next((result.dtype for result in found if result.dtype is not dtype), None)
        if wrong is not None:
            msg = (
                f"after .to({dtype}) and with {dtype} input it returns {wrong}; create tensors with "
                "values.new_zeros(...) or dtype=values.dtype, and register the ones that the module stores."
            )
            raise FaultError(msg, dtype=wrong)
        check_equal([result.double() for result in found], wanted, f"in {dtype}", fix=UNREGISTERED, rounding=_FLOAT32)


@law
def low_precision_agrees(make: Callable[[], AnyModule]) -> None:
    """In bfloat16, in float16, and in float32 under autocast, results and gradients are finite and close to float64.

    Results have the dtype of the part; under autocast they may have either. Poolings and attentions add up long rows
    in float32 or better.
    """
    part = prepare(make)
    shortest = 0 if allows_empty_rows(part) else 1
    rows = draw_rows((4, shortest, 6, 1), choose_input_size(part))
    filling = 0.0 if isinstance(part, Attention) else math.nan
    batches = list_layouts(part, add_carry(part, make_batch(rows, extra=1, filling=filling)))
    if not isinstance(part, Encoder | PlainModule):  # errors of 600 steps of a recurrence may add up
        batches["a long row"] = make_batch([1 + row / 10 for row in draw_rows((_LONG,), choose_input_size(part))])
    for name, batch in batches.items():
        wanted, slopes = _run_with_slopes(part, batch, torch.float64)
        for dtype, rounding in _LOW_PRECISION.items():
            for condition, low, autocast in (
                (f"in {dtype}, with {name}", dtype, False),
                (f"under autocast to {dtype}, with {name}", torch.float32, True),
            ):
                with torch.autocast("cpu", dtype=dtype, enabled=autocast):
                    found, others = _run_with_slopes(copy.deepcopy(part).to(low), batch, low)
                wrong = [each.dtype for each in found if each.dtype is not low]
                if wrong and not autocast:
                    msg = (
                        f"{condition} and with input of that dtype it returns {wrong[0]}; create tensors with "
                        "dtype=values.dtype."
                    )
                    raise FaultError(msg)
                _check_low(found, others, slopes, condition)
                check_equal([each.double() for each in found], wanted, condition, rounding=rounding)


def _run_with_slopes(part: AnyModule, batch: Batch[Vectors], dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Return results and gradients."""
    values = batch.values.to(dtype).requires_grad_()
    carry = None if batch.initial_carry is None else tuple(each.to(dtype) for each in batch.initial_carry)
    found = run_flat(part, attrs.evolve(batch, values=values, initial_carry=carry))
    return found, list(compute_gradients([each.double() for each in found], [values, *part.parameters()]))


def _check_low(found: list[Tensor], slopes: list[Tensor], wanted: list[Tensor], condition: str) -> None:
    if not all(bool(each.isfinite().all()) for each in (*found, *slopes)):
        msg = (
            f"{condition}, results or gradients are not finite; usually a mask filled with -1e9, which is infinite in "
            "float16: use torch.finfo(values.dtype).min."
        )
        raise FaultError(msg)
    # Norms only: rounding may move a gradient from one step to another, as that of a maximum.
    for slope, other in zip(slopes, wanted, strict=True):
        norm, expected = (float(each.double().square().sum().sqrt()) for each in (slope, other))
        # Within a factor of two: a missing or doubled term shows, an accumulated rounding error does not. The norm of a
        # gradient that is nearly zero is rounding error itself.
        if expected > 1e-2 and not 0.5 < norm / expected < 2:
            msg = f"{condition}, a gradient has the norm {norm:.3g}, but {expected:.3g} in float64."
            raise FaultError(msg)


PRECISION_LAWS: Final[tuple[Law[AnyModule], ...]] = (
    output_dtype_follows_part,
    large_values_are_stable,
    low_precision_agrees,
)
"""The laws of this file."""
