"""Making batches: padding, randomness, planning, memory, loading, resuming, ranks and tokenizing, beside others."""

from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from bench.batching.cost import (
    measure_loading,
    measure_memory,
    measure_planning,
    measure_resuming,
    measure_resuming_saved,
    measure_tokenizing,
)
from bench.batching.data import BUDGET, DISTRIBUTIONS, BatchLimit, Corpus
from bench.batching.metric import MEASUREMENT, Metric
from bench.batching.other_samplers import IMPLEMENTATIONS
from bench.batching.quality import measure_batchmates, measure_padding, measure_ranks, measure_world_sizes
from bench.record import Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import Rounds


@attrs.frozen
class Sizes:
    """Numbers of rows.

    Attributes:
        batchmates: to measure repeated batchmates of ours.
        all_planned: to time planning and resuming of all implementations.
        planned: to time planning of ours; the memory of ours is measured with the last.
        saved: to time resuming from a saved plan.
        memory: to measure the memory of all implementations.
        loaded: to time sampler and collation.
        tokenized: to time tokenizing.
        ranked_step: the step between numbers of rows for which plans of all world sizes are checked.
    """

    batchmates: int = 1_000_000
    all_planned: int = 1_000_000
    planned: Sequence[int] = (10_000_000,)
    saved: int = 10_000_000
    memory: int = 100_000
    loaded: int = 20_000
    tokenized: int = 20_000
    ranked_step: int = 1


QUICK: Final = Sizes(
    all_planned=100_000,
    planned=(1_000_000,),
    saved=1_000_000,
    memory=20_000,
    loaded=5_000,
    tokenized=5_000,
    ranked_step=25,
)
FULL: Final = Sizes(planned=(10_000_000, 100_000_000), saved=100_000_000, memory=1_000_000)


def measure(extent: Extent, own: Corpus | None = None) -> Iterator[Result]:
    """Measure all metrics, with fewer rows in a quick run and more rows in a full one.

    Args:
        extent: the extent.
        own: lengths of the user, for which padding and randomness are measured too.
    """
    sizes = {"quick": QUICK, "default": Sizes(), "full": FULL}[extent]
    rounds = Rounds(most=5, seconds=1.0) if extent == "quick" else Rounds(most=9)
    return measure_all(sizes, rounds, own)


def measure_all(sizes: Sizes, rounds: Rounds, own: Corpus | None = None) -> Iterator[Result]:
    """Measure all metrics in the order of the table."""
    corpora = [Corpus(name, distribution.draw()) for name, distribution in DISTRIBUTIONS.items()]
    for corpus in [*corpora, own] if own else corpora:
        yield from measure_padding(corpus)
    yield measure_batchmates(sizes.batchmates)
    yield measure_planning(sizes.all_planned, rounds, others=True)
    for rows in sizes.planned:
        yield measure_planning(rows, rounds, others=False)
    yield from measure_memory(sizes.memory, others=True)
    yield from measure_memory(max(sizes.planned), others=False)
    for limit in (BatchLimit(max_padded_steps=None), BatchLimit()):
        yield measure_loading(sizes.loaded, limit, rounds)
    yield measure_resuming(sizes.all_planned, rounds)
    yield measure_resuming_saved(sizes.saved, rounds)
    yield from measure_ranks()
    yield measure_world_sizes(sizes.ranked_step)
    yield measure_tokenizing(sizes.tokenized, rounds)


def tabulate(results: Sequence[Result]) -> ReportTable:
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

BATCH: Final = Measurement(MEASUREMENT, measure, tabulate, quick=True)
