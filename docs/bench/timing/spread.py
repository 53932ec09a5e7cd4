"""A median and its quartiles."""

import statistics
from collections.abc import Sequence
from typing import Self

import attrs


@attrs.frozen
class Spread:
    """The middle of some numbers, and the half of them around it.

    Example:
        >>> Spread.of([5.0, 1.0, 3.0])
        Spread(low=2.0, middle=3.0, high=4.0)
    """

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Self:
        """The quartiles of some numbers, those between two of them by interpolation; one number is all three."""
        if len(numbers) == 1:
            return cls(numbers[0], numbers[0], numbers[0])
        return cls(*statistics.quantiles(numbers, n=4, method="inclusive"))

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.low:.2f} to {self.high:.2f})"
