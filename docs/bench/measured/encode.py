"""Recurrent encoders: ours beside torch's packed and dense kernels, and other runtimes."""

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from torch import Tensor

from bench.absent import AbsentError
from bench.encoders.dense import dense
from bench.encoders.keras import keras
from bench.encoders.onnx import onnx_runtime
from bench.encoders.ours import ours
from bench.encoders.packed import packed
from bench.encoders.point import Point
from bench.encoders.points import points
from bench.encoders.problem import Problem
from bench.measured.measurement import Extent, Measurement
from bench.record.finding import Finding
from bench.record.sheet import Sheet
from bench.timing.alike import UnequalError, check_alike
from bench.timing.product import PRODUCT, product
from bench.timing.step import Step
from bench.timing.threads import on_threads
from bench.timing.times import Times
from bench.timing.turns import SLOW, Turns, by_turns, timed
from pipeline.forecast.memory import measure_peak_bytes
from pipeline_recurrent.native import available

_UNHURRIED: Final = 10.0
"""Seconds of a first step past which its memory is not measured, which takes another one."""

OURS: Final = ("uncompiled", "compiled")
"""What `auto` comes to without a native engine, and with one."""

_STRANGERS: Final[Mapping[str, Callable[[Problem], Step]]] = {"onnxruntime": onnx_runtime, "keras": keras}


def find(extent: Extent) -> Iterator[Finding]:
    """Every point, one after the other."""
    turns = Turns(most=5, seconds=4.0) if extent == "quick" else Turns()
    for point in points(extent):
        with on_threads(point.threads) as threads:
            yield measured(point, threads, turns)
        gc.collect()


def measured(point: Point, threads: int, turns: Turns, slow: float = SLOW) -> Finding:
    """One point: what all candidates give is compared, then they take turns.

    Raises:
        UnequalError: if one of ours, or of torch's ways, computes something else than torch's packed kernel.
    """
    problem, notes = Problem.of(point), list[str]()
    candidates, engines = _candidates(problem)
    first, answers = dict[str, float](), dict[str, tuple[Tensor, ...]]()
    for name, step in candidates.items():
        given, first[name] = timed(step)
        answers[name] = problem.answer(given)
    check_alike(answers)
    notes += [f"{name}: {', '.join(chosen)}" for name, chosen in engines.items() if name != "plain"]
    strangers = _strangers(problem, answers["packed"], notes) if point.strangers else {}
    answers.clear()
    first |= {name: timed(step)[1] for name, step in strangers.items()}
    times = _by_turns({**candidates, **strangers}, first, turns, slow)
    notes += [f"{name}: once, its first step took {first[name]:.0f} s" for name in first if first[name] > slow]
    memory = {
        name: measure_peak_bytes(step) for name, step in candidates.items() if point.learning and first[name] < _UNHURRIED
    }
    return Finding("encode", str(point), threads, point.traits, times, memory, point.operations(problem.steps), notes)


def _candidates(problem: Problem) -> tuple[dict[str, Step], dict[str, Counter[str]]]:
    """Torch's ways and ours by name, and the engines that ours have run on."""
    mine = {
        "plain": ours(problem, "plain", compiled=False),
        "uncompiled": ours(problem, "auto", compiled=False),
        **({"compiled": ours(problem, "auto", compiled=True)} if available() is None else {}),
    }
    steps = {"packed": packed(problem), "dense": dense(problem), **{name: step for name, (step, _) in mine.items()}}
    return steps, {name: engines for name, (_, engines) in mine.items()}


def _strangers(problem: Problem, wanted: Sequence[Tensor], notes: list[str]) -> dict[str, Step]:
    """Other runtimes; that one is absent, or answers otherwise than torch, is noted."""
    found: dict[str, Step] = {}
    for name, make in _STRANGERS.items():
        try:
            step = make(problem)
            found[name] = step
            check_alike({"packed": wanted, name: problem.answer(step())})
        except AbsentError as error:
            notes.append(f"{name}: {error}")
        except UnequalError as error:
            notes.append(f"{name} is wrong: {error}")
    return found


def _by_turns(
    candidates: Mapping[str, Step], first: Mapping[str, float], turns: Turns, slow: float
) -> dict[str, Times]:
    """All candidates by turns, and the product of large matrices among them."""
    peak = product()
    peak()
    return by_turns({**candidates, PRODUCT: peak}, turns, {**first, PRODUCT: timed(peak)[1]}, slow)


def sheet(findings: Sequence[Finding]) -> Sheet:
    """A row a point: the packed kernel's time, and how many times as long as each of the others it took."""
    rows = [_cells(finding) for finding in findings]
    return Sheet("Encoders: how many times as long torch's packed kernel takes", _HEADINGS, rows, [_NOTE])


_HEADINGS: Final = (
    "point",
    "threads",
    "packed",
    "dense",
    "plain",
    "auto without a compiler",
    "auto",
    "others",
    "share of the matrix peak",
    "memory over packed",
)
_NOTE: Final = (
    "Medians, with quartiles: above 1, the packed kernel is the slower one. Dense is torch's dense kernel on padded "
    "rows, made exact by hand. Shares and memory are those of auto without a compiler, and of auto."
)


def _cells(finding: Finding) -> list[str]:
    ratios = [finding.ratio("packed", name) for name in ("dense", "plain", *OURS)]
    others = [f"{name} {finding.ratio('packed', name)}" for name in _STRANGERS if name in finding.times]
    shares = [finding.share(name) for name in OURS]
    memory = [finding.memory(name, "packed") for name in OURS]
    return [
        "; ".join([finding.point, *finding.notes]),
        str(finding.threads),
        str(finding.times["packed"]),
        *("" if ratio is None else str(ratio) for ratio in ratios),
        ", ".join(others),
        ", ".join(f"{share:.0%}" for share in shares if share is not None),
        ", ".join(f"{ratio:.2f}" for ratio in memory if ratio is not None),
    ]


ENCODE: Final = Measurement("encode", find, sheet, quick=True)
