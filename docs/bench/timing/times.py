"""How long something took, turn by turn."""

from collections.abc import Sequence

import attrs

from bench.timing.spread import Spread


@attrs.frozen
class Times:
    """The seconds of each turn; one alone if it was too slow for a second.

    Example:
        >>> slow, fast = Times([6.0, 8.0, 9.0]), Times([2.0, 2.0, 3.0])
        >>> str(slow.over(fast))
        '3.00 (3.00 to 3.50)'
    """

    seconds: Sequence[float] = attrs.field(converter=tuple[float, ...])

    @property
    def once(self) -> bool:
        """Whether it ran once."""
        return len(self.seconds) == 1

    @property
    def spread(self) -> Spread:
        """The median and the quartiles, in seconds."""
        return Spread.of(self.seconds)

    def over(self, other: "Times") -> Spread:
        """How many times as long it took as another that had its turns beside it: each turn by itself, then quartiles.

        What a busy machine does to a turn hits both alike. Where one ran once, it is held against each turn.
        """
        turns = max(len(self.seconds), len(other.seconds))
        pairs = zip(self.each(turns), other.each(turns), strict=True)
        return Spread.of([one / two for one, two in pairs])

    def each(self, turns: int) -> Sequence[float]:
        """The seconds of so many turns: of one that ran once, the same for all."""
        return [*self.seconds] * turns if self.once else self.seconds

    def __str__(self) -> str:
        unit, scale = ("s", 1.0) if self.spread.middle >= 1 else ("ms", 1e3)
        low, middle, high = (scale * each for each in (self.spread.low, self.spread.middle, self.spread.high))
        return f"{middle:.3g} {unit}, once" if self.once else f"{middle:.3g} {unit} ({low:.3g} to {high:.3g})"
