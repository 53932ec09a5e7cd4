"""Recurrent encoders: the library beside torch's packed and dense kernels, and other runtimes."""

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from torch import Tensor

from bench.encoders.candidates import Problem, make_dense_step, make_our_step, make_packed_step
from bench.encoders.jax_scan import make_jax_step
from bench.encoders.other_runtimes import make_keras_step, make_onnx_step
from bench.encoders.points import Point, list_points
from bench.errors import MismatchError, MissingPackageError
from bench.record import WITH_NATIVE, WITHOUT_NATIVE, Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import (
    MATMUL,
    SLOW,
    Rounds,
    Step,
    check_equal,
    make_matmul,
    time_first_runs,
    time_interleaved,
    time_run,
    use_threads,
)
from pipeline.forecast.memory import measure_peak_bytes
from pipeline_recurrent.native import available

# Seconds. Measuring memory takes one more step, under a profiler; slower candidates are left out.
_MEMORY_LIMIT: Final = 10.0

OTHER_RUNTIMES: Final[Mapping[str, Callable[[Problem], Step]]] = {
    "onnxruntime": make_onnx_step,
    "jax": make_jax_step,
    "keras": make_keras_step,
}


def measure(extent: Extent) -> Iterator[Result]:
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
    for name, make_step in OTHER_RUNTIMES.items():
        try:
            step = make_step(problem)
            found[name] = step
            check_equal({"packed": expected, name: problem.pack_states(step())})
        except MissingPackageError as error:
            notes.append(f"{name}: {error}")
        except MismatchError as error:
            notes.append(f"{name} is wrong: {error}")
    return found


_HEADINGS: Final = (
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
_NOTE: Final = (
    "Times of packed, and for the others the speedup: the time of packed divided by theirs; above 1, they are faster. "
    "Medians, with quartiles. Dense is torch's dense kernel on padded rows, made exact. Share of the peak and memory: "
    "auto without native engine, auto."
)


def tabulate(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per point: the packed kernel's time, and the speedup of the others over it."""
    title = "Encoders: speedup over torch's packed kernel"
    return ReportTable(title, _HEADINGS, [_make_cells(result) for result in results], [_NOTE])


def _make_cells(result: Result) -> list[str]:
    ours = (WITHOUT_NATIVE, WITH_NATIVE)
    ratios = [result.time_ratio("packed", name) for name in ("dense", "plain", *ours)]
    runtimes = [f"{name} {result.time_ratio('packed', name)}" for name in OTHER_RUNTIMES if name in result.times]
    shares = [result.peak_share(name) for name in ours]
    memory = [result.memory_ratio(name, "packed") for name in ours]
    return [
        "; ".join([result.point, *result.notes]),
        str(result.threads),
        str(result.times["packed"]),
        *("" if ratio is None else str(ratio) for ratio in ratios),
        ", ".join(runtimes),
        ", ".join(f"{share:.0%}" for share in shares if share is not None),
        ", ".join(f"{ratio:.2f}" for ratio in memory if ratio is not None),
    ]


ENCODE: Final = Measurement("encode", measure, tabulate, quick=True)
