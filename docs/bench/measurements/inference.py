"""Inference in float32, bfloat16 and int8: our pipes for inference beside torch's packed kernel and other runtimes.

Every candidate is compared with the packed kernel first. The table states the largest difference of a state from the
packed kernel's, as a share of the largest state.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Final, TypeAlias, get_args

from bench.encoders.candidates import Problem, make_inference_step, make_packed_step, make_torch_int8_step
from bench.encoders.points import Lengths, Point
from bench.errors import MissingPackageError
from bench.measurements.encode import OTHER_RUNTIMES
from bench.record import Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import (
    MATMUL,
    Rounds,
    Threads,
    check_equal,
    make_matmul,
    time_first_runs,
    time_interleaved,
    use_threads,
)
from pipeline.extend import Precision

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


def measure(extent: Extent) -> Iterator[Result]:
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
    first, matmul = time_first_runs(steps), {MATMUL: make_matmul()}
    first |= time_first_runs(matmul)
    if point.rows == 1:
        # In rounds of its own: it would push the weights out of the cache, in which a lone row finds them.
        times = time_interleaved(steps, rounds, first) | time_interleaved(matmul, Rounds(seconds=2.0), first)
    else:
        times = time_interleaved(steps | matmul, rounds, first)
    operations = point.count_operations(problem.steps)
    return Result("inference", str(point), threads, point.parameters, times, {}, operations, notes, errors)


def tabulate(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per point: the packed kernel's time, and the speedup of the others over it."""
    headings = ("point", "threads", "packed", *PRECISIONS, TORCH_INT8, "other runtimes")
    note = (
        "Times of packed, and for the others the speedup over it; above 1, they are faster. Medians, with quartiles. "
        "Error: the largest difference of a state from packed, as a share of the largest state."
    )
    missing = sorted({missing for result in results for missing in result.notes})
    return ReportTable("Inference", headings, [_make_cells(result) for result in results], [note, *missing])


def _make_cells(result: Result) -> list[str]:
    def describe(name: str) -> str:
        ratio = result.time_ratio("packed", name)
        if ratio is None:
            return ""
        return str(ratio) if name == "float32" else f"{ratio}; error {result.counts[name]:.1%}"

    runtimes = [f"{name} {result.time_ratio('packed', name)}" for name in OTHER_RUNTIMES if name in result.times]
    return [
        result.point,
        str(result.threads),
        str(result.times["packed"]),
        *(describe(name) for name in (*PRECISIONS, TORCH_INT8)),
        ", ".join(runtimes),
    ]


INFERENCE: Final = Measurement("inference", measure, tabulate, quick=True)
