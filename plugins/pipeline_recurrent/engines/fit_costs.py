"""Measure the engines on this machine and fit their costs: `python -m pipeline_recurrent.engines.fit_costs`.

It measures with torch's number of threads (`OMP_NUM_THREADS`), and replaces the costs for that number in this package's
`costs.json`, or in the file named by `--to`. Costs of machines with AMX stand beside those of others. Run it while
nothing else runs; `check_costs` then checks the choices.
"""

import argparse
import json
import platform
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from operator import methodcaller
from pathlib import Path
from typing import Final, TypeAlias, cast, get_args

import torch
from torch import Tensor

from pipeline_recurrent.engines.costs import FEATURES, Precision, compute_features
from pipeline_recurrent.engines.measured import SETTINGS, Measured, Setting, measure

Point: TypeAlias = tuple[tuple[float, ...], float, float]
"""The features of a run, its time in microseconds, and the time of the fastest engine divided by it."""

_LARGE_BATCHES: Final = 4
"""Large batches per setting: without them, large layers would be misjudged by the fit to small ones."""

_ROUNDS: Final = 1_000
"""Rounds of coordinate descent; the weights stop changing well before."""

_REWEIGHTINGS: Final = 4
"""Fits per engine: after the first one, points far from the fit before count less."""

_USUAL_ERROR: Final = 0.05
"""Relative errors up to this are those of the model; larger ones are mostly those of a disturbed measurement."""


def collect_points(measured: Iterable[Measured]) -> dict[str, list[Point]]:
    """Return the points of each entry of the table."""
    points = dict[str, list[Point]]()
    for each in measured:
        shortest = each.shortest()
        best = min(shortest.values())
        for engine, seconds in shortest.items():
            point = compute_features(engine, each.sizes), seconds * 1e6, best / seconds
            points.setdefault(each.sizes.entry_of(engine), []).append(point)
    return points


def fit(points: Sequence[Point]) -> dict[str, float]:
    """Return nonnegative weights with which the features add up to the times; relative errors count.

    A negative weight would promise time back for more work, and be wrong beyond the measured sizes. Errors count less
    where the engine is slow, since no choice depends on them there, and where a point is far from all others.

    Source: Lawson and Hanson 1974, "Solving Least Squares Problems", chapter 23, for the problem. We solve it by
    coordinate descent, which reaches the same optimum. Huber 1964, "Robust Estimation of a Location Parameter", for the
    weights of points: an error counts squared up to `_USUAL_ERROR`, and linearly beyond.
    """
    table = torch.tensor([[feature / taken for feature in row] for row, taken, _ in points], dtype=torch.float64)
    importance = torch.tensor([closeness for *_, closeness in points], dtype=torch.float64)
    weights, trust = _solve(table, importance), torch.ones_like(importance)
    for _ in range(_REWEIGHTINGS - 1):
        errors = (table @ torch.tensor(weights, dtype=torch.float64) - 1).abs()
        trust = (_USUAL_ERROR / errors).clamp(max=1)
        weights = _solve(table, importance * trust)
    return {name: float(f"{weight:.4g}") for name, weight in zip(FEATURES, weights, strict=True)}


def _solve(table: Tensor, importance: Tensor) -> list[float]:
    """Return the nonnegative weights w that minimize the sum of importance x (table w - 1)^2."""
    scale = table.square().sum(0).sqrt().clamp(min=1e-30)
    table = table / scale
    squares = _to_lists(table.mT @ (importance.unsqueeze(1) * table))
    targets = _to_lists((importance @ table).unsqueeze(0))[0]
    weights = [0.0] * len(targets)
    for _ in range(_ROUNDS):
        for index, row in enumerate(squares):
            rest = targets[index] - sum(square * weight for square, weight in zip(row, weights, strict=True))
            weights[index] = max(0.0, weights[index] + rest / row[index]) if row[index] else 0.0
    return [weight / by for weight, by in zip(weights, _to_lists(scale.unsqueeze(0))[0], strict=True)]


# Torch leaves the type of `tolist` open.
_to_lists: Callable[[Tensor], list[list[float]]] = methodcaller("tolist")


def fit_all(settings: Sequence[Setting], seconds: float) -> dict[str, dict[str, dict[str, float]]]:
    """Measure and fit settings, and return what `costs.json` holds for a number of threads."""
    shares, found = sum(setting.share for setting in settings), dict[str, dict[str, dict[str, float]]]()
    for seed, setting in enumerate(settings):
        seconds_here = seconds * setting.share / shares
        measured = list(measure(setting, random.Random(seed), seconds=seconds_here, large=_LARGE_BATCHES))
        key = measured[0].sizes.table_key
        found[key] = {entry: fit(points) for entry, points in collect_points(measured).items()}
        sys.stderr.write(f"{key}: {len(measured)} batches\n")
    return found


def main() -> None:
    """Measure, fit and write."""
    parser = argparse.ArgumentParser(prog="python -m pipeline_recurrent.engines.fit_costs", description=__doc__)
    parser.add_argument("--seconds", type=float, default=270.0, help="time for all small batches; default: 270")
    default = Path(str(files("pipeline_recurrent.engines").joinpath("costs.json")))
    parser.add_argument("--to", type=Path, default=default, help="the file to write; this package's by default")
    precisions: Sequence[Precision] = get_args(Precision)
    parser.add_argument("--precision", choices=precisions, help="measure only this one; default: all")
    options = parser.parse_args()
    path: Path = options.to
    existing: object = json.loads(path.read_text("utf-8")) if path.exists() else {}
    before = cast("dict[str, dict[str, dict[str, object]]]", existing).get("threads", {})
    settings = [setting for setting in SETTINGS if options.precision in {None, setting.precision}]
    threads = str(torch.get_num_threads())
    written = {
        "about": "Microseconds, by `python -m pipeline_recurrent.engines.fit_costs`; costs.py explains the names.",
        "machine": f"{platform.processor() or platform.machine()}, torch {torch.__version__}",
        "threads": {**before, threads: {**before.get(threads, {}), **fit_all(settings, options.seconds)}},
    }
    path.write_text(json.dumps(written, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
