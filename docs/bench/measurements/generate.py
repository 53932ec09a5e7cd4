"""Greedy generation token by token, beside a loop that runs the whole past again for each token."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias, cast

import attrs
import torch
from torch import Tensor

from bench.record import Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import Rounds, Threads, describe_threads, time_first_runs, time_interleaved, use_threads
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
from pipeline_recurrent import LSTM

TOKENS: Final = 5_000
PROMPT: Final = 8

Model: TypeAlias = Chain[Padded[Ids], StepScores[int]]

Generate: TypeAlias = Callable[[], tuple[Tensor, ...]]
"""Returns the drawn tokens, rows x tokens."""


@attrs.frozen
class Case:
    """Prompts of 8 tokens, and the number of tokens after each.

    Example:
        >>> str(Case(16, 200, attends=True))
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


def list_cases(extent: Extent) -> list[Case]:
    """List the cases of an extent."""
    if extent == "quick":
        return [Case(16, 50, attends=False)]
    sizes = [(1, 200), (16, 50), (16, 200)]
    return [Case(rows, count, attends) for rows, count in sizes for attends in (False, True)]


def make_model(case: Case) -> Model:
    """Make a model with random weights, in evaluation mode."""
    torch.default_generator.manual_seed(0)
    if case.attends:
        return language_model(TOKENS, embedding_dim=case.hidden, hidden_size=case.hidden).eval()
    states = Pack() >> Embed(TOKENS, case.hidden) >> Encode(LSTM(case.hidden, case.hidden))
    return (states >> NextToken(TOKENS)).eval()


def make_ours(model: Model, prompts: Tensor, case: Case) -> Generate:
    """Return `generate`."""
    pipe = FromIds() >> Bucket(rows=case.rows) >> Pad() >> model
    pipe.eval()

    def run() -> tuple[Tensor, ...]:
        found = pipe.generate(list(prompts), max_new_tokens=case.new_tokens, temperature=0, batch_size=case.rows)
        return (torch.tensor(list(found)),)

    return run


def make_whole(model: Model, prompts: Tensor, case: Case) -> Generate:
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


def measure(extent: Extent) -> Iterator[Result]:
    """Measure case by case."""
    rounds = Rounds(most=5, fewest=3, seconds=4.0) if extent == "quick" else Rounds()
    for case in list_cases(extent):
        with use_threads(case.threads) as threads:
            yield measure_case(case, threads, rounds)


def measure_case(case: Case, threads: int, rounds: Rounds) -> Result:
    """Compare the scores of the first tokens, then time both in interleaved rounds."""
    model = make_model(case)
    prompts = torch.randint(0, TOKENS, (case.rows, PROMPT), generator=torch.Generator().manual_seed(0))
    steps = {"ours": make_ours(model, prompts, case), "whole past": make_whole(model, prompts, case)}
    # Tokens, not scores, so rounding may change one. With random weights the best token is far from the second best.
    (ours,), (whole,) = steps["ours"](), steps["whole past"]()
    notes = [] if torch.equal(ours, whole) else [f"{float((ours == whole).double().mean()):.1%} of tokens equal"]
    times = time_interleaved(steps, rounds, time_first_runs(steps))
    return Result("generate", str(case), threads, attrs.asdict(case), times, notes=notes)


def tabulate(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per case."""
    headings = ("generation", "threads", "ours", "whole past", "whole past / ours")
    note = f"Greedy, {TOKENS:,} tokens, hidden 256, prompts of {PROMPT} tokens. Above 1, ours is faster."
    return ReportTable("Generation", headings, [_make_cells(result) for result in results], [note])


def _make_cells(result: Result) -> list[str]:
    ratio = result.time_ratio("whole past", "ours")
    times = [str(result.times[name]) for name in ("ours", "whole past")]
    return ["; ".join([result.point, *result.notes]), str(result.threads), *times, "" if ratio is None else str(ratio)]


GENERATE: Final = Measurement("generate", measure, tabulate)
