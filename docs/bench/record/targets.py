"""What the library is to reach, and what a run has reached of it."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import attrs

from bench.record.finding import Finding, Trait
from bench.record.record import Record
from bench.record.sheet import Sheet

Figure = Callable[[Record, str], float | None]
"""What a run reached with one of our candidates, `uncompiled` or `compiled`; None if nothing was measured."""


@attrs.frozen
class Target:
    """A figure, and what it is to be.

    Attributes:
        name: what it is a figure of.
        uncompiled: the goal without a compiler, or None.
        compiled: the goal with the native engine, or None.
        figure: finds what was reached.
        at_most: whether less is better.
    """

    name: str
    uncompiled: float | None
    compiled: float | None
    figure: Figure
    at_most: bool = False

    def cells(self, record: Record) -> list[str]:
        """Name, and for both candidates the goal and what was reached."""
        cells = [self.name]
        for goal, candidate in ((self.uncompiled, "uncompiled"), (self.compiled, "compiled")):
            reached = self.figure(record, candidate)
            cells.append("" if goal is None else f"{'<=' if self.at_most else '>='} {goal:g}")
            cells.append(self._verdict(goal, reached))
        return cells

    def _verdict(self, goal: float | None, reached: float | None) -> str:
        if reached is None:
            return "not measured"
        if goal is None:
            return f"{reached:.2f}"
        met = reached <= goal if self.at_most else reached >= goal
        return f"{reached:.2f}, {'met' if met else 'missed'}"


def encoded(record: Record, *, bucketed: bool = False, **traits: Trait) -> list[Finding]:
    """Return the points of `encode` with these traits, on random batches or on bucketed ones."""
    return [
        finding
        for finding in record.of("encode")
        if str(finding.traits["lengths"]).endswith("bucketed") == bucketed
        and all(finding.traits[name] == value for name, value in traits.items())
    ]


def median(numbers: Iterable[float | None]) -> float | None:
    """The median of those that were measured."""
    found = [number for number in numbers if number is not None]
    return statistics.median(found) if found else None


def lowest(numbers: Iterable[float | None]) -> float | None:
    """The lowest of those that were measured."""
    return min((number for number in numbers if number is not None), default=None)


def ratio(finding: Finding, slow: str, fast: str) -> float | None:
    """The median of one point."""
    spread = finding.ratio(slow, fast)
    return None if spread is None else spread.middle


def over_stock(finding: Finding, candidate: str) -> float | None:
    """Over the better one of torch's two exact ways."""
    return lowest(ratio(finding, stock, candidate) for stock in ("packed", "dense"))


def over_packed(
    summary: Callable[[Iterable[float | None]], float | None], *, bucketed: bool = False, **traits: Trait
) -> Figure:
    """Divide the packed kernel's time by ours, at the points that have these traits."""
    return lambda record, candidate: summary(
        ratio(finding, "packed", candidate) for finding in encoded(record, bucketed=bucketed, **traits)
    )


def over_best(summary: Callable[[Iterable[float | None]], float | None]) -> Figure:
    """The time of torch's better way over ours, in training."""
    return lambda record, candidate: summary(
        over_stock(finding, candidate) for finding in encoded(record, learning=True)
    )


def _share(record: Record, candidate: str) -> float | None:
    """Of the matrix peak, at hidden sizes of 256 and more."""
    found = encoded(record, learning=True, both=True)
    return median(finding.share(candidate) for finding in found if int(finding.traits["hidden"]) >= 256)


def _longer(record: Record, candidate: str) -> float | None:
    """What a step costs in rows of 1,024, over what it costs in rows of 128."""
    short, long = (encoded(record, lengths=f"even {steps}") for steps in ("128", "1,024"))
    if not short or not long or candidate not in short[0].times:
        return None
    # Two points have turns of their own, as many as each took time for.
    longer, shorter = (found[0].times[candidate].spread.middle for found in (long, short))
    return longer / shorter * 128 / 1_024


def _memory(record: Record, candidate: str) -> float | None:
    """The peak of a training step, over packed torch's."""
    return median(finding.memory(candidate, "packed") for finding in encoded(record, learning=True))


def _table(record: Record, candidate: str) -> float | None:
    """The time of torch's embedding and packed kernel over that of a small vocabulary as a table, in inference."""
    return median(ratio(finding, "packed", candidate) for finding in record.of("table"))


def _epoch(record: Record, candidate: str) -> float | None:
    return median(ratio(finding, "by hand", candidate) for finding in record.of("epoch"))


def _attention(record: Record, _: str) -> float | None:
    """The loop's time over ours, 512 steps of the general score in training."""
    wanted = {"score": "general", "steps": 512, "learning": True}
    found = [finding for finding in record.of("attend") if wanted.items() <= finding.traits.items()]
    return median(ratio(finding, "loop", "ours") for finding in found)


TARGETS: Final[Sequence[Target]] = (
    # No goals: these are the figures to quote, and they are stated as they are.
    *(
        Target(
            f"{'training' if learning else 'inference'} on bucketed batches over packed, {summary.__name__}",
            None,
            None,
            over_packed(summary, bucketed=True, learning=learning),
        )
        for learning in (True, False)
        for summary in (median, lowest)
    ),
    Target("training, rows of ~20, over packed", 2.8, 4.0, over_packed(median, learning=True, lengths="~20")),
    Target("training over the best stock choice, median", None, 3.0, over_best(median)),
    Target("training over the best stock choice, lowest", 0.97, 0.97, over_best(lowest)),
    Target("inference over packed, 1 thread", None, 1.6, over_packed(median, learning=False, threads="one")),
    Target("inference over packed, all threads", None, 2.0, over_packed(median, learning=False, threads="all")),
    Target("inference over packed, lowest", 0.97, 0.97, over_packed(lowest, learning=False)),
    Target("inference over packed, a small vocabulary as a table", None, 2.3, _table),
    *(
        Target(
            f"LSTM training, rows of ~230, h{hidden}, over packed",
            plain,
            native,
            over_packed(median, cell="LSTM", learning=True, lengths="~230", hidden=hidden),
        )
        for hidden, plain, native in ((128, 15.0, 35.0), (256, 5.0, 12.0), (512, 3.0, 5.0))
    ),
    Target("share of the matrix peak, training, both ways, h256 and more", 0.45, 0.65, _share),
    Target("cost of a step, rows of 1,024 over rows of 128", 1.3, 1.3, _longer, at_most=True),
    Target("peak memory of a training step over packed", 1.1, 1.1, _memory, at_most=True),
    Target("one epoch, from texts, over random batches and packed", 3.0, 4.5, _epoch),
    Target("attention over 512 earlier steps, training, over the loop", 20.0, 20.0, _attention),
)

_NOTE: Final = (
    "Medians over the points measured, and the lowest where it is said. The figures to quote are those of bucketed batches, which "
    "`Bucket` and most careful users train on, and those over the best stock choice, the better one of torch's packed and dense kernels: the large ones over packed "
    "are mostly a defect of torch's packed kernel, whose backward pass is quadratic in the length of rows."
)


def targets_sheet(record: Record) -> Sheet:
    """A row for each target of which something was measured."""
    headings = ("target", "without a compiler", "reached", "compiled", "reached")
    measured = [
        target
        for target in TARGETS
        if any(target.figure(record, candidate) is not None for candidate in ("uncompiled", "compiled"))
    ]
    return Sheet("Targets", headings, [target.cells(record) for target in measured], [_NOTE])
