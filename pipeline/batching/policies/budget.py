"""So many padded steps a batch."""

import math
from typing import final

import attrs
import numpy as np
import numpy.typing as npt
from typing_extensions import override

from pipeline.batching.numbers import IntArray, whole, whole_or_none
from pipeline.batching.policy import Policy
from pipeline.errors import OptionError


@final
@attrs.frozen
class Budget(Policy):
    """A number of padded steps: a batch's rows times its longest row. The sum of lengths would not bound memory.

    Args:
        max_padded_steps: how many padded steps a batch may have.
        rows: how many rows it may have; None for as many as the steps allow.
        quadratic: for attention, whose work grows with the square of the length: a row of L steps counts as
            L + L * L / quadratic, so that a row of `quadratic` steps counts twice. None counts steps alone.
        multiple_of: batches are padded to a multiple of so many steps, and counted so. Not for two lengths a row.

    Raises:
        OptionError: for a number below 1, or if not even a row of `multiple_of` steps fits.

    Example:
        >>> Budget(4_096).room(longest=20), Budget(4_096, rows=128).room(longest=20)
        (204, 128)
        >>> Budget(4_096, quadratic=512).room(longest=512), Budget(4_096).room(longest=512)
        (4, 8)
        >>> Budget(4_096, multiple_of=64).room(longest=20)
        64
    """

    max_padded_steps: int = attrs.field()
    rows: int | None = attrs.field(default=None, kw_only=True)
    quadratic: int | None = attrs.field(default=None, kw_only=True)
    multiple_of: int = attrs.field(default=1, kw_only=True)

    @override
    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        whole("max_padded_steps", self.max_padded_steps, least=1)
        whole_or_none("rows", self.rows, least=1)
        whole_or_none("quadratic", self.quadratic, least=1)
        whole("multiple_of", self.multiple_of, least=1)
        if not self._longest():
            counts = 1 + 1 / (self.quadratic or math.inf)
            msg = f"max_padded_steps={self.max_padded_steps} has no room for a row of one step, which counts {counts:g}; raise it."
            raise OptionError(msg, max_padded_steps=self.max_padded_steps, quadratic=self.quadratic)
        if not self.fits():
            msg = f"multiple_of={self.multiple_of} leaves no room for a row within max_padded_steps={self.max_padded_steps}; lower it."
            raise OptionError(msg, multiple_of=self.multiple_of, max_padded_steps=self.max_padded_steps)

    @override
    def rows_of(self, longest: int) -> int:
        longest += -longest % self.multiple_of
        if self.quadratic is None:
            by_steps = self.max_padded_steps // longest
        else:
            by_steps = self.max_padded_steps * self.quadratic // (longest * (self.quadratic + longest))
        return by_steps if self.rows is None else min(by_steps, self.rows)

    @override
    def fits(self) -> int:
        longest = self._longest()
        return longest - longest % self.multiple_of

    @override
    def shapes(self, rows: IntArray, longest: IntArray) -> IntArray:
        if self.multiple_of > 1 and longest.shape[1] > 1:
            msg = (
                f"multiple_of={self.multiple_of} needs one length a row, but two arrived: rounded up each by itself, "
                "they could be over the budget; leave it out."
            )
            raise OptionError(msg, multiple_of=self.multiple_of)
        return super().shapes(rows, longest + -longest % self.multiple_of)

    @override
    def work(self, shapes: IntArray) -> npt.NDArray[np.float64]:
        steps: npt.NDArray[np.float64] = shapes[:, 1:].sum(axis=1, dtype=np.float64)
        counted = steps if self.quadratic is None else steps * (1 + steps / self.quadratic)
        return counted * shapes[:, 0]

    def _longest(self) -> int:
        """How many steps a row may have, were widths not rounded up."""
        if self.quadratic is None:
            return self.max_padded_steps
        # The largest L with L * L + q * L <= q * max_padded_steps, in whole numbers.
        scale = self.quadratic
        return (math.isqrt(scale * scale + 4 * scale * self.max_padded_steps) - scale) // 2
