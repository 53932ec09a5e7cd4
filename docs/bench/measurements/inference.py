"""Inference: our encoders in float32, bfloat16 and int8, and over ids with `precompute_inputs`.

Every candidate is compared with the packed kernel first. For encoders the table states the largest difference of a
state from the packed kernel's, as a share of the largest state.
"""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Final, TypeAlias, get_args

import attrs
import torch
from torch import Tensor, nn

from bench.encoders.by_hand import run_packed
from bench.encoders.candidates import (
    Problem,
    disable_native,
    make_inference_step,
    make_packed_step,
    make_torch_int8_step,
)
from bench.encoders.points import Lengths, Point, draw_lengths
from bench.measurements.encode import OTHER_RUNTIMES
from bench.record import WITH_NATIVE, WITHOUT_NATIVE, MissingPackageError, Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import (
    MATMUL,
    Rounds,
    Threads,
    check_equal,
    describe_threads,
    make_matmul,
    time_first_runs,
    time_interleaved,
    use_threads,
)
from pipeline import Embed, Encode, Ids, Pack, Padded, Vectors
from pipeline.extend import Precision
from pipeline_recurrent import LSTM, precompute_inputs
from pipeline_recurrent.native import available

TORCH_INT8: Final = "torch int8"
"""Torch's dynamic quantization, over packed rows."""

PRECISIONS: Final[Sequence[Precision]] = get_args(Precision)

# The largest allowed difference from the packed kernel, as a share of the largest state.
_TOLERANCES: Final[Mapping[str, float]] = {"float32": 1e-3, "bfloat16": 0.05, "int8": 0.15, TORCH_INT8: 0.15}

_Sizes: TypeAlias = tuple[Lengths, int, int, int]

_BATCHES: Final[Sequence[_Sizes]] = (
    ("~20, bucketed", 32, 100, 128),
    ("~20, bucketed", 64, 300, 256),
    ("~230, bucketed", 32, 100, 128),
    ("~20", 64, 300, 256),
    ("~20", 32, 100, 128),
    ("~230", 32, 100, 128),
)
"""Lengths, rows, features and hidden size of the batches."""

_REQUESTS: Final[Sequence[_Sizes]] = (
    ("exactly 20", 1, 100, 128),
    ("exactly 20", 1, 32, 32),
    ("exactly 1", 1, 100, 128),
)
"""The same of one request: a lone row."""

_THREADS: Final[Sequence[Threads]] = ("one", "all")

POINTS: Final = [
    Point("LSTM", training=False, lengths=lengths, rows=rows, features=features, hidden=hidden, threads=threads)
    for (lengths, rows, features, hidden), threads in product((*_BATCHES, *_REQUESTS), _THREADS)
]
"""The points, bucketed batches first."""


def is_quick(point: Point) -> bool:
    """Return whether a point is part of a quick run: bucketed batches on one thread, and one row of 20 steps."""
    if point.lengths.endswith("bucketed"):
        return point.threads == "one"
    return point.lengths == "exactly 20" and point.hidden == 128


def measure_inference(extent: Extent) -> Iterator[Result]:
    """Measure point by point."""
    rounds = Rounds(most=7, seconds=1.5) if extent == "quick" else Rounds(seconds=8.0)
    for point in POINTS:
        if extent != "quick" or is_quick(point):
            with use_threads(point.threads) as threads:
                yield measure_point(point, threads, rounds)
            gc.collect()


def measure_point(point: Point, threads: int, rounds: Rounds) -> Result:
    """Compare the states of all candidates with those of the packed kernel, then time all in interleaved rounds.

    Raises:
        MismatchError: if one of ours differs by more than its precision explains.
    """
    problem, notes = Problem.of(point), list[str]()
    steps = {"packed": make_packed_step(problem)}
    steps |= {precision: make_inference_step(problem, precision) for precision in PRECISIONS}
    steps[TORCH_INT8] = make_torch_int8_step(problem)
    for name, make_step in OTHER_RUNTIMES.items():
        if name == "jax" and point.threads == "one":
            notes.append("jax: only with all threads, since XLA takes all cores")
            continue
        try:
            steps[name] = make_step(problem)
        except MissingPackageError as error:
            notes.append(f"{name}: {error}")
    states = {name: problem.pack_states(step())[0] for name, step in steps.items()}
    for name, own in states.items():
        check_equal({"packed": [states["packed"]], name: [own]}, _TOLERANCES.get(name, _TOLERANCES["float32"]))
    largest = states["packed"].abs().max()
    errors = {name: float((own - states["packed"]).abs().max() / largest) for name, own in states.items()}
    # A lone row is over in a fraction of a millisecond: many rounds cost little.
    rounds = Rounds(500, 50, rounds.seconds) if point.rows == 1 else rounds
    times = time_interleaved(steps, rounds, time_first_runs(steps))
    # In rounds of its own: it would push the weights of whichever comes next out of the cache.
    times |= time_interleaved({MATMUL: make_matmul()}, Rounds(seconds=1.0))
    operations = point.count_operations(problem.steps)
    return Result("inference", str(point), threads, point.parameters, times, {}, operations, notes, errors)


def tabulate_inference(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per point: the packed kernel's time, and the speedup of the others over it."""
    headings = ("point", "threads", "packed", *PRECISIONS, TORCH_INT8, "other runtimes")
    note = (
        "Times of packed, and for the others the speedup over it; above 1, they are faster. Medians, with quartiles. "
        "Error: the largest difference of a state from packed, as a share of the largest state."
    )
    missing = sorted({missing for result in results for missing in result.notes})
    return ReportTable("Inference", headings, [_make_inference_cells(result) for result in results], [note, *missing])


def _make_inference_cells(result: Result) -> list[str]:
    def describe(name: str) -> str:
        ratio = result.time_ratio("packed", name)
        if ratio is None:
            return ""
        return str(ratio) if name == "float32" else f"{ratio}; error {result.counts[name]:.1%}"

    runtimes = [f"{name} {result.format_ratio('packed', name)}" for name in OTHER_RUNTIMES if name in result.times]
    return [
        result.point,
        str(result.threads),
        str(result.times["packed"]),
        *(describe(name) for name in (*PRECISIONS, TORCH_INT8)),
        ", ".join(runtimes),
    ]


INFERENCE: Final = Measurement("inference", measure_inference, tabulate_inference, quick=True)


Infer: TypeAlias = Callable[[], Tensor]
"""Returns packed states, or padded ones."""


@attrs.frozen
class PrecomputeCase:
    """A bidirectional LSTM over sentences of ids.

    Example:
        >>> str(PrecomputeCase(64, 300, 256))
        'BiLSTM inference, 64 rows of ~20 ids of 5,000, input 300, hidden 256, all threads'
    """

    rows: int
    embedding: int
    hidden: int
    threads: Threads = "all"
    words: int = 5_000

    def __str__(self) -> str:
        rows, sizes = f"{self.rows} rows of ~20 ids of {self.words:,}", f"input {self.embedding}, hidden {self.hidden}"
        return f"BiLSTM inference, {rows}, {sizes}, {describe_threads(self.threads)}"


PRECOMPUTE_CASES: Final = (
    PrecomputeCase(64, 300, 256),
    PrecomputeCase(64, 300, 256, "one"),
    PrecomputeCase(32, 100, 128),
    PrecomputeCase(32, 100, 128, "one"),
)


def measure_precompute(extent: Extent) -> Iterator[Result]:
    """Measure case by case; the cases are the same in every extent."""
    del extent
    for case in PRECOMPUTE_CASES:
        with use_threads(case.threads) as threads:
            yield measure_precompute_case(case, threads, Rounds())


def measure_precompute_case(case: PrecomputeCase, threads: int, rounds: Rounds) -> Result:
    """Compare the states of all candidates, then time them in interleaved rounds."""
    torch.default_generator.manual_seed(0)
    embedding = nn.Embedding(case.words, case.embedding)
    lstm = nn.LSTM(case.embedding, case.hidden, bidirectional=True, batch_first=True)
    lengths = draw_lengths("~20", case.rows)
    ids = torch.randint(0, case.words, (case.rows, int(lengths.max())))
    steps = {
        "packed": _make_packed_over_ids(embedding, lstm, ids, lengths),
        **_make_ours_over_ids(embedding, lstm, ids, lengths),
    }
    check_equal({name: [_pack_states(step(), lengths)] for name, step in steps.items()})
    times = time_interleaved(steps, rounds)
    return Result("precompute", str(case), threads, attrs.asdict(case), times)


def _make_packed_over_ids(embedding: nn.Embedding, lstm: nn.LSTM, ids: Tensor, lengths: Tensor) -> Infer:
    """Embed, pack, run and unpack."""
    return torch.inference_mode()(lambda: run_packed(lstm, embedding(ids), lengths))


def _make_ours_over_ids(embedding: nn.Embedding, lstm: nn.LSTM, ids: Tensor, lengths: Tensor) -> Mapping[str, Infer]:
    """Return a chain as it is, and with precomputed inputs, without and with the native engine."""
    embed = Embed(embedding.num_embeddings, embedding.embedding_dim)
    embed.load_state_dict(embedding.state_dict())
    encode = LSTM(lstm.input_size, lstm.hidden_size, bidirectional=True).load_torch(lstm)
    chain = (Pack() >> embed >> Encode(encode)).eval()
    precomputed = precompute_inputs(chain)

    def run() -> Tensor:
        return chain(Padded(Ids, ids, lengths)).packed().values

    def run_precomputed() -> Tensor:
        return precomputed(Padded(Ids, ids, lengths)).packed().values

    def run_precomputed_without_native() -> Tensor:
        with disable_native():
            return run_precomputed()

    steps = {"auto": run, WITHOUT_NATIVE: run_precomputed_without_native}
    if available() is None:
        steps[WITH_NATIVE] = run_precomputed
    return {name: torch.inference_mode()(step) for name, step in steps.items()}


def _pack_states(states: Tensor, lengths: Tensor) -> Tensor:
    """Pack padded states; return packed states as they are."""
    return states if states.ndim == 2 else Padded(Vectors, states.clone(), lengths).packed().values


def tabulate_precompute(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per case."""
    headings = ("inference over ids", "packed", "auto", "precomputed without native engine", "precomputed")
    note = "Times of embedding and packed kernel, and for the others the speedup over them; above 1, they are faster."
    return ReportTable("Precomputed inputs", headings, [_make_precompute_cells(result) for result in results], [note])


def _make_precompute_cells(result: Result) -> list[str]:
    ratios = [result.format_ratio("packed", name) for name in ("auto", WITHOUT_NATIVE, WITH_NATIVE)]
    return [result.point, str(result.times["packed"]), *ratios]


PRECOMPUTE: Final = Measurement("precompute", measure_precompute, tabulate_precompute)
