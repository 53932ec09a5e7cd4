"""Whole models in inference: the latency of a request, the same bits for a row in every batch, and exported models.

Latency is measured from a list of ids to a class, beside the same classifier written in torch. The same bits: how many
rows have them, and what `deterministic=True` costs. An exported model runs in onnxruntime, beside the model itself.
"""

import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias, get_args

import attrs
import torch
from torch import Tensor

from bench.encoders.by_hand import PlainClassifier, load_classifier
from bench.encoders.candidates import disable_native
from bench.encoders.points import draw_lengths, to_ints
from bench.record import WITH_NATIVE, WITHOUT_NATIVE, Parameter, Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import (
    MismatchError,
    Rounds,
    Threads,
    describe_threads,
    time_interleaved,
    use_threads,
)
from pipeline import (
    Bucket,
    Chain,
    FromIds,
    Ids,
    Pad,
    Padded,
    Scores,
    StreamChain,
    classifier,
    language_model,
    set_checks,
    tagger,
)
from pipeline.extend import Precision
from pipeline.extras import import_extra
from pipeline_recurrent.native import available

CLASSES: Final = 6

PLAIN, OURS, UNCHECKED = "plain torch", "predict", "predict, without checks"
"""Candidates beside the precisions of `for_inference`."""

Request: TypeAlias = Callable[[], int]
"""Returns the predicted class."""


@attrs.frozen
class LatencyCase:
    """One row of ids.

    Example:
        >>> str(LatencyCase(20, 128))
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


LATENCY_CASES: Final = (
    LatencyCase(20, 128),
    LatencyCase(20, 128, threads="all"),
    LatencyCase(5, 32, features=32),
    LatencyCase(200, 128),
)


def make_pipe(plain: PlainClassifier, case: LatencyCase) -> StreamChain[Sequence[int], Scores[int]]:
    """Return the same classifier in stages, with the weights of the plain one."""
    model = classifier(case.words, CLASSES, embedding_dim=case.features, hidden_size=case.hidden)
    load_classifier(model, plain)
    return (FromIds() >> Bucket(rows=32) >> Pad() >> model).eval()


def measure_latency(extent: Extent) -> Iterator[Result]:
    """Measure case by case."""
    for case in LATENCY_CASES[:1] if extent == "quick" else LATENCY_CASES:
        with use_threads(case.threads) as threads:
            yield measure_latency_case(case, threads, Rounds(most=1_000, fewest=100, seconds=4.0))


def measure_latency_case(case: LatencyCase, threads: int, rounds: Rounds) -> Result:
    """Compare the predictions of the candidates, then time them in interleaved rounds.

    Raises:
        MismatchError: if ours in float32 predicts another class than the plain model.
    """
    torch.default_generator.manual_seed(0)
    plain = PlainClassifier(case.words, case.features, case.hidden, CLASSES).eval()
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
    times = time_interleaved(requests, rounds)
    return Result("latency", str(case), threads, case.parameters, times)


@torch.inference_mode()
def _predict_plain(model: PlainClassifier, row: Sequence[int]) -> int:
    return int(model(torch.tensor([row]), torch.tensor([len(row)])).argmax())


def _predict_ours(pipe: StreamChain[Sequence[int], Scores[int]], row: Sequence[int]) -> int:
    return next(pipe.predict([row]))


def _predict_unchecked(pipe: StreamChain[Sequence[int], Scores[int]], row: Sequence[int]) -> int:
    with set_checks(False):
        return _predict_ours(pipe, row)


def tabulate_latency(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per case."""
    names = (PLAIN, OURS, UNCHECKED, *get_args(Precision))
    headings = ("request", "threads", *(f"{name}: p50, p99" for name in names), "plain / float32")
    note = "Milliseconds from a list of ids to a class. The precisions are those of for_inference."
    return ReportTable(
        "Latency of a request", headings, [_make_latency_cells(result, names) for result in results], [note]
    )


def _make_latency_cells(result: Result, names: Sequence[str]) -> list[str]:
    quantiles = [result.times[name].quantile for name in names]
    cells = [f"{1e3 * quantile(0.5):.3f}, {1e3 * quantile(0.99):.3f}" for quantile in quantiles]
    return [result.point, str(result.threads), *cells, result.format_ratio(PLAIN, "float32")]


LATENCY: Final = Measurement("latency", measure_latency, tabulate_latency, quick=True)


MODES: Final = ("ordinary", "for_inference", "deterministic")
"""The model as it is, after `for_inference()`, and after `for_inference(deterministic=True)`."""

_WORDS: Final = 2_000
_ROWS: Final = 256
_MAX_THREADS: Final = 4

InvariantModel = Chain[Padded[Ids], Scores[int]]


@attrs.frozen
class InvarianceSizes:
    """The number of random batches, and the hidden size."""

    batches: int
    hidden: int = 64

    def __str__(self) -> str:
        return f"classifier, hidden {self.hidden}, {self.batches:,} random batches, 1 to {_MAX_THREADS} threads"


def measure_invariance(extent: Extent) -> Iterator[Result]:
    """Measure with more or fewer batches."""
    yield measure_invariance_sizes(
        InvarianceSizes({"quick": 300, "default": 2_000, "full": 10_000}[extent]), Rounds(most=25, seconds=4.0)
    )


def measure_invariance_sizes(sizes: InvarianceSizes, rounds: Rounds) -> Result:
    """Count the rows with the same bits as alone, in batches of random rows in random order; then time a batch."""
    torch.default_generator.manual_seed(0)
    model = classifier(_WORDS, 6, hidden_size=sizes.hidden).eval()
    models: dict[str, InvariantModel] = {
        "ordinary": model,
        "for_inference": model.for_inference(),
        "deterministic": model.for_inference(deterministic=True),
    }
    generator = random.Random(0)
    rows = [torch.tensor([generator.randrange(_WORDS) for _ in range(n)]) for n in to_ints(draw_lengths("~20", _ROWS))]
    counts = {f"{name}, same bits": _count_equal(each, rows, sizes.batches) for name, each in models.items()}
    batch = [generator.choice(rows) for _ in range(32)]
    steps: dict[str, Callable[[], object]] = {name: partial(_score, each, batch) for name, each in models.items()}
    times = time_interleaved(steps, rounds)
    return Result("invariance", str(sizes), torch.get_num_threads(), attrs.asdict(sizes), times, counts=counts)


def _count_equal(model: InvariantModel, rows: Sequence[Tensor], batches: int) -> float:
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
def _score(model: InvariantModel, rows: Sequence[Tensor]) -> Tensor:
    """Return the scores of a batch."""
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.nn.utils.rnn.pad_sequence([*rows], batch_first=True)
    return model(Padded(Ids, padded, lengths)).values


def tabulate_invariance(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per mode."""
    headings = ("batches", "model", "rows with the same bits as alone", "time of a batch of 32", "over for_inference")
    rows = [cells for result in results for cells in _make_invariance_rows(result)]
    return ReportTable("The same bits in every batch", headings, rows)


def _make_invariance_rows(result: Result) -> Iterator[list[str]]:
    for name in MODES:
        share = f"{result.counts[f'{name}, same bits']:.2%}"
        yield [result.point, name, share, str(result.times[name]), result.format_ratio(name, "for_inference")]


INVARIANCE: Final = Measurement("invariance", measure_invariance, tabulate_invariance, quick=True)


ONNX: Final = "onnxruntime"


@attrs.frozen
class ExportCase:
    """A model over sentences of ids.

    Example:
        >>> str(ExportCase("classifier", 32))
        'classifier, 32 rows of ~20 ids, hidden 128, one thread'
    """

    model: str
    rows: int
    hidden: int = 128
    threads: Threads = "one"
    words: int = 5_000

    def __str__(self) -> str:
        sizes = f"{self.rows} rows of ~20 ids, hidden {self.hidden}"
        return f"{self.model}, {sizes}, {describe_threads(self.threads)}"


EXPORT_CASES: Final = (
    ExportCase("classifier", 1),
    ExportCase("classifier", 32),
    ExportCase("classifier", 32, threads="all"),
    ExportCase("tagger", 32),
    ExportCase("language model", 32),
)


def measure_export(extent: Extent) -> Iterator[Result]:
    """Measure case by case; the cases are the same in every extent."""
    del extent
    for case in EXPORT_CASES:
        with use_threads(case.threads) as threads:
            yield measure_export_case(case, threads, Rounds())


def measure_export_case(case: ExportCase, threads: int, rounds: Rounds) -> Result:
    """Export the model, which compares it, then time it and the model in interleaved rounds."""
    torch.default_generator.manual_seed(0)
    model = _make_exported_model(case).eval()
    lengths = draw_lengths("~20", case.rows)
    ids = torch.randint(0, case.words, (case.rows, int(lengths.max())))
    session = _export_model(model, threads)
    arrays = {"ids": ids.numpy(), "lengths": lengths.numpy()}

    def run_exported() -> object:
        found: object = session.run(None, arrays)
        return found

    def run() -> object:
        return model(Padded(Ids, ids, lengths))

    def run_without_native() -> object:
        with disable_native():
            return run()

    infer = torch.inference_mode()
    steps = {ONNX: run_exported, WITHOUT_NATIVE: infer(run_without_native)}
    if available() is None:
        steps[WITH_NATIVE] = infer(run)
    times = time_interleaved(steps, rounds)
    return Result("export", str(case), threads, attrs.asdict(case), times)


def _make_exported_model(case: ExportCase) -> "Chain[Padded[Ids], Any]":
    if case.model == "classifier":
        return classifier(case.words, 2, hidden_size=case.hidden)
    if case.model == "tagger":
        return tagger(case.words, 17, hidden_size=case.hidden)
    return language_model(case.words, hidden_size=case.hidden)


def _export_model(model: "Chain[Padded[Ids], Any]", threads: int) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """Return a session of the exported model with this number of threads."""
    runtime: Any = import_extra("onnxruntime", extra="export", why="the bench of exported models")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        model.export(file, batches=10)
        return runtime.InferenceSession(str(file), options)


def tabulate_export(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per case."""
    headings = ("inference", ONNX, "this library without native engine", "this library")
    note = "Times of the exported model, and for the others the speedup over it; above 1, they are faster."
    return ReportTable("Exported models", headings, [_make_export_cells(result) for result in results], [note])


def _make_export_cells(result: Result) -> list[str]:
    ratios = [result.format_ratio(ONNX, name) for name in (WITHOUT_NATIVE, WITH_NATIVE)]
    return [result.point, str(result.times[ONNX]), *ratios]


EXPORT: Final = Measurement("export", measure_export, tabulate_export)
