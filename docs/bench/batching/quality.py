"""Quality of batches: padding, randomness, and the split between ranks. These numbers are exact and never noisy."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from bench.batching.data import BUDGET, Batch, BatchLimit, Corpus, Epoch, Implementation, Lengths, OursSorted
from bench.batching.metric import Metric
from bench.batching.other_samplers import OURS, cut_like_fairseq, make_implementations
from bench.record import Result
from pipeline.batching import Boundaries, Budget, Plan, Policy, Rows, Shapes

FAIRSEQ: Final = "fairseq"
FAIRSEQ_BY_8: Final = "fairseq, multiples of 8 rows"

# Goals hold from these numbers of rows on. In less data, neighbours in length are fewer, so that any sampler that
# groups rows by length must pad more and repeat more batchmates.
_MIN_ROWS_PADDING: Final = 100_000
_MIN_ROWS_BATCHMATES: Final = 1_000_000

RANKED_ROWS: Final = 1_003
"""17 x 59: no number of ranks from 2 to 8 divides it."""

WORLD_SIZES: Final = range(2, 9)

# Data of fewer and short rows, for which plans are made for all numbers of rows and ranks.
_MAX_ROWS: Final = 200
_MAX_WORLD_SIZE: Final = 16
_LONGEST: Final = 16

POLICIES: Final[Sequence[Policy]] = (
    Rows(3),
    Budget(64),
    Budget(64, quadratic=16),
    Boundaries((4, 8), max_padded_steps=64),
    Shapes([(4, 16), (8, 8)]),
)
"""One policy of each kind, with few rows per batch."""


def measure_padding(corpus: Corpus) -> Iterator[Result]:
    """Measure padding and randomness of all implementations over two epochs."""
    # The second epoch is for repeated batchmates; everything else is the same in all epochs up to chance.
    notes: list[str] = []
    point, implementations = str(corpus), make_implementations(corpus.lengths, BatchLimit(), notes)
    first, second = (
        {name: Epoch.of(corpus.lengths, each.batches(epoch)) for name, each in implementations.items()}
        for epoch in (0, 1)
    )
    largest = {name: int(epoch.padded_steps.max()) / BUDGET for name, epoch in first.items()}
    yield Metric("largest batch / budget", "ratio", goal=1.0).report_counts(point, largest, notes)
    misplaced = {name: epoch.misplaced for name, epoch in first.items()}
    yield Metric("rows omitted or repeated", "number", goal=0).report_counts(point, misplaced, notes)
    yield _measure_least_padding(corpus)
    goal = 0.02 if len(corpus.lengths) >= _MIN_ROWS_PADDING else None
    padding = {name: epoch.padding for name, epoch in first.items()}
    yield Metric("padding, default policy", "share", goal=goal).report_counts(point, padding, notes)
    # In n random batches the correlation has a standard deviation of about 1 / sqrt(n): twice that is not unusual.
    chance = max(0.05, 2 / len(first[OURS].sizes) ** 0.5)
    correlations = {name: abs(epoch.correlation) for name, epoch in first.items()}
    metric = Metric("correlation of adjacent batches", "ratio", goal=chance)
    yield metric.report_counts(point, correlations, notes)
    yield _report_batchmates(corpus, first, second, notes)


def _measure_least_padding(corpus: Corpus) -> Result:
    """Measure the padding with all rows sorted, beside fairseq's batches.

    Smaller batches have less padding, so the note states the numbers of batches.
    """
    lengths = corpus.lengths
    epochs = {
        OURS: Epoch.of(lengths, OursSorted(lengths, BatchLimit()).batches(0)),
        FAIRSEQ: Epoch.of(lengths, cut_like_fairseq(lengths, BUDGET)),
        FAIRSEQ_BY_8: Epoch.of(lengths, cut_like_fairseq(lengths, BUDGET, multiple=8)),
    }
    metric = Metric("padding, all rows sorted together", "share", goal=epochs[FAIRSEQ].padding)
    batches = ", ".join(f"{len(epoch.sizes):,}" for epoch in epochs.values())
    padding = {name: epoch.padding for name, epoch in epochs.items()}
    return metric.report_counts(str(corpus), padding, [f"{batches} batches"])


def measure_batchmates(rows: int) -> Result:
    """Measure repeated batchmates of ours over many rows; the others would take minutes."""
    corpus = Corpus.sentences(rows)
    ours = make_implementations(corpus.lengths, BatchLimit(), [])[OURS]
    first, second = ({OURS: Epoch.of(corpus.lengths, ours.batches(epoch))} for epoch in (0, 1))
    return _report_batchmates(corpus, first, second)


def _report_batchmates(
    corpus: Corpus, first: Mapping[str, Epoch], second: Mapping[str, Epoch], notes: Sequence[str] = ()
) -> Result:
    metric = Metric("repeated batchmates", "share", goal=0.03 if len(corpus.lengths) >= _MIN_ROWS_BATCHMATES else None)
    repeated = {name: epoch.compute_repeated_batchmates(second[name]) for name, epoch in first.items()}
    return metric.report_counts(str(corpus), repeated, notes)


def measure_ranks() -> Iterator[Result]:
    """Measure the split between ranks; each number is the worst over all world sizes."""
    lengths, notes = Corpus.sentences(RANKED_ROWS).lengths, list[str]()
    splits = {
        name: [inspect_ranks(each, world_size) for world_size in WORLD_SIZES]
        for name, each in make_implementations(lengths, BatchLimit(), notes).items()
    }
    point = f"{RANKED_ROWS:,} rows, ~20 steps, {WORLD_SIZES[0]} to {WORLD_SIZES[-1]} ranks"
    names = ("largest difference in batches between ranks", "empty batches", "rows omitted or repeated over all ranks")
    for index, name in enumerate(names):
        worst = {implementation: max(each[index] for each in split) for implementation, split in splits.items()}
        yield Metric(name, "number", goal=0).report_counts(point, worst, notes)


def inspect_ranks(implementation: Implementation, world_size: int) -> tuple[int, int, int]:
    """Count the largest difference in batches between ranks, empty batches, and rows omitted or repeated."""
    by_rank: list[list[Batch]] = [list(implementation.batches(0, rank, world_size)) for rank in range(world_size)]
    counts = [len(batches) for batches in by_rank]
    every = [batch for batches in by_rank for batch in batches]
    misplaced = Epoch.of(implementation.lengths, every).misplaced
    return max(counts) - min(counts), sum(not len(batch) for batch in every), misplaced


def measure_world_sizes(step: int, policies: Sequence[Policy] = POLICIES) -> Result:
    """Count invalid plans, over all policies, 0 to 200 rows (in steps of `step`), and 1 to 16 ranks.

    A plan is invalid if ranks have different numbers of batches, a batch is empty, or a row does not occur once. A row
    that the plan declares as repeated must occur once more.
    """
    lengths = Corpus.sentences(_MAX_ROWS).lengths.clip(1, _LONGEST)
    rows, world_sizes = range(0, _MAX_ROWS + 1, step), range(1, _MAX_WORLD_SIZE + 1)
    invalid = sum(
        _is_invalid(lengths[:number], policy, world_size)
        for policy in policies
        for number in rows
        for world_size in world_sizes
    )
    plans = len(policies) * len(rows) * len(world_sizes)
    point = f"{plans:,} plans of up to {_MAX_ROWS} rows for up to {_MAX_WORLD_SIZE} ranks"
    return Metric("invalid plans", "number", goal=0).report_counts(point, {OURS: invalid})


def _is_invalid(lengths: Lengths, policy: Policy, world_size: int) -> bool:
    # Counted from the batches themselves, so that an error in the plan's own bookkeeping is found too.
    plan = Plan.of(lengths, policy, world_size=world_size)
    by_rank = [list(plan.rank(rank)) for rank in range(world_size)]
    every = [batch for batches in by_rank for batch in batches]
    found = np.bincount(np.concatenate([plan.order[:0], *every]), minlength=len(lengths))
    wanted = 1 + np.bincount(plan.repeated, minlength=len(lengths))
    uneven = len({len(batches) for batches in by_rank}) > 1
    return uneven or not all(map(len, every)) or not np.array_equal(found, wanted)
