"""The engines that `auto` chooses, beside the fastest one, on batches on which the cost model was not fitted."""

import statistics
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from bench.record import Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import ALL_THREADS
from pipeline_recurrent.engines.check_costs import Choice, check, share_within
from pipeline_recurrent.engines.costs import load_costs

SECONDS: Final[dict[Extent, float]] = {"quick": 12.0, "default": 160.0, "full": 900.0}
"""The time for all batches."""


def measure(extent: Extent) -> Iterator[Result]:
    """Measure batches with one thread and with two."""
    numbers = (1, 2) if ALL_THREADS > 1 else (1,)
    for threads in numbers:
        yield from summarize(check(load_costs(), seconds=SECONDS[extent] / len(numbers), threads=threads))


def summarize(choices: Iterator[Choice]) -> Iterator[Result]:
    """Return a result per precision and kind of batch."""

    def key(choice: Choice) -> tuple[str, str]:
        return choice.measured.sizes.precision, choice.measured.batch.kind

    for (precision, kind), group in groupby(sorted(choices, key=key), key):
        found = list(group)
        ratios = [choice.ratio for choice in found]
        worst = max(found, key=lambda choice: choice.ratio)
        counts = {
            "batches": len(ratios),
            "mean": statistics.mean(ratios),
            "within 1.03": share_within(ratios),
            "largest": max(ratios),
        }
        parameters = {"precision": precision, "kind": kind}
        point = f"{kind}, {precision}"
        yield Result("choices", point, worst.threads, parameters, {}, counts=counts, notes=[str(worst)])


def tabulate(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per kind of batch, precision and number of threads."""
    headings = ("batches", "threads", "number", "time of auto over the best engine, mean", "within 1.03", "largest")
    note = "Batches are drawn with other seeds than those on which the costs were fitted."
    return ReportTable("What auto chooses", headings, [_make_cells(result) for result in results], [note])


def _make_cells(result: Result) -> list[str]:
    counts = result.counts
    return [
        result.point,
        str(result.threads),
        f"{counts['batches']:.0f}",
        f"{counts['mean']:.3f}",
        f"{counts['within 1.03']:.0%}",
        f"{counts['largest']:.2f}; {result.notes[0]}",
    ]


CHOICES: Final = Measurement("choices", measure, tabulate, quick=True)
