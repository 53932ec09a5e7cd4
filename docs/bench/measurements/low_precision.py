"""Training under bfloat16 autocast, beside float32: ours, and torch's packed kernel."""

import gc
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from typing import Final

import torch
from torch import Tensor

from bench.encoders.candidates import Problem, make_our_step, make_packed_step
from bench.encoders.points import Lengths, Point
from bench.record import Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import SLOW, Rounds, Step, Threads, check_equal, time_interleaved, time_run, use_threads

OURS, OURS_LOW, PACKED, PACKED_LOW = "float32", "bfloat16", "packed", "packed, bfloat16"
"""The candidates."""

# The largest allowed difference of a state or a gradient, as a share of the largest one.
_TOLERANCE: Final = 0.05

_SIZES: Final[Sequence[tuple[Lengths, int, int, int]]] = (
    ("~20, bucketed", 32, 100, 128),
    ("~20, bucketed", 64, 300, 256),
    ("~230, bucketed", 32, 100, 128),
    ("~20, bucketed", 64, 300, 512),
)
_THREADS: Final[Sequence[Threads]] = ("one", "all")

POINTS: Final = [
    Point("LSTM", training=True, lengths=lengths, rows=rows, features=features, hidden=hidden, threads=threads)
    for threads, (lengths, rows, features, hidden) in product(_THREADS, _SIZES)
]


def measure(extent: Extent) -> Iterator[Result]:
    """Measure point by point; a quick run has the first two."""
    quick = extent == "quick"
    rounds = Rounds(most=5, seconds=3.0) if quick else Rounds(seconds=10.0)
    for point in POINTS[:2] if quick else POINTS:
        with use_threads(point.threads) as threads:
            yield measure_point(point, threads, rounds)
        gc.collect()


def measure_point(point: Point, threads: int, rounds: Rounds) -> Result:
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
    check_equal({OURS: results[OURS], OURS_LOW: results[OURS_LOW]}, _TOLERANCE)
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


def tabulate(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per point."""
    headings = ("point", "threads", OURS, f"{OURS_LOW}; error", "bfloat16 over packed in float32", PACKED_LOW)
    note = (
        "Training under autocast to bfloat16. Times of ours in float32, and the speedup of the others over it. "
        "Error: the largest difference of a state or a gradient, as a share of the largest."
    )
    return ReportTable("Training in bfloat16", headings, [_make_cells(result) for result in results], [note])


def _make_cells(result: Result) -> list[str]:
    def describe(name: str) -> str:
        return f"{result.time_ratio(OURS, name)}; error {result.counts[name]:.1%}"

    times = str(result.times[OURS])
    ratio = str(result.time_ratio(PACKED, OURS_LOW))
    return [result.point, str(result.threads), times, describe(OURS_LOW), ratio, describe(PACKED_LOW)]


LOW_PRECISION: Final = Measurement("bfloat16", measure, tabulate, quick=True)
