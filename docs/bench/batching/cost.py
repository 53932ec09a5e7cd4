"""Cost of batching: time to plan, load, resume and tokenize, and memory."""

import gc
import tempfile
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
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

from bench.batching.data import Batch, BatchLimit, Corpus, Epoch, Implementation, LoadEpoch, Ours, draw_texts
from bench.batching.metric import Metric
from bench.batching.other_samplers import OURS, make_implementations
from bench.encoders.points import to_ints
from bench.errors import MismatchError
from bench.record import Result
from bench.timing import Rounds, check_equal, time_first_runs, time_interleaved
from pipeline import Tokenize
from pipeline.batching import Plan

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
    return metric.report_times(str(corpus), time_interleaved(runs, rounds, time_first_runs(runs)), notes)


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
    times = time_interleaved(runs, rounds, time_first_runs(runs))
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
    return metric.report_times(str(corpus), time_interleaved(runs, rounds, time_first_runs(runs)), notes)


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
        times = time_interleaved(runs, rounds, time_first_runs(runs))
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
    times = time_interleaved(runs, rounds, time_first_runs(runs))
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
