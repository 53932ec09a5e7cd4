"""Epochs through `fit`, beside a plain loop over the same batches with the same optimizer.

Both tokenize, make batches, clip gradients and train the same model for the same epochs; their weights are compared to
the last bit first. `fit` also reads the lengths of the rows once, adds up losses and padding, and looks for NaN. Times
are those of the process on the processor, so that other programs disturb little.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr
from io import StringIO
from typing import Final, TypeAlias

import attrs
import torch
from torch import nn

from bench.measurements.epoch import CLASSES, Sizes, Texts
from bench.record import Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import ALL_THREADS, Times, check_equal, use_threads
from pipeline import Bucket, Chain, Classify, Embed, Encode, Example, Ids, Pack, Pad, Padded, Pool, Scores, StreamChain
from pipeline_recurrent import LSTM

PLAIN, FIT, BAR = "plain loop", "fit", "fit with a bar"
"""The candidates."""

EPOCHS: Final = 2
ROUNDS: Final = 11
NORM: Final = 1.0

Pipe: TypeAlias = StreamChain[str | Example[str], Scores[int]]
Model: TypeAlias = Chain[Padded[Ids], Scores[int]]


@attrs.frozen(eq=False)
class Candidate:
    """A pipe with a function that trains it for some epochs."""

    pipe: Pipe
    train: Callable[[], object]


def make_candidates(texts: Texts, sizes: Sizes) -> dict[str, Candidate]:
    """Make pipes with equal weights, each with its way of training."""
    pipes = {name: _make_pipe(texts, sizes) for name in (PLAIN, FIT, BAR)}
    candidates = {PLAIN: Candidate(pipes[PLAIN][0], _make_loop(texts, sizes, pipes[PLAIN][1]))}
    for name in (FIT, BAR):
        candidates[name] = Candidate(pipes[name][0], _make_fit(texts, pipes[name][0], has_bar=name == BAR))
    return candidates


def _make_pipe(texts: Texts, sizes: Sizes) -> tuple[Pipe, Model]:
    torch.default_generator.manual_seed(0)
    encode = Encode(LSTM(sizes.embedding, sizes.hidden, bidirectional=True))
    model = Pack() >> Embed(texts.tokenize.vocab_size, sizes.embedding) >> encode >> Pool("max") >> Classify(CLASSES)
    return texts.tokenize >> Bucket(rows=sizes.batch) >> Pad() >> model, model


def _make_loop(texts: Texts, sizes: Sizes, model: Model) -> Callable[[], None]:
    def train() -> None:
        data = texts.tokenize >> Bucket(rows=sizes.batch) >> Pad()
        optimizer = _make_optimizer([{"params": list(model.parameters())}])
        weights = list(model.parameters())
        for _ in range(EPOCHS):
            for batch in data(texts.examples):
                optimizer.zero_grad()
                torch.autograd.backward(model(batch).loss())
                nn.utils.clip_grad_norm_(weights, NORM)
                optimizer.step()

    return train


def _make_fit(texts: Texts, pipe: Pipe, *, has_bar: bool) -> Callable[[], None]:
    def train() -> None:
        # The notes about the machine are for users.
        with redirect_stderr(StringIO()):
            pipe.fit(
                texts.examples,
                epochs=EPOCHS,
                optimizer=_make_optimizer,
                weight_decay=0.0,
                max_grad_norm=NORM,
                progress=has_bar,
            )

    return train


def _make_optimizer(groups: Sequence[dict[str, object]]) -> torch.optim.Optimizer:
    """Return the same optimizer for all: the groups of `fit` differ in their weight decay only, which is 0 here."""
    return torch.optim.AdamW([{**group, "weight_decay": 0.0} for group in groups], lr=1e-3, fused=True)


def measure(extent: Extent) -> Iterator[Result]:
    """Measure on one thread and on all; the sizes are the same in every extent."""
    del extent
    for threads in ("one", "all") if ALL_THREADS > 1 else ("one",):
        with use_threads(threads) as number:
            yield measure_fit(Sizes(), number, ROUNDS)


def measure_fit(sizes: Sizes, threads: int, rounds: int) -> Result:
    """Train for some epochs, compare the weights, then time further epochs in interleaved rounds."""
    texts = Texts.draw(sizes.rows, sizes.words)
    candidates = make_candidates(texts, sizes)
    for candidate in candidates.values():
        candidate.train()
    check_equal({name: list(each.pipe.parameters()) for name, each in candidates.items()})
    seconds = {name: list[float]() for name in candidates}
    for round_ in range(rounds):
        for name in reversed(candidates) if round_ % 2 else candidates:
            start = time.process_time()
            candidates[name].train()
            seconds[name].append((time.process_time() - start) / EPOCHS)
    times = {name: Times(each) for name, each in seconds.items()}
    return Result("fit", str(sizes), threads, attrs.asdict(sizes), times)


def tabulate(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per number of threads."""
    headings = ("one epoch", "threads", "plain loop", "fit over the plain loop", "with a bar")
    note = "Processor times, with equal batches, optimizers and weights; the ratio of each round, lower is better."
    return ReportTable("An epoch through fit", headings, [_make_cells(result) for result in results], [note])


def _make_cells(result: Result) -> list[str]:
    ratios = [str(result.times[name].divide_by(result.times[PLAIN])) for name in (FIT, BAR)]
    return [result.point, str(result.threads), str(result.times[PLAIN]), *ratios]


FIT_MEASUREMENT: Final = Measurement("fit", measure, tabulate)
"""Epochs through `fit`."""
