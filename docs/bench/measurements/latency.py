"""The latency of one request to a whole classifier, from a list of ids to a class: median and 99th percentile.

Beside ours is the same classifier written in torch: embed, pack, LSTM, unpack, mask, maximum over time, linear layer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, TypeAlias, cast, get_args

import attrs
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from bench.errors import MismatchError
from bench.record import Parameter, Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import Rounds, Threads, describe_threads, time_first_runs, time_interleaved, use_threads
from pipeline import Bucket, FromIds, Pad, Scores, StreamChain, classifier, set_checks
from pipeline.extend import Precision

CLASSES: Final = 6

PLAIN, OURS, UNCHECKED = "plain torch", "predict", "predict, without checks"
"""Candidates beside the precisions of `for_inference`."""

Request: TypeAlias = Callable[[], int]
"""Returns the predicted class."""


@attrs.frozen
class Case:
    """One row of ids.

    Example:
        >>> str(Case(20, 128))
        'classifier, one row of 20 ids, hidden 128, one thread'
    """

    steps: int
    hidden: int
    features: int = 100
    threads: Threads = "one"
    words: int = 5_000

    def __str__(self) -> str:
        return f"classifier, one row of {self.steps} ids, hidden {self.hidden}, {describe_threads(self.threads)}"

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The attributes by name."""
        return attrs.asdict(self)


CASES: Final = (Case(20, 128), Case(20, 128, threads="all"), Case(5, 32, features=32), Case(200, 128))


class PlainClassifier(nn.Module):
    """The classifier written in torch."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.embed = nn.Embedding(case.words, case.features)
        self.lstm = nn.LSTM(case.features, case.hidden, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * case.hidden, CLASSES)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return the scores of a batch."""
        rows = pack_padded_sequence(self.embed(ids), lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(cast("tuple[PackedSequence, object]", self.lstm(rows))[0], batch_first=True)
        padding = torch.arange(states.shape[1]) >= lengths.unsqueeze(1)
        pooled = states.masked_fill(padding.unsqueeze(2), -torch.inf).amax(1)
        return cast("Tensor", self.linear(pooled))


def make_pipe(plain: PlainClassifier, case: Case) -> StreamChain[Sequence[int], Scores[int]]:
    """Return the same classifier in stages, with the weights of the plain one."""
    model = classifier(case.words, CLASSES, embedding_dim=case.features, hidden_size=case.hidden)
    names = {"embed": "embed", "lstm": "encode.encoder.rnn", "linear": "classify.linear"}
    keys = ((key.partition("."), weight) for key, weight in plain.state_dict().items())
    model.load_state_dict({f"{names[part]}.{rest}": weight for (part, _, rest), weight in keys})
    return (FromIds() >> Bucket(rows=32) >> Pad() >> model).eval()


def measure(extent: Extent) -> Iterator[Result]:
    """Measure case by case."""
    for case in CASES[:1] if extent == "quick" else CASES:
        with use_threads(case.threads) as threads:
            yield measure_case(case, threads, Rounds(most=1_000, fewest=100, seconds=4.0))


def measure_case(case: Case, threads: int, rounds: Rounds) -> Result:
    """Compare the predictions of the candidates, then time them in interleaved rounds.

    Raises:
        MismatchError: if ours in float32 predicts another class than the plain model.
    """
    torch.default_generator.manual_seed(0)
    plain = PlainClassifier(case).eval()
    pipe = make_pipe(plain, case)
    rows = [[(7 * row + 3 * step) % case.words for step in range(case.steps)] for row in range(20)]
    predict: dict[str, Callable[[Sequence[int]], int]] = {PLAIN: partial(_predict_plain, plain)}
    predict |= {OURS: partial(_predict_ours, pipe), UNCHECKED: partial(_predict_unchecked, pipe)}
    predict |= {each: partial(_predict_ours, pipe.for_inference(precision=each)) for each in get_args(Precision)}
    for name in (OURS, UNCHECKED, "float32"):
        for row in rows:
            if predict[name](row) != predict[PLAIN](row):
                msg = f"{name!r} must predict as {PLAIN!r}, but differs on {row}; correct it before timing it."
                raise MismatchError(msg)
    requests: Mapping[str, Request] = {name: partial(run, rows[0]) for name, run in predict.items()}
    times = time_interleaved(requests, rounds, time_first_runs(requests))
    return Result("latency", str(case), threads, case.parameters, times)


@torch.inference_mode()
def _predict_plain(model: PlainClassifier, row: Sequence[int]) -> int:
    return int(model(torch.tensor([row]), torch.tensor([len(row)])).argmax())


def _predict_ours(pipe: StreamChain[Sequence[int], Scores[int]], row: Sequence[int]) -> int:
    return next(pipe.predict([row]))


def _predict_unchecked(pipe: StreamChain[Sequence[int], Scores[int]], row: Sequence[int]) -> int:
    with set_checks(False):
        return _predict_ours(pipe, row)


def tabulate(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per case."""
    names = (PLAIN, OURS, UNCHECKED, *get_args(Precision))
    headings = ("request", "threads", *(f"{name}: p50, p99" for name in names), "plain / float32")
    note = "Milliseconds from a list of ids to a class. The precisions are those of for_inference."
    return ReportTable("Latency of a request", headings, [_make_cells(result, names) for result in results], [note])


def _make_cells(result: Result, names: Sequence[str]) -> list[str]:
    quantiles = [result.times[name].quantile for name in names]
    cells = [f"{1e3 * quantile(0.5):.3f}, {1e3 * quantile(0.99):.3f}" for quantile in quantiles]
    return [result.point, str(result.threads), *cells, str(result.time_ratio(PLAIN, "float32"))]


LATENCY: Final = Measurement("latency", measure, tabulate, quick=True)
