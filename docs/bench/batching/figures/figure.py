"""A figure: what it is of, what it is to be, and how it is shown."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias, cast

import attrs
import torch

from bench.batching.ways.all import OURS
from bench.record.finding import Finding
from bench.timing.spread import Spread
from bench.timing.times import Times

MEASUREMENT: Final = "batch"

Shown: TypeAlias = Literal["share", "number", "ratio", "bytes", "seconds", "rate"]
"""How a candidate's cell reads: what was counted, as a share, a number, a ratio or bytes; or its times, as a ratio to
those of another, in seconds, or as how many a second."""


@attrs.frozen
class Figure:
    """What is measured of all ways at some point.

    Attributes:
        name: what it is.
        shown: how it is shown.
        goal: what ours is to reach; None if nothing.
        at_least: whether more is better.
        over: whose time the times are held against. If it is ours, the slowest that ours may be is held against the
            goal: the lowest ratio of any of the others.
        count: how many are made in the time that is measured, where it is shown as a rate.
    """

    name: str
    shown: Shown
    goal: float | None = None
    at_least: bool = False
    over: str = ""
    count: int = 0

    def counted(self, point: str, figures: Mapping[str, float], notes: Sequence[str] = ()) -> Finding:
        """What was counted of each way."""
        return self._found(point, {}, figures, notes)

    def timed(self, point: str, times: Mapping[str, Times], notes: Sequence[str] = ()) -> Finding:
        """How long each way took."""
        return self._found(point, times, {}, notes)

    def _found(
        self, point: str, times: Mapping[str, Times], figures: Mapping[str, float], notes: Sequence[str]
    ) -> Finding:
        traits = {name: value for name, value in attrs.asdict(self).items() if value is not None}
        point = f"{self.name}: {point}"
        return Finding(MEASUREMENT, point, torch.get_num_threads(), traits, times, figures=figures, notes=tuple(notes))

    @classmethod
    def of(cls, finding: Finding) -> "Figure":
        """The figure that something was found of."""
        traits = finding.traits
        goal = traits.get("goal")
        return cls(
            str(traits["name"]),
            cast("Shown", traits["shown"]),
            None if goal is None else float(goal),
            bool(traits["at_least"]),
            str(traits["over"]),
            int(traits["count"]),
        )

    def cell(self, finding: Finding, candidate: str) -> str:
        """A candidate's cell; empty if nothing was found of it."""
        if candidate in finding.figures:
            return _counted(finding.figures[candidate], self.shown)
        if candidate not in finding.times:
            return ""
        times = finding.times[candidate]
        match self.shown:
            case "ratio" if candidate != self.over:
                ratio = finding.ratio(candidate, self.over)
                return "" if ratio is None else str(ratio)
            case "rate":
                rate = Spread.of([self.count / seconds for seconds in times.seconds])
                return f"{rate.middle:,.0f}/s ({rate.low:,.0f} to {rate.high:,.0f})"
            case _:
                return str(times)

    def reached(self, finding: Finding) -> float | None:
        """What ours has reached; None if it is held against what is absent."""
        if OURS in finding.figures:
            return finding.figures[OURS]
        if not self.over:
            return finding.times[OURS].spread.middle
        pairs = [(OURS, self.over)] if self.over != OURS else [(name, OURS) for name in finding.times if name != OURS]
        ratios = [finding.ratio(*pair) for pair in pairs]
        return min((ratio.middle for ratio in ratios if ratio is not None), default=None)

    def verdict(self, finding: Finding) -> tuple[str, str]:
        """What is to be reached, and whether it was."""
        reached = self.reached(finding)
        if self.goal is None:
            return "", ""
        wanted = f"{'>=' if self.at_least else '<='} {self._said(self.goal)}"
        if reached is None:
            return wanted, "not measured"
        met = reached >= self.goal if self.at_least else reached <= self.goal
        return wanted, f"{self._said(reached)}, {'met' if met else 'missed'}"

    def _said(self, number: float) -> str:
        if self.shown == "seconds" and not self.over:
            return f"{number:.2g} s"
        return _counted(number, self.shown)


def _counted(number: float, shown: Shown) -> str:
    match shown:
        case "share":
            return f"{number:.2%}"
        case "number":
            return f"{number:,.0f}"
        case "bytes":
            return f"{number:.1f}"
        case _:
            return f"{number:.2f}"
