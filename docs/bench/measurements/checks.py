"""Cost of the shape checks around every stage, as a share of a training step."""

from collections.abc import Iterator, Sequence
from typing import Final

import torch
from torch import Tensor

from bench.record import Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import (
    ALL_THREADS,
    Quartiles,
    Rounds,
    Step,
    Threads,
    check_equal,
    time_first_runs,
    time_interleaved,
    use_threads,
)
from pipeline import Classify, Encode, Pack, Padded, Pool, Vectors, set_checks
from pipeline.extend import BatchMetadata
from pipeline_recurrent import LSTM

ROWS, STEPS, FEATURES, HIDDEN, CLASSES = 64, 20, 300, 256, 6


def make_training_step(features: int, hidden: int) -> Step:
    """Return a training step, from collated tensors to gradients."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(ROWS, STEPS, features, generator=generator)
    lengths = torch.randint(1, STEPS + 1, (ROWS,), generator=generator)
    targets = torch.randint(0, CLASSES, (ROWS,), generator=generator)
    torch.default_generator.manual_seed(0)
    model = Pack(Vectors) >> Encode(LSTM(features, hidden)) >> Pool("max") >> Classify(CLASSES)
    weights = list(model.parameters())

    def step() -> tuple[Tensor, ...]:
        metadata = BatchMetadata(torch.arange(ROWS), targets)
        loss = model(Padded(Vectors, values, lengths, metadata=metadata)).loss()
        return loss.detach(), *torch.autograd.grad(loss, weights)

    return step


def disable_checks(step: Step) -> Step:
    """Return the same step without checks."""

    def run() -> tuple[Tensor, ...]:
        with set_checks(False):
            return step()

    return run


def measure(extent: Extent) -> Iterator[Result]:
    """Measure on one thread and on all; the step is the same in every extent."""
    del extent
    for threads in ("one", "all") if ALL_THREADS > 1 else ("one",):
        yield measure_checks(threads)


def measure_checks(threads: Threads, rounds: int = 1_000) -> Result:
    """Measure a whole step, and the difference between a small step with and without checks.

    The small step has one feature and one hidden unit: the cost of checks does not depend on these sizes, and would be
    lost in the noise of a large step. It runs on one thread, since checks run on one.
    """
    small = make_training_step(1, 1)
    pair = {"checked": small, "unchecked": disable_checks(small)}
    check_equal({name: step() for name, step in pair.items()})
    with use_threads("one"):
        # The difference is small beside the noise of a single step. Its median takes far more rounds than a ratio does.
        times = time_interleaved(pair, Rounds(rounds, rounds), time_first_runs(pair))
    with use_threads(threads) as number:
        whole = {"step": make_training_step(FEATURES, HIDDEN)}
        times |= time_interleaved(whole, Rounds(min(rounds, 40)), time_first_runs(whole))
    point = f"{ROWS} rows of up to {STEPS} steps, LSTM, input {FEATURES}, hidden {HIDDEN}"
    return Result("checks", point, number, {"threads": threads}, times)


def tabulate(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per number of threads."""
    headings = ("training step", "threads", "time", "time of checks", "share of checks")
    return ReportTable("Cost of checks", headings, [_make_cells(result) for result in results])


def _make_cells(result: Result) -> list[str]:
    checked, unchecked = result.times["checked"].seconds, result.times["unchecked"].seconds
    cost = Quartiles.of([one - other for one, other in zip(checked, unchecked, strict=True)])
    whole = result.times["step"].quartiles.median
    share = f"{cost.median / whole:.2%} ({cost.low / whole:.2%} to {cost.high / whole:.2%})"
    return [result.point, str(result.threads), f"{whole * 1e3:.1f} ms", f"{cost.median * 1e6:.0f} us", share]


CHECKS: Final = Measurement("checks", measure, tabulate)
