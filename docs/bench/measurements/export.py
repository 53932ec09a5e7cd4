"""Inference by an exported model in onnxruntime, beside the model itself."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import torch

from bench.encoders.candidates import disable_native
from bench.encoders.points import draw_lengths
from bench.record import WITH_NATIVE, WITHOUT_NATIVE, Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import Rounds, Threads, describe_threads, time_first_runs, time_interleaved, use_threads
from pipeline import Chain, Ids, Padded, classifier, language_model, tagger
from pipeline.extras import import_extra
from pipeline_recurrent.native import available

ONNX: Final = "onnxruntime"


@attrs.frozen
class Case:
    """A model over sentences of ids.

    Example:
        >>> str(Case("classifier", 32))
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


CASES: Final = (
    Case("classifier", 1),
    Case("classifier", 32),
    Case("classifier", 32, threads="all"),
    Case("tagger", 32),
    Case("language model", 32),
)


def measure(extent: Extent) -> Iterator[Result]:
    """Measure case by case; the cases are the same in every extent."""
    del extent
    for case in CASES:
        with use_threads(case.threads) as threads:
            yield measure_case(case, threads, Rounds())


def measure_case(case: Case, threads: int, rounds: Rounds) -> Result:
    """Export the model, which compares it, then time it and the model in interleaved rounds."""
    torch.default_generator.manual_seed(0)
    model = _make_model(case).eval()
    lengths = draw_lengths("~20", case.rows)
    ids = torch.randint(0, case.words, (case.rows, int(lengths.max())))
    session = _export(model, threads)
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
    times = time_interleaved(steps, rounds, time_first_runs(steps))
    return Result("export", str(case), threads, attrs.asdict(case), times)


def _make_model(case: Case) -> "Chain[Padded[Ids], Any]":
    if case.model == "classifier":
        return classifier(case.words, 2, hidden_size=case.hidden)
    if case.model == "tagger":
        return tagger(case.words, 17, hidden_size=case.hidden)
    return language_model(case.words, hidden_size=case.hidden)


def _export(model: "Chain[Padded[Ids], Any]", threads: int) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """Return a session of the exported model with this number of threads."""
    runtime: Any = import_extra("onnxruntime", extra="export", why="the bench of exported models")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        model.export(file, batches=10)
        return runtime.InferenceSession(str(file), options)


def tabulate(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per case."""
    headings = ("inference", ONNX, "this library without native engine", "this library")
    note = "Times of the exported model, and for the others the speedup over it; above 1, they are faster."
    return ReportTable("Exported models", headings, [_make_cells(result) for result in results], [note])


def _make_cells(result: Result) -> list[str]:
    ratios = [result.time_ratio(ONNX, name) for name in (WITHOUT_NATIVE, WITH_NATIVE)]
    return [result.point, str(result.times[ONNX]), *("" if ratio is None else str(ratio) for ratio in ratios)]


EXPORT: Final = Measurement("export", measure, tabulate)
