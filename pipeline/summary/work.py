"""How much a stage computes, counted on shapes alone."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Final

import attrs
import torch
from torch.utils.flop_counter import FlopCounterMode


@attrs.frozen
class Work:
    """Multiply-adds of one row, by its length: so many a row, a step, and a pair of its steps.

    Matrix products and convolutions are counted; what is done element by element, and looking up, is not.

    Attributes:
        row: whatever the row's length.
        step: for each of its steps.
        pair: for each step, times the row's length: what attention costs.

    Example:
        >>> str(Work(step=5_120, pair=256) + Work(row=600))
        '5,120 + 256·time a step + 600 a row'
        >>> Work(step=5_120, pair=256).of(10)
        76800
    """

    row: float = 0
    step: float = 0
    pair: float = 0

    def of(self, time: int) -> int:
        """The multiply-adds of a row of so many steps."""
        return round(self.row + time * self.step + time * time * self.pair)

    def __add__(self, other: "Work") -> "Work":
        return Work(self.row + other.row, self.step + other.step, self.pair + other.pair)

    def terms(self) -> Sequence[str]:
        """The multiply-adds a step and a row, each in words: `5,120 + 256·time a step`, `600 a row`; `0` if none."""
        a_step = [_shown(self.step)] if self.step > 0 else []
        a_step += [f"{_shown(self.pair)}·time"] if self.pair else []
        # Less than none by itself: of each row, a step or two that look at nothing.
        less = f" - {_shown(-self.step)}" if self.step < 0 else ""
        said = [f"{' + '.join(a_step)}{less} a step"] if a_step or less else []
        said += [f"{_shown(self.row)} a row"] if self.row else []
        return said or ["0"]

    def __str__(self) -> str:
        return " + ".join(self.terms())


@attrs.frozen
class Count:
    """What a stage computed for rows of one length: its multiply-adds in all."""

    rows: int
    time: int
    total: int


def work_of(counts: Sequence[Count]) -> Work | None:
    """The work that counts at four lengths or more agree on; None if they are no such polynomial of the length.

    Example:
        >>> work_of([Count(2, time, 2 * (7 + 5 * time + 3 * time**2)) for time in (8, 16, 24, 32)])
        Work(row=7.0, step=5.0, pair=3.0)
        >>> work_of([Count(2, time, 2 * time**3) for time in (8, 16, 24, 32)]) is None
        True
    """
    points = [(count.time, Fraction(count.total, count.rows)) for count in counts]
    (a, at_a), (b, at_b), (c, at_c) = points[:3]
    # Newton's form: exact, so that a count that does not fit shows.
    slope = (at_b - at_a) / (b - a)
    pair = ((at_c - at_b) / (c - b) - slope) / (c - a)
    step = slope - pair * (a + b)
    row = at_a - step * a - pair * a * a
    fits = all(row + step * time + pair * time * time == found for time, found in points)
    return Work(float(row), float(step), float(pair)) if fits else None


def counting() -> FlopCounterMode:
    """A counter of operations: with it as a context, `multiply_adds` says how many were made."""
    return FlopCounterMode(display=False, custom_mapping=_MORE)


def multiply_adds(counter: FlopCounterMode) -> int:
    """What a counter has counted, which takes a multiplication and an addition for two."""
    return counter.get_total_flops() // 2


def _vector_product(left: Sequence[int], *_: object, **__: object) -> int:
    return 2 * math.prod(left)


def _added_product(_: Sequence[int], left: Sequence[int], right: Sequence[int], *__: object, **___: object) -> int:
    return 2 * math.prod(left) * right[-1]


# Of a matrix or a vector with a vector, and in place: torch leaves them out.
_MORE: Final[dict[Callable[..., Any], Callable[..., int]]] = {
    torch.ops.aten.mv: _vector_product,
    torch.ops.aten.dot: _vector_product,
    torch.ops.aten.addmm_: _added_product,
    torch.ops.aten.baddbmm_: _added_product,
}


def _shown(number: float) -> str:
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:,.1f}"
