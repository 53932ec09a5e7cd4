"""Heads: a linear-chain CRF beside a padded implementation, and generation beside a loop that runs the whole past.

The padded CRF is vectorized, and written like pytorch-crf: a loop over time in which all rows take part, and a mask of
the real steps. Generation is greedy, token by token; the loop runs the whole past again for each token.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, TypeAlias, cast

import attrs
import torch
from torch import Tensor

from bench.encoders.candidates import disable_native
from bench.record import Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import Rounds, Step, Threads, check_equal, describe_threads, time_interleaved, use_threads
from pipeline import (
    Bucket,
    Chain,
    Embed,
    Encode,
    FromIds,
    Ids,
    NextToken,
    Pack,
    Pad,
    Padded,
    States,
    StepScores,
    language_model,
)
from pipeline.extend import BatchMetadata, PackingOrder
from pipeline_heads import PathScores
from pipeline_heads.native_chains import explain_unavailable
from pipeline_recurrent import LSTM

PADDED: Final = "padded"
PLAIN: Final = "plain"
COMPILED: Final = "compiled"


@attrs.frozen
class PathsCase:
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
    def draw(cls, case: PathsCase) -> "Inputs":
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


def make_paths_steps(case: PathsCase) -> dict[str, Step]:
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
        with disable_native():
            return ours()

    steps: dict[str, Step] = {PADDED: theirs, PLAIN: run_plain}
    if explain_unavailable() is None:
        steps[COMPILED] = ours
    return steps


def list_paths_cases(extent: Extent) -> list[PathsCase]:
    """List the cases of an extent."""
    cases = [PathsCase(training=True), PathsCase(training=False)]
    if extent == "quick":
        return cases
    return [*cases, *(PathsCase(training, mean_length=200) for training in (True, False))]


def measure_crf(extent: Extent) -> Iterator[Result]:
    """Measure case by case."""
    rounds = Rounds(most=5, fewest=3, seconds=4.0) if extent == "quick" else Rounds()
    for case in list_paths_cases(extent):
        with use_threads("one") as threads:
            yield measure_paths(case, threads, rounds)


def measure_paths(case: PathsCase, threads: int, rounds: Rounds) -> Result:
    """Compare the results of all candidates, then time them in interleaved rounds."""
    steps = make_paths_steps(case)
    check_equal({name: step() for name, step in steps.items()})
    times = time_interleaved(steps, rounds)
    reason = explain_unavailable()
    notes = [] if reason is None else [f"compiled: {reason}"]
    return Result("crf", str(case), threads, attrs.asdict(case), times, notes=notes)


def tabulate_crf(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per case."""
    headings = ("task", "compiled", "plain", "padded / compiled", "padded / plain")
    note = "Padded: like pytorch-crf, with autograd. Above 1, ours is faster."
    return ReportTable("Linear-chain CRF", headings, [_make_crf_cells(result) for result in results], [note])


def _make_crf_cells(result: Result) -> list[str]:
    ratios = [result.format_ratio(PADDED, name) for name in (COMPILED, PLAIN)]
    times = [str(result.times[name]) if name in result.times else "" for name in (COMPILED, PLAIN)]
    return ["; ".join([result.point, *result.notes]), *times, *ratios]


CRF: Final = Measurement("crf", measure_crf, tabulate_crf, quick=True)


TOKENS: Final = 5_000
PROMPT: Final = 8

Model: TypeAlias = Chain[Padded[Ids], StepScores[int]]

Generate: TypeAlias = Callable[[], tuple[Tensor, ...]]
"""Returns the drawn tokens, rows x tokens."""


@attrs.frozen
class GenerateCase:
    """Prompts of 8 tokens, and the number of tokens after each.

    Example:
        >>> str(GenerateCase(16, 200, attends=True))
        '16 prompts, 200 new tokens each, LSTM and attention, all threads'
    """

    rows: int
    new_tokens: int
    attends: bool
    threads: Threads = "all"
    hidden: int = 256

    def __str__(self) -> str:
        model = "LSTM and attention" if self.attends else "LSTM"
        threads = describe_threads(self.threads)
        return f"{self.rows} prompts, {self.new_tokens} new tokens each, {model}, {threads}"


def list_generate_cases(extent: Extent) -> list[GenerateCase]:
    """List the cases of an extent."""
    if extent == "quick":
        return [GenerateCase(16, 50, attends=False)]
    sizes = [(1, 200), (16, 50), (16, 200)]
    return [GenerateCase(rows, count, attends) for rows, count in sizes for attends in (False, True)]


def make_language_model(case: GenerateCase) -> Model:
    """Make a model with random weights, in evaluation mode."""
    torch.default_generator.manual_seed(0)
    if case.attends:
        return language_model(TOKENS, embedding_dim=case.hidden, hidden_size=case.hidden).eval()
    states = Pack() >> Embed(TOKENS, case.hidden) >> Encode(LSTM(case.hidden, case.hidden))
    return (states >> NextToken(TOKENS)).eval()


def make_ours(model: Model, prompts: Tensor, case: GenerateCase) -> Generate:
    """Return `generate`."""
    pipe = FromIds() >> Bucket(rows=case.rows) >> Pad() >> model
    pipe.eval()

    def run() -> tuple[Tensor, ...]:
        found = pipe.generate(list(prompts), max_new_tokens=case.new_tokens, temperature=0, batch_size=case.rows)
        return (torch.tensor(list(found)),)

    return run


def make_whole(model: Model, prompts: Tensor, case: GenerateCase) -> Generate:
    """Return a loop that runs the model on all tokens so far; its head sees the last step only, as ours."""
    *before, head = model.stages.values()
    assert isinstance(head, NextToken)

    def run() -> tuple[Tensor, ...]:
        ids = prompts
        with torch.inference_mode():
            for _ in range(case.new_tokens):
                value: object = Padded(Ids, ids, torch.full((len(ids),), ids.shape[1]))
                for stage in before:
                    value = cast("Callable[[object], object]", stage)(value)
                assert isinstance(value, States)
                last = cast("States", value).packed().values[-len(ids) :]
                ids = torch.cat([ids, head.compute_outputs(last).argmax(1, keepdim=True)], 1)
        return (ids[:, prompts.shape[1] :],)

    return run


def measure_generate(extent: Extent) -> Iterator[Result]:
    """Measure case by case."""
    rounds = Rounds(most=5, fewest=3, seconds=4.0) if extent == "quick" else Rounds()
    for case in list_generate_cases(extent):
        with use_threads(case.threads) as threads:
            yield measure_generation(case, threads, rounds)


def measure_generation(case: GenerateCase, threads: int, rounds: Rounds) -> Result:
    """Compare the scores of the first tokens, then time both in interleaved rounds."""
    model = make_language_model(case)
    prompts = torch.randint(0, TOKENS, (case.rows, PROMPT), generator=torch.Generator().manual_seed(0))
    steps = {"ours": make_ours(model, prompts, case), "whole past": make_whole(model, prompts, case)}
    # Tokens, not scores, so rounding may change one. With random weights the best token is far from the second best.
    (ours,), (whole,) = steps["ours"](), steps["whole past"]()
    notes = [] if torch.equal(ours, whole) else [f"{float((ours == whole).double().mean()):.1%} of tokens equal"]
    times = time_interleaved(steps, rounds)
    return Result("generate", str(case), threads, attrs.asdict(case), times, notes=notes)


def tabulate_generate(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per case."""
    headings = ("generation", "threads", "ours", "whole past", "whole past / ours")
    note = f"Greedy, {TOKENS:,} tokens, hidden 256, prompts of {PROMPT} tokens. Above 1, ours is faster."
    return ReportTable("Generation", headings, [_make_generate_cells(result) for result in results], [note])


def _make_generate_cells(result: Result) -> list[str]:
    ratio = result.format_ratio("whole past", "ours")
    times = [str(result.times[name]) for name in ("ours", "whole past")]
    return ["; ".join([result.point, *result.notes]), str(result.threads), *times, ratio]


GENERATE: Final = Measurement("generate", measure_generate, tabulate_generate)
