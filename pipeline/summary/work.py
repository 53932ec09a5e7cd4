"""The number of multiply-adds of a stage, as a polynomial of the row's length; counted on the `meta` device."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Final

import attrs
import torch
from torch.utils.flop_counter import FlopCounterMode


@attrs.frozen
class Work:
    """The number of multiply-adds for one row of `time` steps: row + step * time + pair * time**2.

    Matrix products and convolutions are counted; elementwise operations and look-ups are not.

    Attributes:
        row: multiply-adds that do not depend on the length.
        step: multiply-adds per step.
        pair: multiply-adds per pair of steps, the cost of attention.

    Example:
        >>> str(Work(step=5_120, pair=256) + Work(row=600))
        '5,120 + 256·time per step + 600 per row'
        >>> Work(step=5_120, pair=256).of(10)
        76800
    """

    row: float = 0
    step: float = 0
    pair: float = 0

    def of(self, time: int) -> int:
        """Return the multiply-adds of a row of `time` steps."""
        return round(self.row + time * self.step + time * time * self.pair)

    def __add__(self, other: "Work") -> "Work":
        return Work(self.row + other.row, self.step + other.step, self.pair + other.pair)

    def terms(self) -> Sequence[str]:
        """Return the terms in words: `5,120 + 256·time per step`, `600 per row`; `0` if there is no work."""
        per_step = [_format(self.step)] if self.step > 0 else []
        per_step += [f"{_format(self.pair)}·time"] if self.pair else []
        # Negative in AttendEarlier: T steps have (T - 1)**2 pairs, that is T**2 - 2 * T + 1.
        less = f" - {_format(-self.step)}" if self.step < 0 else ""
        terms = [f"{' + '.join(per_step)}{less} per step"] if per_step or less else []
        terms += [f"{_format(self.row)} per row"] if self.row else []
        return terms or ["0"]

    def __str__(self) -> str:
        return " + ".join(self.terms())


@attrs.frozen
class Count:
    """The multiply-adds of a whole batch: `rows` rows of `time` steps each."""

    rows: int
    time: int
    total: int


def fit_work(counts: Sequence[Count]) -> Work | None:
    """Fit a polynomial of the row's length to counts at four lengths or more; None if no such polynomial fits all.

    Example:
        >>> fit_work([Count(2, time, 2 * (7 + 5 * time + 3 * time**2)) for time in (8, 16, 24, 32)])
        Work(row=7.0, step=5.0, pair=3.0)
        >>> fit_work([Count(2, time, 2 * time**3) for time in (8, 16, 24, 32)]) is None
        True
    """
    points = [(count.time, Fraction(count.total, count.rows)) for count in counts]
    (a, at_a), (b, at_b), (c, at_c) = points[:3]
    # Newton's interpolation through three points. Fractions are exact: a fourth point fits exactly, or not at all.
    slope = (at_b - at_a) / (b - a)
    pair = ((at_c - at_b) / (c - b) - slope) / (c - a)
    step = slope - pair * (a + b)
    row = at_a - step * a - pair * a * a
    fits = all(row + step * time + pair * time * time == found for time, found in points)
    return Work(float(row), float(step), float(pair)) if fits else None


def count_operations() -> FlopCounterMode:
    """Return a counter of operations, to be used as a context; `get_multiply_adds` reads it."""
    return FlopCounterMode(display=False, custom_mapping=_MISSING)


def get_multiply_adds(counter: FlopCounterMode) -> int:
    """Return the multiply-adds that a counter has seen; it counts a multiplication and an addition as two."""
    return counter.get_total_flops() // 2


def _count_vector_product(left: Sequence[int], *_: object, **__: object) -> int:
    return 2 * math.prod(left)


def _count_added_product(
    _: Sequence[int], left: Sequence[int], right: Sequence[int], *__: object, **___: object
) -> int:
    return 2 * math.prod(left) * right[-1]


# Operations that torch's counter leaves out: products with a vector, and in-place ones.
_MISSING: Final[dict[Callable[..., Any], Callable[..., int]]] = {
    torch.ops.aten.mv: _count_vector_product,
    torch.ops.aten.dot: _count_vector_product,
    torch.ops.aten.addmm_: _count_added_product,
    torch.ops.aten.baddbmm_: _count_added_product,
}


def _format(number: float) -> str:
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:,.1f}"
