"""What was found at one point."""

from collections.abc import Mapping, Sequence

import attrs

from bench.timing.product import OPERATIONS, PRODUCT
from bench.timing.spread import Spread
from bench.timing.times import Times

Trait = str | int | float | bool
"""A size or a name by which points are told apart."""


@attrs.frozen
class Finding:
    """Candidates that took turns at one point.

    Attributes:
        measurement: which one this is of.
        point: what was measured, in words.
        threads: how many torch worked with.
        traits: the point's sizes, by name.
        times: each candidate's, by name.
        bytes: the peak memory of a step, of those whose was measured.
        operations: those of a step's products; 0 where nothing is held against the matrix peak.
        notes: what else is to be said: which engine was chosen, who was absent, who answered wrongly.
        figures: what was counted and not timed, of each candidate.
    """

    measurement: str
    point: str
    threads: int
    traits: Mapping[str, Trait]
    times: Mapping[str, Times]
    bytes: Mapping[str, int] = attrs.field(factory=dict[str, int])
    operations: float = 0.0
    notes: Sequence[str] = attrs.field(default=(), converter=tuple[str, ...])
    figures: Mapping[str, float] = attrs.field(factory=dict[str, float])

    def ratio(self, slow: str, fast: str) -> Spread | None:
        """How many times as long one candidate took as another; None if one of them had no turn."""
        if slow not in self.times or fast not in self.times:
            return None
        return self.times[slow].over(self.times[fast])

    def memory(self, one: str, other: str) -> float | None:
        """One candidate's peak of memory over another's; None if one of them was not measured."""
        return self.bytes[one] / self.bytes[other] if {one, other} <= self.bytes.keys() else None

    def share(self, name: str) -> float | None:
        """A candidate's share of the matrix peak; None where there is nothing to say."""
        if not self.operations or name not in self.times or PRODUCT not in self.times:
            return None
        peak = OPERATIONS / self.times[PRODUCT].spread.middle
        return self.operations / self.times[name].spread.middle / peak
