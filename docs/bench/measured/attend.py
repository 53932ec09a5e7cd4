"""Attention over earlier steps, beside a loop over time and a softmax that is masked by hand.

Rows are all of one length: what padding costs is not measured here.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, TypeAlias

import attrs
import torch
from torch import Tensor

from bench.measured.measurement import Extent, Measurement
from bench.record.finding import Finding, Trait
from bench.record.sheet import Sheet
from bench.timing.alike import check_alike
from bench.timing.step import step_of
from bench.timing.threads import Threads, on_threads
from bench.timing.turns import Turns, by_turns, first_times
from pipeline import AttendEarlier, Attention, States
from pipeline.forecast.memory import measure_peak_bytes
from pipeline_attention import Additive, General

ROWS: Final = 16
HIDDEN: Final = 128

Way: TypeAlias = Callable[[Tensor], Tensor]
"""From states to contexts, both rows x time x hidden."""


@attrs.frozen
class Case:
    """What is measured at once."""

    kind: type[General | Additive]
    steps: int
    learning: bool
    threads: Threads = "all"

    def __str__(self) -> str:
        what = "training" if self.learning else "inference"
        return f"{self.score}, {self.steps:,} steps, {what}, {self.threads} thread{'s' * (self.threads == 'all')}"

    @property
    def score(self) -> str:
        """What the attention is called."""
        return self.kind.__name__.lower()

    @property
    def too_large(self) -> bool:
        """Whether all scores at once would take gigabytes."""
        return self.kind is Additive and self.steps >= 512


_SIZES: Final = ((General, 64), (General, 128), (General, 512), (General, 1_024), (Additive, 128), (Additive, 512))


def cases(extent: Extent) -> list[Case]:
    """Those that are measured."""
    if extent == "quick":
        return [Case(General, 128, learning) for learning in (True, False)]
    every: Sequence[Threads] = ("all", "one") if extent == "full" else ("all",)
    found = [Case(kind, steps, learning, n) for n in every for kind, steps in _SIZES for learning in (True, False)]
    return list(dict.fromkeys([*found, Case(General, 512, learning=True, threads="one")]))


def looped(attention: Attention) -> Way:
    """A step at a time, from the definition: what it asks, the scores of those before it, their softmax, their mix."""

    def run(values: Tensor) -> Tensor:
        contexts = [values[:, 0]]
        for step in range(1, values.shape[1]):
            earlier = values[:, :step]
            weights = attention.score(values[:, step : step + 1], earlier).softmax(-1)
            contexts.append((weights @ earlier).squeeze(1))
        return torch.stack(contexts, 1)

    return run


def masked(attention: Attention) -> Way:
    """All at once: a square of scores, the future filled with minus infinity."""

    def run(values: Tensor) -> Tensor:
        steps = values.shape[1]
        earlier = torch.ones(steps, steps, dtype=torch.bool).tril(-1)
        earlier[0, 0] = True
        return attention.score(values, values).masked_fill(~earlier, -torch.inf).softmax(-1) @ values

    return run


def ours(attention: Attention) -> Way:
    """The stage, states and all."""
    stage = AttendEarlier(attention)

    def run(values: Tensor) -> Tensor:
        return stage(States.from_padded(values, torch.full((len(values),), values.shape[1]))).padded().values

    return run


def find(extent: Extent) -> Iterator[Finding]:
    """Every case, one after the other."""
    turns = Turns(most=5, fewest=3, seconds=4.0) if extent == "quick" else Turns()
    for case in cases(extent):
        with on_threads(case.threads) as threads:
            yield measured(case, threads, turns)


def measured(case: Case, threads: int, turns: Turns, *, rows: int = ROWS, hidden: int = HIDDEN) -> Finding:
    """One case: contexts and gradients are compared, then all take turns."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(rows, case.steps, hidden, generator=generator).mul_(0.3).requires_grad_(case.learning)
    torch.default_generator.manual_seed(0)
    attention = case.kind(hidden)
    ways = {"ours": ours(attention), "loop": looped(attention)}
    if not case.too_large:
        ways["masked"] = masked(attention)
    wanted = [values, *attention.parameters()]
    steps = {name: step_of(partial(way, values), wanted, learning=case.learning) for name, way in ways.items()}
    check_alike({name: step() for name, step in steps.items()})
    times = by_turns(steps, turns, first_times(steps))
    notes = ["masked: not run, its scores would take gigabytes"] if case.too_large else []
    traits: dict[str, Trait] = {"score": case.score, "steps": case.steps, "learning": case.learning}
    traits |= {"rows": rows, "hidden": hidden, "threads": case.threads}
    memory = {name: measure_peak_bytes(step) for name, step in steps.items()}
    return Finding("attend", str(case), threads, traits, times, memory, notes=notes)


def sheet(findings: Sequence[Finding]) -> Sheet:
    """A row a case."""
    headings = ("score and steps", "threads", "ours", "loop over ours", "masked over ours", "MiB: ours, loop, masked")
    notes = (f"{ROWS} rows of one length at hidden {HIDDEN}. Above 1, ours is faster. Memory is the peak of tensors.",)
    return Sheet("Attention over earlier steps", headings, [_cells(finding) for finding in findings], notes)


def _cells(finding: Finding) -> list[str]:
    ratios = [finding.ratio(name, "ours") for name in ("loop", "masked")]
    return [
        "; ".join([finding.point, *finding.notes]),
        str(finding.threads),
        str(finding.times["ours"]),
        *("" if ratio is None else str(ratio) for ratio in ratios),
        ", ".join(f"{held / 2**20:.0f}" for held in finding.bytes.values()),
    ]


ATTEND: Final = Measurement("attend", find, sheet, quick=True)
