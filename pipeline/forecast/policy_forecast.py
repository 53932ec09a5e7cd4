"""Forecast of an epoch under one policy."""

from typing import Final, TypedDict, final

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.analysis import measure_correlation
from pipeline.batching.arrays import IntArray
from pipeline.batching.plan import Plan
from pipeline.batching.policies import Policy
from pipeline.data.report import Report
from pipeline.errors import PipelineError
from pipeline.forecast.histogram import Histogram
from pipeline.forecast.memory import Memory

Shape = tuple[int, ...]
"""Rows and steps of a padded batch; with two lengths per row, the steps of both."""

# The maximum number of batches in a picture.
_SHOWN_BATCHES: Final = 2_000


class MemoryRecord(TypedDict):
    """A `Memory` for JSON; `bytes` is null if the step ran out of memory."""

    bytes: int | None
    rows: int
    steps: int
    method: str


class PolicyForecastRecord(TypedDict):
    """A `PolicyForecast` for JSON, with the fields of its report.

    `problem` is the error's message. If it is not null, all figures are 0.
    """

    name: str
    policy: str
    problem: str | None
    exact: bool
    batches: int
    batches_per_rank: int
    rows: int
    steps: int
    padded: int
    wasted: float
    rows_per_batch: list[float]
    largest: list[int]
    max_padded_steps: int
    correlation: float
    repeated_batchmates: float
    memory: MemoryRecord | None


@final
@attrs.frozen
class PolicyForecast:
    """Forecast of an epoch under one policy.

    Attributes:
        policy: the policy.
        report: batches, rows, real and padded steps of an epoch, all ranks together.
        world_size: the number of ranks.
        rows_per_batch: quartiles of the number of rows per batch.
        largest: rows and steps of the most expensive batch; of several, of the widest.
        max_padded_steps: the padded steps of the batch that has most.
        correlation: the correlation of adjacent batches' mean lengths on a rank, as in `Randomness`.
        repeated_batchmates: the share of pairs of batchmates that meet again in the next epoch, as in `Randomness`.
        exact: whether the figures are those of the plan itself, not of batches drawn from a histogram.
        memory: the peak memory of a training step of the largest batch; None if no model was given.
        problem: the error that the policy raised; None if it made batches.
        extreme_shapes: the shapes of the most expensive batch, the widest, and the one with most rows.
        shown_batches: an even selection of the batches for a picture, of shape (batches, 2): the width of each, and its
            share of padding.
    """

    policy: Policy
    report: Report = attrs.field(factory=Report)
    world_size: int = 1
    rows_per_batch: tuple[float, float, float] = (0.0, 0.0, 0.0)
    largest: Shape = (0, 0)
    max_padded_steps: int = 0
    correlation: float = 0.0
    repeated_batchmates: float = 0.0
    exact: bool = True
    memory: Memory | None = None
    problem: PipelineError | None = None
    extreme_shapes: tuple[Shape, ...] = attrs.field(default=(), repr=False)
    shown_batches: npt.NDArray[np.float64] = attrs.field(factory=lambda: np.empty((0, 2)), repr=False, eq=False)

    @classmethod
    def of(cls, policy: Policy, plan: Plan, world_size: int, *, total: Histogram | None = None) -> "PolicyForecast":
        """Compute the figures of a plan, except those that need another plan or a model.

        Args:
            policy: the plan's policy.
            plan: the batches, with or without row numbers.
            world_size: the number of ranks.
            total: all rows, if the batches are only a sample of them.
        """
        report = plan.report() if total is None else _scale(plan.report(), total)
        if not len(plan):
            return cls(policy, report, world_size)
        first, second, third = np.quantile(plan.stops - plan.starts, (0.25, 0.5, 0.75)).tolist()
        shapes = _find_extremes(policy, plan.shapes)
        return cls(
            policy,
            report,
            world_size,
            (first, second, third),
            shapes[0],
            int(plan.padded.max()),
            correlation=measure_correlation(plan),
            extreme_shapes=tuple(dict.fromkeys(shapes)),
            shown_batches=_select_batches(plan),
        )

    @property
    def batches_per_rank(self) -> int:
        """The number of batches of each rank in an epoch: its training steps."""
        return -(-self.report.batches // self.world_size)

    def to_dict(self, name: str) -> PolicyForecastRecord:
        """Return the figures as a dictionary for JSON."""
        memory = self.memory
        return {
            "name": name,
            "policy": repr(self.policy),
            "problem": None if self.problem is None else str(self.problem),
            "exact": self.exact,
            "batches": self.report.batches,
            "batches_per_rank": self.batches_per_rank,
            "rows": self.report.rows,
            "steps": self.report.steps,
            "padded": self.report.padded,
            "wasted": self.report.wasted,
            "rows_per_batch": list(self.rows_per_batch),
            "largest": list(self.largest),
            "max_padded_steps": self.max_padded_steps,
            "correlation": self.correlation,
            "repeated_batchmates": self.repeated_batchmates,
            "memory": None
            if memory is None
            else {"bytes": memory.peak, "rows": memory.rows, "steps": memory.steps, "method": memory.method},
        }


def _scale(sample: Report, total: Histogram) -> Report:
    """Scale the report of a sample to all rows: rows and steps are known, batches and padding are in proportion."""
    if not sample.rows:
        return sample
    padded = total.steps * sample.padded / sample.steps if sample.steps else 0
    return Report(round(sample.batches * total.rows / sample.rows), total.rows, total.steps, round(padded))


def _find_extremes(policy: Policy, shapes: IntArray) -> list[Shape]:
    """Return the shapes of the most expensive batch, the widest, and the one with most rows."""
    rows, widths = shapes[:, 0], shapes[:, 1:].sum(axis=1)
    # lexsort sorts by its last key first. The other key decides between equals, so that the result does not depend on
    # the order of the batches.
    last = [int(np.lexsort(keys)[-1]) for keys in ((widths, policy.cost(shapes)), (rows, widths), (widths, rows))]
    return [tuple(shapes[batch].tolist()) for batch in last]


def _select_batches(plan: Plan) -> npt.NDArray[np.float64]:
    # Evenly spaced: batch i * len / count, for i below count.
    count = min(len(plan), _SHOWN_BATCHES)
    chosen = np.arange(count) * len(plan) // count
    steps, padded = plan.steps[chosen], plan.padded[chosen]
    widths = plan.shapes[chosen, 1:].sum(axis=1).astype(np.float64)
    # Batches of empty rows have no padded steps.
    return np.column_stack([widths, 1 - steps / np.maximum(padded, steps.clip(1))])
