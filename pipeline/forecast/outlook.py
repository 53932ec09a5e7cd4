"""What an epoch will be like under one policy."""

from typing import Final, final

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.numbers import IntArray
from pipeline.batching.plan import Plan
from pipeline.batching.policy import Policy
from pipeline.batching.randomness import correlation
from pipeline.data.report import Report
from pipeline.errors import PipelineError
from pipeline.forecast.histogram import Histogram
from pipeline.forecast.memory import Memory

Shape = tuple[int, ...]
"""Rows and steps of a padded batch; steps twice, for two lengths a row."""

_SHOWN: Final = 2_000
"""How many batches a picture shows."""


@final
@attrs.frozen
class PolicyForecast:
    """What an epoch will be like under one policy.

    Attributes:
        policy: what a batch may hold.
        report: batches, rows, real and padded steps of an epoch, all ranks together.
        world_size: how many ranks there are.
        rows: how many rows a batch has: a quarter of the batches have fewer than the first, half of them than the
            second, three quarters than the third.
        largest: rows and steps of the batch that costs most; of equals, of the widest.
        most_padded: how many steps the padded batch of the most steps has.
        correlation: of the mean lengths of batches that follow each other on a rank, as `Randomness` has it.
        mates: the share of pairs of batch mates that meet again in the next epoch, likewise.
        exact: whether the figures are those of the very plan; if not, of batches drawn as it draws them.
        memory: the peak of a training step of the largest batch; None if no model was given.
        problem: why there can be no such batches; None if there can.
    """

    policy: Policy
    report: Report = attrs.field(factory=Report)
    world_size: int = 1
    rows: tuple[float, float, float] = (0.0, 0.0, 0.0)
    largest: Shape = (0, 0)
    most_padded: int = 0
    correlation: float = 0.0
    mates: float = 0.0
    exact: bool = True
    memory: Memory | None = None
    problem: PipelineError | None = None
    extremes: tuple[Shape, ...] = attrs.field(default=(), repr=False)
    """The shapes of the costliest batch, the widest, and the one of the most rows."""
    shown: npt.NDArray[np.float64] = attrs.field(factory=lambda: np.empty((0, 2)), repr=False, eq=False)
    """Some of the batches, evenly: the steps that each is wide, and which share of it is padding."""

    @property
    def batches(self) -> int:
        """How many batches a rank has in an epoch: its training steps."""
        return -(-self.report.batches // self.world_size)


def outlook_of(policy: Policy, plan: Plan, world_size: int, *, of: Histogram | None = None) -> PolicyForecast:
    """The figures of a plan, but for those that need another one.

    Args:
        policy: that it follows.
        plan: the batches; which rows they hold does not matter.
        world_size: how many ranks there are.
        of: all rows, if these are batches of some of them; None if they are all.
    """
    report = plan.report() if of is None else _scaled(plan.report(), of)
    if not len(plan):
        return PolicyForecast(policy, report, world_size)
    first, second, third = np.quantile(plan.stops - plan.starts, (0.25, 0.5, 0.75)).tolist()
    extremes = _extremes(policy, plan.shapes)
    return PolicyForecast(
        policy,
        report,
        world_size,
        (first, second, third),
        extremes[0],
        int(plan.padded.max()),
        correlation=correlation(plan),
        extremes=tuple(dict.fromkeys(extremes)),
        shown=_some(plan.shapes[:, 1:].sum(axis=1), 1 - plan.steps / np.maximum(plan.padded, plan.steps.clip(1))),
    )


def _scaled(report: Report, of: Histogram) -> Report:
    """The report of all rows, by one of some of them: their number and steps as they are, the others in proportion."""
    if not report.rows:
        return report
    padded = of.steps * report.padded / report.steps if report.steps else 0
    return Report(round(report.batches * of.rows / report.rows), of.rows, of.steps, round(padded))


def _extremes(policy: Policy, shapes: IntArray) -> list[Shape]:
    rows, widths = shapes[:, 0], shapes[:, 1:].sum(axis=1)
    # Of equals the widest, so that the order of batches does not matter.
    last = [int(np.lexsort(keys)[-1]) for keys in ((widths, policy.work(shapes)), (rows, widths), (widths, rows))]
    return [tuple(shapes[batch].tolist()) for batch in last]


def _some(widths: IntArray, wasted: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    which = np.arange(min(len(widths), _SHOWN)) * len(widths) // min(len(widths), _SHOWN)
    return np.column_stack([widths[which].astype(np.float64), wasted[which]])
