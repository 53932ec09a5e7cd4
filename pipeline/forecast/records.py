"""A forecast as records, for programs."""

from collections.abc import Mapping
from typing import TypedDict

from pipeline.forecast.histogram import Histogram
from pipeline.forecast.outlook import PolicyForecast


class MemoryRecord(TypedDict):
    """The peak of a training step.

    Attributes:
        bytes: the peak; null if the step ran out of memory.
        rows: of the batch that was measured.
        steps: that each of them had.
        method: how it was measured.
    """

    bytes: int | None
    rows: int
    steps: int
    method: str


class OutlookRecord(TypedDict):
    """An epoch under one policy.

    Attributes:
        name: what the policy is called in the table.
        policy: the policy with all its options, as Python shows it.
        problem: why there can be no such batches; null if there can, and else all figures are 0.
        exact: whether the figures are those of the very plan.
        batches: of all ranks in an epoch.
        batches_a_rank: of each of them.
        rows: how many rows these batches have, all together.
        steps: how many real steps.
        padded: how many padded ones.
        wasted: the share of them that is padding.
        rows_a_batch: quartiles.
        largest: rows and steps of the batch that costs most.
        most_padded: the padded steps of the batch that has most.
        correlation: of the mean lengths of adjacent batches of a rank.
        mates: the share of pairs of batch mates that meet again in the next epoch.
        memory: null if no model was given.
    """

    name: str
    policy: str
    problem: str | None
    exact: bool
    batches: int
    batches_a_rank: int
    rows: int
    steps: int
    padded: int
    wasted: float
    rows_a_batch: list[float]
    largest: list[int]
    most_padded: int
    correlation: float
    mates: float
    memory: MemoryRecord | None


class ForecastRecord(TypedDict):
    """Policies side by side.

    Attributes:
        schema: 1; another number when a field changes its meaning or goes; new ones may come without.
        rows: how many rows there are.
        steps: how many steps they have.
        longest: the most steps of a row.
        world_size: how many ranks there are.
        outlooks: a policy each.
    """

    schema: int
    rows: int
    steps: int
    longest: int
    world_size: int
    outlooks: list[OutlookRecord]


def record_of(histogram: Histogram, outlooks: Mapping[str, PolicyForecast], world_size: int) -> ForecastRecord:
    """A forecast as records that are JSON when they are dumped."""
    return {
        "schema": 1,
        "rows": histogram.rows,
        "steps": histogram.steps,
        "longest": histogram.longest,
        "world_size": world_size,
        "outlooks": [_outlook(name, outlook) for name, outlook in outlooks.items()],
    }


def _outlook(name: str, outlook: PolicyForecast) -> OutlookRecord:
    memory = outlook.memory
    return {
        "name": name,
        "policy": repr(outlook.policy),
        "problem": None if outlook.problem is None else str(outlook.problem),
        "exact": outlook.exact,
        "batches": outlook.report.batches,
        "batches_a_rank": outlook.batches,
        "rows": outlook.report.rows,
        "steps": outlook.report.steps,
        "padded": outlook.report.padded,
        "wasted": outlook.report.wasted,
        "rows_a_batch": list(outlook.rows),
        "largest": list(outlook.largest),
        "most_padded": outlook.most_padded,
        "correlation": outlook.correlation,
        "mates": outlook.mates,
        "memory": None
        if memory is None
        else {"bytes": memory.peak, "rows": memory.rows, "steps": memory.steps, "method": memory.method},
    }
