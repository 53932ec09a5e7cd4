"""Attention over earlier steps, beside a loop over steps and a masked softmax.

All rows have one length, so that padding is not measured here.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, TypeAlias

import attrs
import torch
from torch import Tensor

from bench.record import Parameter, Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import (
    Rounds,
    Threads,
    check_equal,
    describe_threads,
    make_step,
    time_first_runs,
    time_interleaved,
    use_threads,
)
from pipeline import AttendEarlier, Attention, States
from pipeline.forecast.memory import measure_peak_bytes
from pipeline_attention import Additive, General

ROWS: Final = 16
HIDDEN: Final = 128

Attend: TypeAlias = Callable[[Tensor], Tensor]
"""From states to contexts, both batch x time x hidden."""


@attrs.frozen
class Case:
    """A score function and a number of steps."""

    kind: type[General | Additive]
    steps: int
    training: bool
    threads: Threads = "all"

    def __str__(self) -> str:
        mode = "training" if self.training else "inference"
        return f"{self.score}, {self.steps:,} steps, {mode}, {describe_threads(self.threads)}"

    @property
    def score(self) -> str:
        """The name of the score function."""
        return self.kind.__name__.lower()

    @property
    def too_large(self) -> bool:
        """Return whether computing all scores at once would take gigabytes: batch x time x time x hidden numbers."""
        return self.kind is Additive and self.steps >= 512


_SIZES: Final = ((General, 64), (General, 128), (General, 512), (General, 1_024), (Additive, 128), (Additive, 512))


def list_cases(extent: Extent) -> list[Case]:
    """List the cases of an extent."""
    if extent == "quick":
        return [Case(General, 128, training) for training in (True, False)]
    every: Sequence[Threads] = ("all", "one") if extent == "full" else ("all",)
    cases = [
        Case(kind, steps, training, threads)
        for threads in every
        for kind, steps in _SIZES
        for training in (True, False)
    ]
    return list(dict.fromkeys([*cases, Case(General, 512, training=True, threads="one")]))


def make_loop(attention: Attention) -> Attend:
    """Return attention step by step, from its definition: score the earlier steps, softmax, weighted sum."""

    def run(values: Tensor) -> Tensor:
        contexts = [values[:, 0]]  # the first step has no earlier ones, and attends to itself
        for step in range(1, values.shape[1]):
            earlier = values[:, :step]
            weights = attention.score(values[:, step : step + 1], earlier).softmax(-1)
            contexts.append((weights @ earlier).squeeze(1))
        return torch.stack(contexts, 1)

    return run


def make_masked(attention: Attention) -> Attend:
    """Return attention with all scores at once, those of later steps filled with minus infinity."""

    def run(values: Tensor) -> Tensor:
        steps = values.shape[1]
        earlier = torch.ones(steps, steps, dtype=torch.bool).tril(-1)
        earlier[0, 0] = True
        return attention.score(values, values).masked_fill(~earlier, -torch.inf).softmax(-1) @ values

    return run


def make_ours(attention: Attention) -> Attend:
    """Return the stage, including the conversions from and to padded tensors."""
    stage = AttendEarlier(attention)

    def run(values: Tensor) -> Tensor:
        return stage(States.from_padded(values, torch.full((len(values),), values.shape[1]))).padded().values

    return run


def measure(extent: Extent) -> Iterator[Result]:
    """Measure case by case."""
    rounds = Rounds(most=5, fewest=3, seconds=4.0) if extent == "quick" else Rounds()
    for case in list_cases(extent):
        with use_threads(case.threads) as threads:
            yield measure_case(case, threads, rounds)


def measure_case(case: Case, threads: int, rounds: Rounds, *, rows: int = ROWS, hidden: int = HIDDEN) -> Result:
    """Compare contexts and gradients of all candidates, then time them in interleaved rounds."""
    generator = torch.Generator().manual_seed(0)
    # Small values: scores of the general kind are sums over `hidden` products, and larger ones saturate the softmax,
    # whose gradients are then too small to compare.
    values = torch.randn(rows, case.steps, hidden, generator=generator).mul_(0.3).requires_grad_(case.training)
    torch.default_generator.manual_seed(0)
    attention = case.kind(hidden)
    candidates = {"ours": make_ours(attention), "loop": make_loop(attention)}
    if not case.too_large:
        candidates["masked"] = make_masked(attention)
    inputs = [values, *attention.parameters()]
    steps = {
        name: make_step(partial(attend, values), inputs, training=case.training) for name, attend in candidates.items()
    }
    check_equal({name: step() for name, step in steps.items()})
    times = time_interleaved(steps, rounds, time_first_runs(steps))
    notes = ["masked: not run, its scores would take gigabytes"] if case.too_large else []
    parameters: dict[str, Parameter] = {"score": case.score, "steps": case.steps, "training": case.training}
    parameters |= {"rows": rows, "hidden": hidden, "threads": case.threads}
    # After timing: the profiler that counts allocations slows a step down.
    memory = {name: measure_peak_bytes(step) for name, step in steps.items()}
    return Result("attend", str(case), threads, parameters, times, memory, notes=notes)


def tabulate(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per case."""
    headings = ("score and steps", "threads", "ours", "loop / ours", "masked / ours", "MiB: ours, loop, masked")
    note = f"{ROWS} rows of one length, hidden {HIDDEN}. Above 1, ours is faster. Memory is the peak of all tensors."
    return ReportTable("Attention over earlier steps", headings, [_make_cells(result) for result in results], [note])


def _make_cells(result: Result) -> list[str]:
    ratios = [result.time_ratio(name, "ours") for name in ("loop", "masked")]
    return [
        "; ".join([result.point, *result.notes]),
        str(result.threads),
        str(result.times["ours"]),
        *("" if ratio is None else str(ratio) for ratio in ratios),
        ", ".join(f"{peak / 2**20:.0f}" for peak in result.peak_bytes.values()),
    ]


ATTEND: Final = Measurement("attend", measure, tabulate, quick=True)
