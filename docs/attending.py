"""Measure attention over earlier steps: time and memory, beside a loop over time and a softmax that is masked by hand.

Run it with `nox -s bench -- attending`. All take turns in one process, and their contexts and gradients are asserted
equal. Rows are all of one length: what padding costs is not measured here. `docs/cases.md` quotes the table.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from operator import attrgetter, methodcaller
from typing import TypeAlias

import attrs
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from pipeline import AttendEarlier, Attention, States
from pipeline_attention import Additive, General

ROWS, HIDDEN, TURNS, LONG_TURNS = 16, 128, 15, 3
POINTS: Sequence[tuple[type[General | Additive], int]] = (
    (General, 64),
    (General, 128),
    (General, 512),
    (General, 1_024),
    (Additive, 64),
    (Additive, 128),
    (Additive, 512),
)

Run: TypeAlias = Callable[[Tensor], Tensor]


def looped(attention: Attention) -> Run:
    """A step at a time, from the definition: what it asks, the scores of those before it, their softmax, their mix."""

    def run(values: Tensor) -> Tensor:
        contexts = [values[:, 0]]
        for step in range(1, values.shape[1]):
            earlier = values[:, :step]
            weights = attention.score(values[:, step : step + 1], earlier).softmax(-1)
            contexts.append((weights @ earlier).squeeze(1))
        return torch.stack(contexts, 1)

    return run


def masked(attention: Attention) -> Run:
    """All at once: a square of scores, the future filled with minus infinity."""

    def run(values: Tensor) -> Tensor:
        steps = values.shape[1]
        earlier = torch.ones(steps, steps, dtype=torch.bool).tril(-1)
        earlier[0, 0] = True
        return attention.score(values, values).masked_fill(~earlier, -torch.inf).softmax(-1) @ values

    return run


def ours(attention: Attention) -> Run:
    """The stage, states and all."""
    stage = AttendEarlier(attention)

    def run(values: Tensor) -> Tensor:
        return stage(States.from_padded(values, torch.full((ROWS,), values.shape[1]))).padded().values

    return run


def trained(run: Run, values: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """One step of training: contexts, and the gradients of all."""
    contexts = run(values)
    return contexts, *torch.autograd.grad(contexts.square().sum(), [values, *weights])


def inferred(run: Run, values: Tensor) -> Tensor:
    """Contexts alone."""
    with torch.no_grad():
        return run(values)


def seconds(run: Callable[[], object]) -> float:
    """How long one run takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


_allocations: Callable[[object], list[object]] = methodcaller("events")
_kind: Callable[[object], str] = methodcaller("name")
_bytes: Callable[[object], int] = methodcaller("nbytes")


def peak(run: Callable[[], object]) -> int:
    """How many bytes of tensors there are at once while something runs, beside those that were there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    held = most = 0
    # Of the profiler's own records: its tables tell what an operation took, not what there was at once.
    for event in _allocations(attrgetter("profiler.kineto_results")(profiled)):
        if _kind(event) == "[memory]":
            held += _bytes(event)
            most = max(most, held)
    return most


@attrs.frozen
class Measured:
    """A way's times and peak."""

    seconds: list[float]
    bytes: int

    def spread(self) -> str:
        """The median, and the quartiles."""
        low, middle, high = (1e3 * each for each in statistics.quantiles(self.seconds, n=4))
        return f"{middle:.3g} ms ({low:.3g} to {high:.3g}), {self.bytes / 2**20:.0f} MiB"


def measured(ways: Sequence[Callable[[], object]], turns: int) -> list[Measured]:
    """All ways, by turns."""
    peaks = [peak(way) for way in ways]
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(turns):
        for kept, way in zip(times, ways, strict=True):
            kept.append(seconds(way))
    return [Measured(kept, most) for kept, most in zip(times, peaks, strict=True)]


def over(one: Measured, other: Measured) -> str:
    """How many times as long one takes as the other, turn by turn, with quartiles."""
    ratios = [slow / fast for slow, fast in zip(one.seconds, other.seconds, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def rows(kind: type[General | Additive], steps: int) -> list[list[str]]:
    """Two rows of the table: training and inference."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(ROWS, steps, HIDDEN, generator=generator).mul_(0.3).requires_grad_()
    attention = kind(HIDDEN)
    weights = list(attention.parameters())
    runs = [make(attention) for make in (ours, looped, *([] if _too_large(kind, steps) else [masked]))]
    wanted, *others = [trained(run, values, weights) for run in runs]
    for other in others:
        torch.testing.assert_close(other, wanted, rtol=1e-3, atol=1e-3)
    turns = LONG_TURNS if steps >= 512 else TURNS
    found: list[list[str]] = []
    for what in ("training", "inference"):
        ways = [_way(what, run, values, weights) for run in runs]
        mine, loop, *mask = measured(ways, turns)
        ratios = [over(loop, mine), *(over(each, mine) for each in mask)]
        spreads = [mine.spread(), loop.spread(), mask[0].spread() if mask else "not run: 6 GB"]
        found.append([f"{kind.__name__.lower()}, {steps}, {what}", *spreads, *ratios])
    return found


def _too_large(kind: type[General | Additive], steps: int) -> bool:
    """Whether all scores at once would take gigabytes."""
    return kind is Additive and steps >= 512


def _way(what: str, run: Run, values: Tensor, weights: Sequence[Tensor]) -> Callable[[], object]:
    if what == "training":
        return lambda: trained(run, values, weights)
    return lambda: inferred(run, values)


def main() -> None:
    """Measure, and print the table."""
    table = Table("score, steps", "ours", "loop", "masked by hand", "loop over ours", "masked over ours")
    for kind, steps in POINTS:
        for row in rows(kind, steps):
            table.add_row(*row)
    console = Console(width=200)
    console.print(table)
    console.print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {ROWS} rows at hidden {HIDDEN}; medians, with "
        f"quartiles of {TURNS} turns ({LONG_TURNS} from 512 steps on), and the peak of tensors"
    )


if __name__ == "__main__":
    main()
