"""Making batches: padding, randomness and ranks, which are exact and never noisy; and cost, in time and memory."""

import gc
import tempfile
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, cast

import attrs
import numpy as np
import tokenizers
import torch
from tokenizers import models, pre_tokenizers, trainers
from torch import Tensor

from bench.batching.data import (
    BUDGET,
    DISTRIBUTIONS,
    Batch,
    BatchLimit,
    Corpus,
    Epoch,
    Implementation,
    Lengths,
    LoadEpoch,
    Ours,
    OursSorted,
    draw_texts,
)
from bench.batching.metric import MEASUREMENT, Metric, tabulate_metrics
from bench.batching.other_samplers import OURS, cut_like_fairseq, make_implementations
from bench.encoders.points import to_ints
from bench.record import Result
from bench.report import Extent, Measurement
from bench.timing import MismatchError, Rounds, check_equal, time_interleaved
from pipeline import Tokenize
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


ARGSORT: Final = "one argsort"
PLANNING: Final = "planning alone"
TOKENIZERS: Final = "tokenizers"

# Goals of planning and memory hold from this number of rows on. In less data, fixed costs dominate: some milliseconds
# to plan, and some bytes per row that do not grow with the rows.
_MANY: Final = 1_000_000

_SIMD: Final = {"AVX512_SKX", "X86_V4", "AVX2", "X86_V3", "ASIMD", "VSX2"}
"""numpy's names of the instruction sets with which it sorts, since version 2.0."""

# Resuming includes one planning; 10% are allowed for noise.
_RESUME_GOAL: Final = 1.1

# The remaining batches of an epoch are compared for this number of rows: more take others minutes.
_COMPARED_ROWS: Final = 10_000

_WORDS: Final = 5_000
_PAD, _UNKNOWN = "<pad>", "<unk>"


def measure_planning(rows: int, rounds: Rounds, *, others: bool) -> Result:
    """Time one plan against one stable argsort of the lengths; the others iterate over their sampler once."""
    corpus, notes = Corpus.sentences(rows), list[str]()
    runs: dict[str, Callable[[], object]] = {
        name: partial(_exhaust, each) for name, each in _make_candidates(corpus, notes, others=others).items()
    }
    runs[ARGSORT] = partial(np.argsort, corpus.lengths, kind="stable")
    simd = sorts_with_simd()
    notes.append(f"numpy sorts {'with' if simd else 'without'} SIMD here")
    # The sorts inside a plan are faster with SIMD; without it, a plan may take the time of two argsorts.
    goal = (0.7 if simd else 2.0) if rows >= _MANY else None
    metric = Metric("planning / stable argsort", "ratio", goal=goal, baseline=ARGSORT)
    return metric.report_times(str(corpus), time_interleaved(runs, rounds), notes)


def _make_candidates(corpus: Corpus, notes: list[str], *, others: bool) -> Mapping[str, Implementation]:
    if others:
        return make_implementations(corpus.lengths, BatchLimit(), notes)
    return {OURS: Ours(corpus.lengths, BatchLimit())}


def _exhaust(implementation: Implementation) -> None:
    deque(implementation.sample(0), maxlen=0)


def sorts_with_simd() -> bool:
    """Return whether numpy has vector instructions to sort with, and finds them on this machine."""
    config = cast("Mapping[str, Mapping[str, list[str]]]", np.show_config(mode="dicts"))
    extensions = config["SIMD Extensions"]
    return bool(_SIMD & {*extensions.get("baseline", []), *extensions.get("found", [])})


def measure_memory(rows: int, *, others: bool) -> Iterator[Result]:
    """Measure bytes per row, in the middle of an epoch and at the peak up to there."""
    corpus, notes = Corpus.sentences(rows), list[str]()
    candidates = _make_candidates(corpus, notes, others=others)
    measured = {name: trace_memory(each) for name, each in candidates.items()}
    goals = (8, 24) if rows >= _MANY else (None, None)
    held = {name: now / rows for name, (now, _) in measured.items()}
    peaks = {name: peak / rows for name, (_, peak) in measured.items()}
    yield Metric("bytes per row, mid-epoch", "bytes", goal=goals[0]).report_counts(str(corpus), held, notes)
    yield Metric("bytes per row, peak", "bytes", goal=goals[1]).report_counts(str(corpus), peaks, notes)


def trace_memory(implementation: Implementation) -> tuple[int, int]:
    """Return the bytes allocated in the middle of an epoch, and at the peak until then.

    Python's and numpy's allocations are counted. Those of torch are not: its samplers hold a permutation there.
    """
    # The first pass counts the batches, and fills caches that would otherwise be counted as memory of the epoch.
    batches = sum(1 for _ in implementation.sample(0))
    gc.collect()
    tracemalloc.start()
    try:
        sampled = implementation.sample(0)
        deque(islice(sampled, batches // 2), maxlen=0)
        gc.collect()
        now, peak = tracemalloc.get_traced_memory()
        del sampled  # not earlier: its memory is measured
    finally:
        tracemalloc.stop()
    return now, peak


def measure_loading(rows: int, limit: BatchLimit, rounds: Rounds) -> Result:
    """Time one epoch of padded batches, sampler and collation included; all must return the same rows.

    Implementations without a budget get batches with the mean number of rows of ours.
    """
    corpus, notes = Corpus.sentences(rows), list[str]()
    if limit.max_padded_steps is not None:
        batches = len(Epoch.of(corpus.lengths, Ours(corpus.lengths, limit).batches(0)).sizes)
        limit = attrs.evolve(limit, rows=-(-rows // batches))
    ids = draw_ids(corpus)
    loaders = {name: each.make_loader(ids) for name, each in make_implementations(corpus.lengths, limit, notes).items()}
    # The batches differ, so sums that do not depend on the grouping are compared. They are integers, hence exact.
    check_equal({name: [sum_rows(load_epoch)] for name, load_epoch in loaders.items()}, tolerance=0.0)
    runs: dict[str, Callable[[], object]] = {
        name: partial(_load_all, load_epoch) for name, load_epoch in loaders.items()
    }
    metric = Metric("rows sampled and collated", "rate", goal=1.0, higher_is_better=True, baseline=OURS, items=rows)
    times = time_interleaved(runs, rounds)
    return metric.report_times(f"{corpus}, {limit} per batch", times, notes)


def draw_ids(corpus: Corpus) -> list[list[int]]:
    """Draw ids for the rows of a corpus; none is 0, the padding."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 5_000, (int(corpus.lengths.sum()),), generator=generator)
    sizes: list[int] = corpus.lengths.tolist()
    return [to_ints(row) for row in torch.split(ids, sizes)]


def sum_rows(load_epoch: LoadEpoch) -> Tensor:
    """Return the number of rows of an epoch, and two sums over their ids that do not depend on order or padding."""
    found = [(len(batch), int(batch.sum()), int((batch.sum(1) ** 2).sum())) for batch in load_epoch()]
    return torch.tensor(found).sum(0)


def _load_all(load_epoch: LoadEpoch) -> None:
    for _ in load_epoch():
        pass


def measure_resuming(rows: int, rounds: Rounds) -> Result:
    """Time from nothing to the first batch of the second half of an epoch."""
    corpus, notes = Corpus.sentences(rows), list[str]()
    # Correctness is checked with few rows, and time is measured with many.
    few = Corpus.sentences(min(rows, _COMPARED_ROWS)).lengths
    runs: dict[str, Callable[[], object]] = {}
    for name, each in make_implementations(corpus.lengths, BatchLimit(), notes).items():
        small = make_implementations(few, BatchLimit(), [])[name]
        batches = list(small.batches(0))
        half = len(batches) // 2
        if not are_same(small.resume(0, half), batches[half:]):
            if name == OURS:
                raise MismatchError("a resumed plan must return the remaining batches, but returns others; correct it.")
            notes.append(f"{name} resumes with other batches")
        runs[name] = partial(_resume, each, half * rows // len(few))
    runs[PLANNING] = partial(Ours(corpus.lengths, BatchLimit()).plan, 0)
    metric = Metric("resuming mid-epoch", "seconds", goal=_RESUME_GOAL, baseline=PLANNING)
    return metric.report_times(str(corpus), time_interleaved(runs, rounds), notes)


def _resume(implementation: Implementation, batches_done: int) -> object:
    return next(implementation.resume(0, batches_done))


def measure_resuming_saved(rows: int, rounds: Rounds) -> Result:
    """Time the same from a plan that was saved as a file."""
    corpus = Corpus.sentences(rows)
    plan = Ours(corpus.lengths, BatchLimit()).plan(0)
    half = len(plan) // 2
    cursor = plan.cursor(half)
    with tempfile.TemporaryDirectory() as folder:
        path = plan.save(folder)
        if not are_same(Plan.read(path).resume(cursor), islice(plan, half, None)):
            raise MismatchError("a saved plan must return the remaining batches, but returns others; correct it.")

        def read_first() -> object:
            return Plan.read(path).resume(cursor)[0].tolist()

        runs = {OURS: read_first}
        times = time_interleaved(runs, rounds)
    return Metric("resuming from a saved plan", "seconds", goal=0.1).report_times(str(corpus), times)


def are_same(some: Iterable[Batch], others: Iterable[Batch]) -> bool:
    """Return whether batches have the same rows in the same order."""
    one, other = list(some), list(others)
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def measure_tokenizing(rows: int, rounds: Rounds) -> Result:
    """Time the tokenizing stage, texts to rows of ids, against the library `tokenizers` that it calls.

    The library's own batch encoding runs without offsets, and its results are not converted.
    """
    texts = draw_texts(rows, _WORDS)
    raw = _train_byte_pairs(texts)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        raw.save(str(file))
        tokenize = Tokenize.read(file, pad_token=_PAD, unk_token=_UNKNOWN, offsets=False)
    ours = [to_ints(row.sequence.values) for row in tokenize.map(texts)]
    if ours != [each.ids for each in raw.encode_batch(texts)]:
        raise MismatchError("`Tokenize` must return the ids of `tokenizers`, but returns others; correct it.")
    runs: dict[str, Callable[[], object]] = {
        OURS: lambda: list(tokenize.map(texts)),
        TOKENIZERS: lambda: raw.encode_batch_fast(texts, add_special_tokens=False),
    }
    metric = Metric("texts tokenized", "rate", goal=0.8, higher_is_better=True, baseline=OURS, items=rows)
    times = time_interleaved(runs, rounds)
    return metric.report_times(f"{rows:,} texts of ~20 words, byte pairs", times)


def _train_byte_pairs(texts: list[str]) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=_WORDS, special_tokens=[_PAD, _UNKNOWN], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


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


BATCH: Final = Measurement(MEASUREMENT, measure, tabulate_metrics, quick=True)
