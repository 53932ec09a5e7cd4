"""What is to be known of one plan, in one place: padding, which rows bring it about, randomness, coverage."""

from typing import TypedDict, final

import attrs
import numpy.typing as npt

from pipeline.batching.plan import Plan
from pipeline.batching.randomness import Coverage, Randomness
from pipeline.batching.waste import PaddingReport


class CulpritRecord(TypedDict):
    """A row that brings padding about.

    Attributes:
        row: its number.
        batch: its batch in the plan.
        length: its steps.
        padding: how many steps its mates would be spared without it.
    """

    row: int
    batch: int
    length: int
    padding: int


class AuditRecord(TypedDict):
    """What is to be known of one plan.

    Attributes:
        batches: how many there are, of all ranks.
        rows: how many rows they hold.
        steps: how many real steps.
        padded: how many padded ones.
        wasted: the share of them that is padding.
        padding: how many steps of padding each batch has.
        missing: the rows that no batch holds.
        doubled: the rows that more than one holds.
        correlation: of adjacent batches' mean lengths; null if no next epoch was given.
        mates: the share of pairs of mates that meet again there; null likewise.
        culprits: the rows that bring about most padding.
    """

    batches: int
    rows: int
    steps: int
    padded: int
    wasted: float
    padding: list[int]
    missing: list[int]
    doubled: list[int]
    correlation: float | None
    mates: float | None
    culprits: list[CulpritRecord]


@final
@attrs.frozen(eq=False)
class PlanReport:
    """What is to be known of one plan; printed, a few lines.

    Attributes:
        waste: real and padded steps, of the epoch and by batch, and the rows that bring about most of the padding.
        coverage: which rows are missing, and which doubled.
        randomness: both figures; None if no next epoch was given.

    Example:
        >>> from pipeline.batching import Plan, Rows
        >>> lengths = [9, 2, 2, 1, 1, 1]
        >>> this, following = (Plan.of(lengths, Rows(3), epoch=epoch) for epoch in (0, 1))
        >>> print(PlanReport.of(this, lengths, following=following))
        6 rows in 2 batches: 16 real steps, 30 padded, 46.7% of the padded work wasted
        each row once
        adjacent batches correlate by +0.000; 100.0% of mates meet again
        row 0, of 9 steps, brings about 14 steps of padding in batch ...
    """

    waste: PaddingReport
    coverage: Coverage
    randomness: Randomness | None = None

    @classmethod
    def of(cls, plan: Plan, lengths: npt.ArrayLike, *, following: Plan | None = None, most: int = 10) -> "PlanReport":
        """Look through a plan.

        Args:
            plan: the plan of all ranks.
            lengths: those that it was made of.
            following: the next epoch's, for the figures of randomness.
            most: how many rows are named at most.

        Raises:
            LengthError: for other lengths than the plan's.
            OptionError: if the next epoch's plan is of other rows.
        """
        randomness = None if following is None else Randomness.of(plan, following)
        return cls(PaddingReport.of(plan, lengths, most=most), Coverage.of(plan), randomness)

    def to_dict(self) -> AuditRecord:
        """All of it as records, for JSON."""
        report = self.waste.report
        return {
            "batches": report.batches,
            "rows": report.rows,
            "steps": report.steps,
            "padded": report.padded,
            "wasted": report.wasted,
            "padding": self.waste.padding.tolist(),
            "missing": self.coverage.missing.tolist(),
            "doubled": self.coverage.doubled.tolist(),
            "correlation": None if self.randomness is None else self.randomness.correlation,
            "mates": None if self.randomness is None else self.randomness.mates,
            "culprits": [
                {"row": one.row, "batch": one.batch, "length": one.length, "padding": one.padding}
                for one in self.waste.culprits
            ],
        }

    def __str__(self) -> str:
        missing, doubled = len(self.coverage.missing), len(self.coverage.doubled)
        lines = [str(self.waste.report)]
        lines.append("each row once" if self.coverage.complete else f"{missing:,} rows missing, {doubled:,} doubled")
        lines += [] if self.randomness is None else [str(self.randomness)]
        lines += [
            f"row {one.row:,}, of {one.length:,} steps, brings about {one.padding:,} steps of padding in batch "
            f"{one.batch:,}"
            for one in self.waste.culprits
        ]
        return "\n".join(lines)
