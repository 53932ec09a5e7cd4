"""The same bits for a row in every batch: how many rows have them, and what `deterministic=True` costs."""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

import attrs
import torch
from torch import Tensor

from bench.encoders.points import draw_lengths, to_ints
from bench.record import Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import Rounds, time_first_runs, time_interleaved
from pipeline import Chain, Ids, Padded, Scores, classifier

MODES: Final = ("ordinary", "for_inference", "deterministic")
"""The model as it is, after `for_inference()`, and after `for_inference(deterministic=True)`."""

_WORDS: Final = 2_000
_ROWS: Final = 256
_MAX_THREADS: Final = 4

Model = Chain[Padded[Ids], Scores[int]]


@attrs.frozen
class Sizes:
    """The number of random batches, and the hidden size."""

    batches: int
    hidden: int = 64

    def __str__(self) -> str:
        return f"classifier, hidden {self.hidden}, {self.batches:,} random batches, 1 to {_MAX_THREADS} threads"


def measure(extent: Extent) -> Iterator[Result]:
    """Measure with more or fewer batches."""
    yield measure_sizes(Sizes({"quick": 300, "default": 2_000, "full": 10_000}[extent]), Rounds(most=25, seconds=4.0))


def measure_sizes(sizes: Sizes, rounds: Rounds) -> Result:
    """Count the rows with the same bits as alone, in batches of random rows in random order; then time a batch."""
    torch.default_generator.manual_seed(0)
    model = classifier(_WORDS, 6, hidden_size=sizes.hidden).eval()
    models: dict[str, Model] = {
        "ordinary": model,
        "for_inference": model.for_inference(),
        "deterministic": model.for_inference(deterministic=True),
    }
    generator = random.Random(0)
    rows = [torch.tensor([generator.randrange(_WORDS) for _ in range(n)]) for n in to_ints(draw_lengths("~20", _ROWS))]
    counts = {f"{name}, same bits": _count_equal(each, rows, sizes.batches) for name, each in models.items()}
    batch = [generator.choice(rows) for _ in range(32)]
    steps: dict[str, Callable[[], object]] = {name: partial(_score, each, batch) for name, each in models.items()}
    times = time_interleaved(steps, rounds, time_first_runs(steps))
    return Result("invariance", str(sizes), torch.get_num_threads(), attrs.asdict(sizes), times, counts=counts)


def _count_equal(model: Model, rows: Sequence[Tensor], batches: int) -> float:
    """Return the share of rows whose scores have the same bits as those of the row alone."""
    generator, before, equal, total = random.Random(1), torch.get_num_threads(), 0, 0
    alone = [_score(model, [row])[0] for row in rows]
    try:
        for number in range(batches):
            torch.set_num_threads(number % _MAX_THREADS + 1)
            chosen = [generator.randrange(len(rows)) for _ in range(generator.choice((2, 3, 4, 8, 32)))]
            scores = _score(model, [rows[index] for index in chosen])
            equal += int((scores == torch.stack([alone[index] for index in chosen])).all(1).sum())
            total += len(chosen)
    finally:
        torch.set_num_threads(before)
    return equal / total


@torch.inference_mode()
def _score(model: Model, rows: Sequence[Tensor]) -> Tensor:
    """Return the scores of a batch."""
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.nn.utils.rnn.pad_sequence([*rows], batch_first=True)
    return model(Padded(Ids, padded, lengths)).values


def tabulate(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per mode."""
    headings = ("batches", "model", "rows with the same bits as alone", "time of a batch of 32", "over for_inference")
    rows = [cells for result in results for cells in _make_rows(result)]
    return ReportTable("The same bits in every batch", headings, rows)


def _make_rows(result: Result) -> Iterator[list[str]]:
    for name in MODES:
        share = f"{result.counts[f'{name}, same bits']:.2%}"
        yield [result.point, name, share, str(result.times[name]), str(result.time_ratio(name, "for_inference"))]


INVARIANCE: Final = Measurement("invariance", measure, tabulate, quick=True)
