"""The loss of a linear-chain CRF with its gradients, and best paths, beside a vectorized padded implementation.

The padded one is written like pytorch-crf: a loop over time in which all rows take part, and a mask of the real steps.
"""

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

import attrs
import torch
from torch import Tensor

from bench.record import Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import Rounds, Step, check_equal, describe_threads, time_first_runs, time_interleaved, use_threads
from pipeline.extend import BatchMetadata, PackingOrder
from pipeline_heads import PathScores
from pipeline_heads.native_chains import explain_unavailable

PADDED: Final = "padded"
PLAIN: Final = "plain"
COMPILED: Final = "compiled"

_SWITCH: Final = "PIPELINE_NATIVE"


@attrs.frozen
class Case:
    """A batch, and what is computed of it."""

    training: bool
    rows: int = 64
    mean_length: int = 20
    classes: int = 17

    def __str__(self) -> str:
        task = "loss and gradients" if self.training else "best paths"
        return f"{task}, {self.rows} rows x ~{self.mean_length}, {self.classes} tags, {describe_threads('one')}"


@attrs.frozen
class Inputs:
    """Scores and targets of a batch, padded."""

    emissions: Tensor
    transitions: Tensor
    start: Tensor
    end: Tensor
    targets: Tensor
    lengths: Tensor

    @classmethod
    def draw(cls, case: Case) -> "Inputs":
        """Draw the lengths around the mean, and everything else."""
        generator = torch.Generator().manual_seed(0)
        lengths = torch.randint(1, 2 * case.mean_length, (case.rows,), generator=generator)
        width, classes = int(lengths.max()), case.classes
        shapes = ((case.rows, width, classes), (classes, classes), (classes,), (classes,))
        emissions, *weights = (torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)
        targets = torch.randint(classes, (case.rows, width), generator=generator)
        transitions, start, end = weights
        return cls(emissions, transitions, start, end, targets, lengths)

    @property
    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """The weights of the CRF."""
        return self.transitions, self.start, self.end


def sum_padded(inputs: Inputs) -> Tensor:
    """Return the mean loss per step."""
    mask = torch.arange(inputs.emissions.shape[1]) < inputs.lengths.unsqueeze(1)
    emissions, targets, mask = inputs.emissions.transpose(0, 1), inputs.targets.t(), mask.t()
    rows = torch.arange(emissions.shape[1])
    score = inputs.start[targets[0]] + emissions[0, rows, targets[0]]
    alpha = inputs.start + emissions[0]
    for time in range(1, len(emissions)):
        step = inputs.transitions[targets[time - 1], targets[time]] + emissions[time, rows, targets[time]]
        score = score + step * mask[time]
        paths = alpha.unsqueeze(2) + inputs.transitions + emissions[time].unsqueeze(1)
        alpha = torch.where(mask[time].unsqueeze(1), paths.logsumexp(1), alpha)
    score = score + inputs.end[targets[inputs.lengths - 1, rows]]
    return ((alpha + inputs.end).logsumexp(1) - score).sum() / mask.sum()


def decode_padded(inputs: Inputs) -> Tensor:
    """Return the best class of each step, and zeros in the padding."""
    mask = torch.arange(inputs.emissions.shape[1]) < inputs.lengths.unsqueeze(1)
    emissions, mask = inputs.emissions.transpose(0, 1), mask.t()
    scores = inputs.start + emissions[0]
    # Past the end of a row, a class comes from itself.
    itself = torch.arange(len(inputs.end)).expand_as(scores)
    origins: list[Tensor] = []
    for time in range(1, len(emissions)):
        best, origin = (scores.unsqueeze(2) + inputs.transitions).max(1)
        is_step = mask[time].unsqueeze(1)
        scores = torch.where(is_step, best + emissions[time], scores)
        origins.append(torch.where(is_step, origin, itself))
    tags = [(scores + inputs.end).argmax(1)]
    for origin in reversed(origins):
        tags.append(origin.gather(1, tags[-1].unsqueeze(1)).squeeze(1))
    return torch.stack(tags[::-1]).masked_fill(~mask, 0).t()


def make_steps(case: Case) -> dict[str, Step]:
    """Return a step per candidate, all of which return equal numbers."""
    inputs = Inputs.draw(case)
    order = PackingOrder(inputs.lengths)
    packed = inputs.emissions.detach().flatten(0, 1)[order.flat_indices(inputs.emissions.shape[1])].requires_grad_()
    metadata = BatchMetadata(torch.arange(case.rows), targets=inputs.targets)

    def make_scores() -> PathScores[int]:
        # A new order for each step, as each batch has one.
        return PathScores(
            packed,
            inputs.lengths,
            range(case.classes),
            metadata=metadata,
            order=PackingOrder(inputs.lengths),
            transitions=inputs.transitions,
            start=inputs.start,
            end=inputs.end,
        )

    def train(compute: Callable[[], Tensor], leaf: Tensor) -> tuple[Tensor, ...]:
        loss = compute()
        _, *grads = torch.autograd.grad(loss, (leaf, *inputs.weights))
        return loss.detach(), *grads

    def decode_ours() -> tuple[Tensor, ...]:
        scores = make_scores()
        places = scores.order.flat_indices(width)
        return (torch.zeros_like(inputs.targets).flatten().index_copy(0, places, scores.best),)

    width = inputs.emissions.shape[1]

    def decode_theirs() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (decode_padded(inputs).flatten(),)

    if case.training:
        theirs: Step = partial(train, partial(sum_padded, inputs), inputs.emissions)
        ours: Step = partial(train, lambda: make_scores().loss(), packed)
    else:
        theirs, ours = decode_theirs, decode_ours

    def run_plain() -> tuple[Tensor, ...]:
        with switch_off():
            return ours()

    steps: dict[str, Step] = {PADDED: theirs, PLAIN: run_plain}
    if explain_unavailable() is None:
        steps[COMPILED] = ours
    return steps


@contextmanager
def switch_off() -> Generator[None]:
    """Switch compiled kernels off."""
    before = os.environ.get(_SWITCH)
    os.environ[_SWITCH] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SWITCH]
        else:
            os.environ[_SWITCH] = before


def list_cases(extent: Extent) -> list[Case]:
    """List the cases of an extent."""
    cases = [Case(training=True), Case(training=False)]
    if extent == "quick":
        return cases
    return [*cases, *(Case(training, mean_length=200) for training in (True, False))]


def measure(extent: Extent) -> Iterator[Result]:
    """Measure case by case."""
    rounds = Rounds(most=5, fewest=3, seconds=4.0) if extent == "quick" else Rounds()
    for case in list_cases(extent):
        with use_threads("one") as threads:
            yield measure_case(case, threads, rounds)


def measure_case(case: Case, threads: int, rounds: Rounds) -> Result:
    """Compare the results of all candidates, then time them in interleaved rounds."""
    steps = make_steps(case)
    check_equal({name: step() for name, step in steps.items()})
    times = time_interleaved(steps, rounds, time_first_runs(steps))
    reason = explain_unavailable()
    notes = [] if reason is None else [f"compiled: {reason}"]
    return Result("crf", str(case), threads, attrs.asdict(case), times, notes=notes)


def tabulate(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per case."""
    headings = ("task", "compiled", "plain", "padded / compiled", "padded / plain")
    note = "Padded: like pytorch-crf, with autograd. Above 1, ours is faster."
    return ReportTable("Linear-chain CRF", headings, [_make_cells(result) for result in results], [note])


def _make_cells(result: Result) -> list[str]:
    ratios = [result.time_ratio(PADDED, name) for name in (COMPILED, PLAIN)]
    times = [str(result.times[name]) if name in result.times else "" for name in (COMPILED, PLAIN)]
    return ["; ".join([result.point, *result.notes]), *times, *("" if each is None else str(each) for each in ratios)]


CRF: Final = Measurement("crf", measure, tabulate, quick=True)
