"""Making batches: padding, randomness, planning, memory, loading, resuming and ranks, beside what others give."""

from collections.abc import Iterator, Sequence
from typing import Final

from bench.batching.corpus import BUDGET, Corpus
from bench.batching.figures.all import FULL, QUICK, Sizes, figures
from bench.batching.figures.figure import Figure
from bench.batching.ways.all import WAYS
from bench.measured.measurement import Extent, Measurement
from bench.record.finding import Finding
from bench.record.sheet import Sheet
from bench.timing.turns import Turns


def find(extent: Extent, own: Corpus | None = None) -> Iterator[Finding]:
    """Every figure, of fewer rows in a quick run and of more in a full one."""
    sizes = {"quick": QUICK, "named": Sizes(), "full": FULL}[extent]
    turns = Turns(most=5, seconds=1.0) if extent == "quick" else Turns(most=9)
    return figures(sizes, turns, own)


def sheet(findings: Sequence[Finding]) -> Sheet:
    """A row a figure, and a column a way."""
    absent = sorted({note for finding in findings for note in finding.notes if note.split(":")[0] in WAYS})
    headings = ("figure", "to reach", "reached", *WAYS, "others")
    return Sheet("Making batches", headings, [_cells(finding) for finding in findings], [_WHO, _WHAT, *absent])


def _cells(finding: Finding) -> list[str]:
    figure = Figure.of(finding)
    found = [*finding.figures, *finding.times]
    others = [f"{name} {figure.cell(finding, name)}" for name in found if name not in WAYS]
    notes = [note for note in finding.notes if note.split(":")[0] not in WAYS]
    ways = [figure.cell(finding, name) for name in WAYS]
    return [finding.point, *figure.verdict(finding), *ways, "; ".join([*others, *notes])]


_WHO: Final = (
    f"A budget of {BUDGET:,} padded steps: ours, with the default pools, and lhotse's DynamicBucketingSampler. 64 rows "
    "a batch, for they have no budget: transformers' LengthGroupedSampler and torch's RandomSampler. "
    "Lengths are drawn, but for those of one's own."
)
_WHAT: Final = (
    "Medians, with quartiles. What is reached in rows or texts a second is the rate of ours over that of the fastest "
    "other; in resuming, the time over that of one planning."
)


BATCH: Final = Measurement("batch", find, sheet, quick=True)
