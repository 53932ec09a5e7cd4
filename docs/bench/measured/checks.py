"""What the checks at the borders cost of a training step.

It is the difference between two runs of one chain, with and without them, whose tensors are one feature wide, so that
it is not lost in the work: it does not depend on the width.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import torch
from torch import Tensor

from bench.measured.measurement import Extent, Measurement
from bench.record.finding import Finding
from bench.record.sheet import Sheet
from bench.timing.alike import check_alike
from bench.timing.spread import Spread
from bench.timing.step import Step
from bench.timing.threads import EVERY, Threads, on_threads
from bench.timing.turns import Turns, by_turns, first_times
from pipeline import Classify, Encode, Pack, Padded, Pool, Vectors, set_checks
from pipeline.data.metadata import BatchMetadata
from pipeline_recurrent import LSTM

ROWS, STEPS, FEATURES, HIDDEN, CLASSES = 64, 20, 300, 256, 6


def training(features: int, hidden: int) -> Step:
    """One step of training, from collated tensors to gradients."""
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


def unchecked(step: Step) -> Step:
    """The same step without checks."""

    def run() -> tuple[Tensor, ...]:
        with set_checks(False):
            return step()

    return run


def find(extent: Extent) -> Iterator[Finding]:
    """A step on one thread, and on all; there is no more in any extent."""
    del extent
    for threads in ("one", "all") if EVERY > 1 else ("one",):
        yield measured(threads)


def measured(threads: Threads, turns: int = 1_000) -> Finding:
    """The whole step on some threads, and what checks add, which no thread helps with."""
    narrow = training(1, 1)
    pair = {"checked": narrow, "unchecked": unchecked(narrow)}
    check_alike({name: step() for name, step in pair.items()})
    with on_threads("one"):
        times = by_turns(pair, Turns(turns, turns), first_times(pair))
    with on_threads(threads) as number:
        whole = {"step": training(FEATURES, HIDDEN)}
        times |= by_turns(whole, Turns(min(turns, 40)), first_times(whole))
    shape = f"{ROWS} rows of up to {STEPS} steps x {FEATURES}, LSTM at hidden {HIDDEN}"
    return Finding("checks", shape, number, {"threads": threads}, times)


def sheet(findings: Sequence[Finding]) -> Sheet:
    """A row for each number of threads."""
    headings = ("a training step of", "threads", "takes", "the checks in it", "their share")
    return Sheet("What checks cost", headings, [_cells(finding) for finding in findings])


def _cells(finding: Finding) -> list[str]:
    checked, without = finding.times["checked"].seconds, finding.times["unchecked"].seconds
    cost = Spread.of([one - other for one, other in zip(checked, without, strict=True)])
    whole = finding.times["step"].spread.middle
    share = f"{cost.middle / whole:.2%} ({cost.low / whole:.2%} to {cost.high / whole:.2%})"
    return [finding.point, str(finding.threads), f"{whole * 1e3:.1f} ms", f"{cost.middle * 1e6:.0f} us", share]


CHECKS: Final = Measurement("checks", find, sheet)
