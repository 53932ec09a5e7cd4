"""Report on one plan: its padding and the rows that cause it, its coverage of the rows, and its randomness."""

from typing import TypedDict, final

import attrs
import numpy.typing as npt

from pipeline.batching.analysis import Coverage, PaddingReport, Randomness
from pipeline.batching.plan import Plan


class PlanReportRecord(TypedDict):
    """A `PlanReport` for JSON, with the fields of its parts; randomness is null without the next epoch's plan."""

    batches: int
    rows: int
    steps: int
    padded: int
    wasted: float
    padding: list[int]
    missing: list[int]
    duplicated: list[int]
    correlation: float | None
    repeated_batchmates: float | None
    outliers: list[dict[str, int]]


@final
@attrs.frozen(eq=False)
class PlanReport:
    """Padding, coverage and randomness of one plan. Printed, the report takes a few lines.

    Attributes:
        padding: real and padded steps of the epoch and of each batch, and the rows that cause most padding.
        coverage: the rows that are missing or duplicated.
        randomness: how random the order is; None without the next epoch's plan.

    Example:
        >>> from pipeline.batching import Plan, Rows
        >>> lengths = [9, 2, 2, 1, 1, 1]
        >>> this, following = (Plan.of(lengths, Rows(3), epoch=epoch) for epoch in (0, 1))
        >>> print(PlanReport.of(this, lengths, following=following))
        6 rows in 2 batches: 16 real steps, 30 padded, ...
        each row once
        ...
        row 0, of 9 steps, causes 14 steps of padding in batch ...
    """

    padding: PaddingReport
    coverage: Coverage
    randomness: Randomness | None = None

    @classmethod
    def of(
        cls, plan: Plan, lengths: npt.ArrayLike, *, following: Plan | None = None, max_outliers: int = 10
    ) -> "PlanReport":
        """Report on a plan.

        Args:
            plan: the plan of all ranks.
            lengths: the lengths that it was built from.
            following: the plan of the next epoch, to measure randomness.
            max_outliers: the number of outliers to list.

        Raises:
            LengthError: if the plan was built from other lengths.
            OptionError: if the next plan has other rows.
        """
        randomness = None if following is None else Randomness.of(plan, following)
        padding = PaddingReport.of(plan, lengths, max_outliers=max_outliers)
        return cls(padding, Coverage.of(plan), randomness)

    def to_dict(self) -> PlanReportRecord:
        """Return the report as a dictionary for JSON."""
        report, randomness = self.padding.report, self.randomness
        return {
            "batches": report.batches,
            "rows": report.rows,
            "steps": report.steps,
            "padded": report.padded,
            "wasted": report.wasted,
            "padding": self.padding.padding.tolist(),
            "missing": self.coverage.missing.tolist(),
            "duplicated": self.coverage.duplicated.tolist(),
            "correlation": None if randomness is None else randomness.correlation,
            "repeated_batchmates": None if randomness is None else randomness.repeated_batchmates,
            "outliers": list(map(attrs.asdict, self.padding.outliers)),
        }

    def __str__(self) -> str:
        missing, duplicated = len(self.coverage.missing), len(self.coverage.duplicated)
        lines = [str(self.padding.report)]
        lines.append(
            "each row once" if self.coverage.complete else f"{missing:,} rows missing, {duplicated:,} duplicated"
        )
        lines += [] if self.randomness is None else [str(self.randomness)]
        lines += [
            f"row {outlier.row:,}, of {outlier.length:,} steps, causes {outlier.padding:,} steps of padding "
            f"in batch {outlier.batch:,}"
            for outlier in self.padding.outliers
        ]
        return "\n".join(lines)
