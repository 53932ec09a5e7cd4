"""Recurrent encoders: steps beside torch's kernels and other runtimes, in float32 and bfloat16; `auto`; and scans.

`encode` and `bfloat16` time steps of LSTMs and GRUs. `choices` compares the engine that `auto` chooses with the fastest
one, on batches on which the cost model was not fitted. `scan` times encoders that are scanned, on long rows, beside
torch's packed LSTM of the same size.
"""

import gc
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby, product
from typing import Final, cast

import torch
from torch import Tensor, nn

from bench.encoders.candidates import Problem, disable_native, make_dense_step, make_our_step, make_packed_step
from bench.encoders.other_runtimes import make_jax_step, make_keras_step, make_onnx_step
from bench.encoders.points import Lengths, Point, list_points
from bench.record import WITH_NATIVE, WITHOUT_NATIVE, MissingPackageError, Parameter, Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import (
    ALL_THREADS,
    MATMUL,
    SLOW,
    MismatchError,
    Rounds,
    Step,
    Threads,
    check_equal,
    make_matmul,
    make_step,
    time_first_runs,
    time_interleaved,
    time_run,
    use_threads,
)
from pipeline import MaybeCausal, Packed, Padded, Vectors
from pipeline.forecast.memory import measure_peak_bytes
from pipeline_recurrent import LRU, MinGRU, MinLSTM
from pipeline_recurrent.engines.check_costs import Choice, check, share_within
from pipeline_recurrent.engines.costs import load_costs
from pipeline_recurrent.native import available

# Seconds. Measuring memory takes one more step, under a profiler; slower candidates are left out.
_MEMORY_LIMIT: Final = 10.0

OTHER_RUNTIMES: Final[Mapping[str, Callable[[Problem], Step]]] = {
    "onnxruntime": make_onnx_step,
    "jax": make_jax_step,
    "keras": make_keras_step,
}


def measure_encode(extent: Extent) -> Iterator[Result]:
    """Measure point by point."""
    rounds = Rounds(most=5, seconds=2.5) if extent == "quick" else Rounds()
    for point in list_points(extent):
        with use_threads(point.threads) as threads:
            yield measure_point(point, threads, rounds)
        # Free the tensors of this point now, not while the next point is timed.
        gc.collect()


def measure_point(point: Point, threads: int, rounds: Rounds, slow: float = SLOW) -> Result:
    """Compare the results of all candidates at a point, then time them in interleaved rounds.

    Raises:
        MismatchError: if one of ours, or torch's dense kernel, differs from torch's packed kernel.
    """
    problem, notes = Problem.of(point), list[str]()
    candidates, engines = _make_candidates(problem)
    first, results = dict[str, float](), dict[str, tuple[Tensor, ...]]()
    for name, step in candidates.items():
        result, first[name] = time_run(step)
        results[name] = problem.pack_states(result)
    check_equal(results)
    notes += [f"{name}: {', '.join(chosen)}" for name, chosen in engines.items() if name != "plain"]
    runtimes = _make_other_runtimes(problem, results["packed"], notes) if point.other_runtimes else {}
    results.clear()  # gradients of all candidates would otherwise be alive while memory is measured
    first |= time_first_runs(runtimes)
    # The matrix product takes part in the rounds, so that a slow phase of the machine lowers the peak as well.
    matmul = {MATMUL: make_matmul()}
    times = time_interleaved({**candidates, **runtimes, **matmul}, rounds, first | time_first_runs(matmul), slow)
    notes += [f"{name}: once, its first step took {first[name]:.0f} s" for name in first if first[name] > slow]
    memory = {
        name: measure_peak_bytes(step)
        for name, step in candidates.items()
        if point.training and first[name] < _MEMORY_LIMIT
    }
    operations = point.count_operations(problem.steps)
    return Result("encode", str(point), threads, point.parameters, times, memory, operations, notes)


def _make_candidates(problem: Problem) -> tuple[dict[str, Step], dict[str, Counter[str]]]:
    """Return the steps of torch and of ours by name, and the engines on which ours run."""
    ours = {
        "plain": make_our_step(problem, "plain", native=False),
        WITHOUT_NATIVE: make_our_step(problem, "auto", native=False),
        **({WITH_NATIVE: make_our_step(problem, "auto", native=True)} if available() is None else {}),
    }
    steps = {"packed": make_packed_step(problem), "dense": make_dense_step(problem)}
    steps |= {name: step for name, (step, _) in ours.items()}
    return steps, {name: engines for name, (_, engines) in ours.items()}


def _make_other_runtimes(problem: Problem, expected: Sequence[Tensor], notes: list[str]) -> dict[str, Step]:
    """Return the steps of other runtimes; add a note if one is missing, or differs from torch.

    A runtime that differs is timed all the same: users have it as it is, and the table says so.
    """
    found: dict[str, Step] = {}
    for name, make in OTHER_RUNTIMES.items():
        try:
            step = make(problem)
            found[name] = step
            check_equal({"packed": expected, name: problem.pack_states(step())})
        except MissingPackageError as error:
            notes.append(f"{name}: {error}")
        except MismatchError as error:
            notes.append(f"{name} is wrong: {error}")
    return found


_ENCODE_HEADINGS: Final = (
    "point",
    "threads",
    "packed",
    "dense",
    "plain",
    "auto without native engine",
    "auto",
    "other runtimes",
    "share of the matrix peak",
    "memory / packed",
)
_ENCODE_NOTE: Final = (
    "Times of packed, and for the others the speedup: the time of packed divided by theirs; above 1, they are faster. "
    "Medians, with quartiles. Dense is torch's dense kernel on padded rows, made exact. Share of the peak and memory: "
    "auto without native engine, auto."
)


def tabulate_encode(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per point: the packed kernel's time, and the speedup of the others over it."""
    title = "Encoders: speedup over torch's packed kernel"
    return ReportTable(title, _ENCODE_HEADINGS, [_make_encode_cells(result) for result in results], [_ENCODE_NOTE])


def _make_encode_cells(result: Result) -> list[str]:
    ours = (WITHOUT_NATIVE, WITH_NATIVE)
    ratios = [result.format_ratio("packed", name) for name in ("dense", "plain", *ours)]
    runtimes = [f"{name} {result.format_ratio('packed', name)}" for name in OTHER_RUNTIMES if name in result.times]
    shares = [result.peak_share(name) for name in ours]
    memory = [result.memory_ratio(name, "packed") for name in ours]
    return [
        "; ".join([result.point, *result.notes]),
        str(result.threads),
        str(result.times["packed"]),
        *ratios,
        ", ".join(runtimes),
        ", ".join(f"{share:.0%}" for share in shares if share is not None),
        ", ".join(f"{ratio:.2f}" for ratio in memory if ratio is not None),
    ]


ENCODE: Final = Measurement("encode", measure_encode, tabulate_encode, quick=True)


OURS, OURS_LOW, PACKED, PACKED_LOW = "float32", "bfloat16", "packed", "packed, bfloat16"
"""The candidates."""

# The largest allowed difference of a state or a gradient, as a share of the largest one.
_LOW_PRECISION_TOLERANCE: Final = 0.05

_LOW_PRECISION_SIZES: Final[Sequence[tuple[Lengths, int, int, int]]] = (
    ("~20, bucketed", 32, 100, 128),
    ("~20, bucketed", 64, 300, 256),
    ("~230, bucketed", 32, 100, 128),
    ("~20, bucketed", 64, 300, 512),
)
_THREADS: Final[Sequence[Threads]] = ("one", "all")

LOW_PRECISION_POINTS: Final = [
    Point("LSTM", training=True, lengths=lengths, rows=rows, features=features, hidden=hidden, threads=threads)
    for threads, (lengths, rows, features, hidden) in product(_THREADS, _LOW_PRECISION_SIZES)
]


def measure_low_precision(extent: Extent) -> Iterator[Result]:
    """Measure point by point; a quick run has the first two."""
    quick = extent == "quick"
    rounds = Rounds(most=5, seconds=3.0) if quick else Rounds(seconds=10.0)
    for point in LOW_PRECISION_POINTS[:2] if quick else LOW_PRECISION_POINTS:
        with use_threads(point.threads) as threads:
            yield measure_low_precision_point(point, threads, rounds)
        gc.collect()


def measure_low_precision_point(point: Point, threads: int, rounds: Rounds) -> Result:
    """Compare states and gradients of ours in bfloat16 with those in float32, then time all candidates."""
    problem = Problem.of(point)
    ours, packed = make_our_step(problem, "auto", native=True)[0], make_packed_step(problem)
    steps: dict[str, Step] = {
        PACKED: packed,
        OURS: ours,
        OURS_LOW: partial(_run_low, make_our_step(problem, "auto", native=True)[0]),
        PACKED_LOW: partial(_run_low, packed),
    }
    first, results = dict[str, float](), dict[str, tuple[Tensor, ...]]()
    for name, step in steps.items():
        found, first[name] = time_run(step)
        results[name] = tuple(each.float() for each in problem.pack_states(found))
    check_equal({PACKED: results[PACKED], OURS: results[OURS]})
    check_equal({OURS: results[OURS], OURS_LOW: results[OURS_LOW]}, _LOW_PRECISION_TOLERANCE)
    errors = {name: _find_error(results[name], results[OURS]) for name in (OURS_LOW, PACKED_LOW)}
    results.clear()
    times = time_interleaved(steps, rounds, first, slow=SLOW / 4)
    return Result("bfloat16", str(point), threads, point.parameters, times, counts=errors)


def _run_low(step: Step) -> tuple[Tensor, ...]:
    with torch.autocast("cpu", torch.bfloat16):
        return step()


def _find_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest difference of a state or a gradient, as a share of the largest number of its tensor."""
    pairs = zip(found, expected, strict=True)
    return max(float((one - two).abs().max() / two.abs().max().clamp(min=1e-6)) for one, two in pairs)


def tabulate_low_precision(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per point."""
    headings = ("point", "threads", OURS, f"{OURS_LOW}; error", "bfloat16 over packed in float32", PACKED_LOW)
    note = (
        "Training under autocast to bfloat16. Times of ours in float32, and the speedup of the others over it. "
        "Error: the largest difference of a state or a gradient, as a share of the largest."
    )
    return ReportTable(
        "Training in bfloat16", headings, [_make_low_precision_cells(result) for result in results], [note]
    )


def _make_low_precision_cells(result: Result) -> list[str]:
    def describe(name: str) -> str:
        return f"{result.format_ratio(OURS, name)}; error {result.counts[name]:.1%}"

    times = str(result.times[OURS])
    ratio = result.format_ratio(PACKED, OURS_LOW)
    return [result.point, str(result.threads), times, describe(OURS_LOW), ratio, describe(PACKED_LOW)]


LOW_PRECISION: Final = Measurement("bfloat16", measure_low_precision, tabulate_low_precision, quick=True)


CHOICE_SECONDS: Final[dict[Extent, float]] = {"quick": 12.0, "default": 160.0, "full": 900.0}
"""The time for all batches but the large ones."""


def measure_choices(extent: Extent) -> Iterator[Result]:
    """Measure batches with one thread and with two."""
    numbers, large = (1, 2) if ALL_THREADS > 1 else (1,), int(extent != "quick")
    for threads in numbers:
        seconds = CHOICE_SECONDS[extent] / len(numbers)
        yield from summarize_choices(check(load_costs(), seconds=seconds, threads=threads, large=large))


def summarize_choices(choices: Iterator[Choice]) -> Iterator[Result]:
    """Return a result per precision and kind of batch."""

    def key(choice: Choice) -> tuple[str, str]:
        return choice.measured.sizes.precision, choice.measured.batch.kind

    for (precision, kind), group in groupby(sorted(choices, key=key), key):
        found = list(group)
        ratios = [choice.ratio for choice in found]
        worst = max(found, key=lambda choice: choice.ratio)
        counts = {
            "batches": len(ratios),
            "mean": statistics.mean(ratios),
            "within 1.03": share_within(ratios),
            "largest": max(ratios),
        }
        parameters = {"precision": precision, "kind": kind}
        point = f"{kind}, {precision}"
        yield Result("choices", point, worst.threads, parameters, {}, counts=counts, notes=[str(worst)])


def tabulate_choices(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per kind of batch, precision and number of threads."""
    headings = ("batches", "threads", "number", "time of auto over the best engine, mean", "within 1.03", "largest")
    note = "Batches are drawn with other seeds than those on which the costs were fitted."
    return ReportTable("What auto chooses", headings, [_make_choice_cells(result) for result in results], [note])


def _make_choice_cells(result: Result) -> list[str]:
    counts = result.counts
    return [
        result.point,
        str(result.threads),
        f"{counts['batches']:.0f}",
        f"{counts['mean']:.3f}",
        f"{counts['within 1.03']:.0%}",
        result.notes[0],  # which begins with the largest ratio
    ]


CHOICES: Final = Measurement("choices", measure_choices, tabulate_choices, quick=True)


SCAN_STEPS: Final = 4_096
SCAN_ROWS: Final = 8
SCAN_FEATURES: Final = 128
SCAN_HIDDEN: Final = 128

_Scanned = MinGRU[MaybeCausal] | MinLSTM[MaybeCausal] | LRU[MaybeCausal]

_SCANNED: Final[Mapping[str, Callable[[int, int], _Scanned]]] = {"min_gru": MinGRU, "min_lstm": MinLSTM, "lru": LRU}


def make_scan_lengths() -> Mapping[str, Tensor]:
    """Return the lengths of rows of one length, of a lone row, and of rows of 512 to 1,024 steps.

    Longer rows of unequal lengths would take torch's LSTM minutes, since its backward pass is quadratic there.
    """
    unequal = torch.randint(SCAN_STEPS // 8, SCAN_STEPS // 4, (SCAN_ROWS,), generator=torch.Generator().manual_seed(0))
    unequal[0] = SCAN_STEPS // 4
    return {"even": torch.full((SCAN_ROWS,), SCAN_STEPS), "lone": torch.tensor([SCAN_STEPS]), "unequal": unequal}


def _sum_scanned(encoder: _Scanned, values: Tensor, lengths: Tensor) -> Tensor:
    """Return the sum of the squares of all states."""
    return encoder(Padded(Vectors, values, lengths)).packed().values.square().sum()


def _sum_packed(lstm: nn.LSTM, values: Tensor, lengths: Tensor) -> Tensor:
    """Return the same of torch's LSTM on packed rows."""
    packed: Packed[Vectors] = Padded(Vectors, values, lengths).packed()
    steps, _ = lstm(nn.utils.rnn.PackedSequence(packed.values, packed.order.batch_sizes))
    return cast("Tensor", steps.data).square().sum()


def measure_scan(extent: Extent) -> Iterator[Result]:
    """Measure each encoder on each batch; a quick run has a minGRU on rows of one length only."""
    for batch, lengths in make_scan_lengths().items():
        for name in _SCANNED:
            if extent != "quick" or (batch, name) == ("even", "min_gru"):
                yield measure_encoder(name, batch, lengths)


def measure_encoder(name: str, batch: str, lengths: Tensor) -> Result:
    """Compare the kernels with torch's operations, then time training steps of both and of an LSTM."""
    torch.default_generator.manual_seed(0)
    values = torch.randn(len(lengths), int(lengths.max()), SCAN_FEATURES)
    encoder, lstm = _SCANNED[name](SCAN_FEATURES, SCAN_HIDDEN), nn.LSTM(SCAN_FEATURES, SCAN_HIDDEN)
    ours = make_step(partial(_sum_scanned, encoder, values, lengths), list(encoder.parameters()), training=True)

    def run_without_kernels() -> tuple[Tensor, ...]:
        with disable_native():
            return ours()

    packed = make_step(partial(_sum_packed, lstm, values, lengths), list(lstm.parameters()), training=True)
    steps = {"scan": ours, "torch's operations": run_without_kernels, "packed LSTM": packed}
    check_equal({key: steps[key]() for key in ("scan", "torch's operations")})
    times = time_interleaved(steps, Rounds())
    parameters: dict[str, Parameter] = {"encoder": name, "batch": batch, "steps": int(lengths.sum())}
    return Result("scan", f"{name}, {batch} rows", torch.get_num_threads(), parameters, times)


def tabulate_scan(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per encoder and batch."""
    headings = ("encoder", "scan", "packed LSTM / scan", "torch's operations / scan")
    note = (
        f"A training step with compiled kernels: on {SCAN_ROWS} rows of {SCAN_STEPS:,} steps (even), on a lone "
        f"row as long, and on {SCAN_ROWS} rows of {SCAN_STEPS // 8} to {SCAN_STEPS // 4:,} steps (unequal). One layer, "
        f"input {SCAN_FEATURES}, hidden {SCAN_HIDDEN}. Above 1, the kernels are faster."
    )
    return ReportTable("Scans", headings, [_make_scan_cells(result) for result in results], [note])


def _make_scan_cells(result: Result) -> list[str]:
    ratios = [result.format_ratio(name, "scan") for name in ("packed LSTM", "torch's operations")]
    return [result.point, str(result.times["scan"]), *ratios]


SCAN: Final = Measurement("scan", measure_scan, tabulate_scan)
