"""A metric of batching: its goal, the way it is shown, and the table of all metrics."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias, cast

import attrs
import torch

from bench.batching.data import BUDGET
from bench.batching.other_samplers import IMPLEMENTATIONS, OURS
from bench.record import Result
from bench.report import ReportTable
from bench.timing import Quartiles, Times

MEASUREMENT: Final = "batch"

Unit: TypeAlias = Literal["share", "number", "ratio", "bytes", "seconds", "rate"]
"""The way a cell is shown. Counts: a share, a number, a ratio or bytes. Times: a ratio to the times of the baseline,
seconds, or a rate."""


@attrs.frozen
class Metric:
    """A number that is measured for all implementations.

    Attributes:
        name: a description.
        unit: the way it is shown.
        goal: the goal for ours; None if there is no goal.
        higher_is_better: whether the goal is a lower bound.
        baseline: the candidate with whose times the times are compared. If it is ours, the goal is compared with the
            lowest ratio of the other candidates' times to ours: the speedup over the fastest of them.
        items: the number of items that are processed in the measured time, for rates.
    """

    name: str
    unit: Unit
    goal: float | None = None
    higher_is_better: bool = False
    baseline: str = ""
    items: int = 0

    def report_counts(self, point: str, counts: Mapping[str, float], notes: Sequence[str] = ()) -> Result:
        """Make a result of a count per implementation."""
        return self._make_result(point, {}, counts, notes)

    def report_times(self, point: str, times: Mapping[str, Times], notes: Sequence[str] = ()) -> Result:
        """Make a result of times per implementation."""
        return self._make_result(point, times, {}, notes)

    def _make_result(
        self, point: str, times: Mapping[str, Times], counts: Mapping[str, float], notes: Sequence[str]
    ) -> Result:
        # The metric is stored in the result, so that `report` can make its table from the file alone.
        parameters = {name: value for name, value in attrs.asdict(self).items() if value is not None}
        return Result(
            MEASUREMENT,
            f"{self.name}: {point}",
            torch.get_num_threads(),
            parameters,
            times,
            counts=counts,
            notes=tuple(notes),
        )

    @classmethod
    def of(cls, result: Result) -> "Metric":
        """Restore the metric of a result."""
        parameters = result.parameters
        goal = parameters.get("goal")
        return cls(
            str(parameters["name"]),
            cast("Unit", parameters["unit"]),
            None if goal is None else float(goal),
            bool(parameters["higher_is_better"]),
            str(parameters["baseline"]),
            int(parameters["items"]),
        )

    def format_cell(self, result: Result, candidate: str) -> str:
        """Format the number of a candidate; empty if it was not measured."""
        if candidate in result.counts:
            return _format_number(result.counts[candidate], self.unit)
        if candidate not in result.times:
            return ""
        times = result.times[candidate]
        match self.unit:
            case "ratio" if candidate != self.baseline:
                return result.format_ratio(candidate, self.baseline)
            case "rate":
                rate = Quartiles.of([self.items / seconds for seconds in times.seconds])
                return f"{rate.median:,.0f}/s ({rate.low:,.0f} to {rate.high:,.0f})"
            case _:
                return str(times)

    def compute_result(self, result: Result) -> float | None:
        """Compute the number that is compared with the goal; None if the baseline was not measured."""
        if OURS in result.counts:
            return result.counts[OURS]
        if not self.baseline:
            return result.times[OURS].quartiles.median
        pairs = [(OURS, self.baseline)]
        if self.baseline == OURS:
            pairs = [(name, OURS) for name in result.times if name != OURS]
        ratios = [result.median_ratio(*pair) for pair in pairs]
        return min((ratio for ratio in ratios if ratio is not None), default=None)

    def compare_with_goal(self, result: Result) -> tuple[str, str]:
        """Format the goal, and the result with "met" or "missed"."""
        if self.goal is None:
            return "", ""
        reached = self.compute_result(result)
        goal = f"{'>=' if self.higher_is_better else '<='} {self._format(self.goal)}"
        if reached is None:
            return goal, "not measured"
        met = reached >= self.goal if self.higher_is_better else reached <= self.goal
        return goal, f"{self._format(reached)}, {'met' if met else 'missed'}"

    def _format(self, number: float) -> str:
        if self.unit == "seconds" and not self.baseline:
            return f"{number:.2g} s"
        return _format_number(number, self.unit)


def _format_number(number: float, unit: Unit) -> str:
    match unit:
        case "share":
            return f"{number:.2%}"
        case "number":
            return f"{number:,.0f}"
        case "bytes":
            return f"{number:.1f}"
        case _:
            return f"{number:.2f}"


def tabulate_metrics(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per metric and a column per implementation."""
    missing = sorted({note for result in results for note in result.notes if _is_missing(note)})
    headings = ("metric", "goal", "result", *IMPLEMENTATIONS, "other")
    rows = [_make_cells(result) for result in results]
    return ReportTable("Making batches", headings, rows, [_IMPLEMENTATIONS_NOTE, _UNITS_NOTE, *missing])


def _make_cells(result: Result) -> list[str]:
    metric = Metric.of(result)
    others = [name for name in (*result.counts, *result.times) if name not in IMPLEMENTATIONS]
    cells = [f"{name} {metric.format_cell(result, name)}" for name in others]
    notes = [note for note in result.notes if not _is_missing(note)]
    return [
        result.point,
        *metric.compare_with_goal(result),
        *(metric.format_cell(result, name) for name in IMPLEMENTATIONS),
        "; ".join([*cells, *notes]),
    ]


def _is_missing(note: str) -> bool:
    """Return whether a note says that the package of an implementation is missing."""
    return note.partition(":")[0] in IMPLEMENTATIONS


_IMPLEMENTATIONS_NOTE: Final = (
    f"With a budget of {BUDGET:,} padded steps: ours, with the default policy, and Lhotse's DynamicBucketingSampler. "
    "With 64 rows per batch, since they have no budget: transformers' LengthGroupedSampler and torch's RandomSampler. "
    "Lengths are drawn at random, except those of the user."
)
_UNITS_NOTE: Final = (
    "Medians, with quartiles. The result for rows or texts per second is our rate divided by that of the fastest other "
    "implementation; for resuming, our time divided by that of planning alone."
)
