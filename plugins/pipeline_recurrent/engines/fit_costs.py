"""Measure the engines on this machine and fit their costs: `python -m pipeline_recurrent.engines.fit_costs`.

It takes some minutes, with torch's number of threads (`OMP_NUM_THREADS`), and replaces the costs for that number in
this package's `costs.json`, or in the file named by `--to`.
"""

import argparse
import json
import platform
import random
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from operator import methodcaller
from pathlib import Path
from typing import Final, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn

from pipeline.extend import PackingOrder
from pipeline_recurrent.engines.choose import ENGINES
from pipeline_recurrent.engines.costs import FEATURES, Family, Sizes, compute_features
from pipeline_recurrent.engines.engine import Cell, Engine, StackInputs, Weights

_CANDIDATES: Final = ("packed", "dense", "plain", "native")
_CELLS: Final[dict[Family, Cell]] = {"lstm": "lstm", "gru": "gru", "rnn": "rnn_tanh"}
_MODULES: Final = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
_MIN_POINTS: Final = 2 * len(FEATURES)
"""Measurements per engine before a fit, however little time was allowed: twice the number of weights."""
_MAX_LENGTH: Final = 2_000
"""Rows are cut at this many steps."""
_MAX_WORK: Final = 8e9
"""Operations of a batch at most, so that every engine runs several times in a second or two."""
_ROUNDS: Final = 5_000
"""Rounds of coordinate descent; the weights stop changing well before."""
_SLOW_SECONDS: Final = 1.0
"""A run that took longer is not repeated."""

Point: TypeAlias = tuple[tuple[float, ...], float]
"""The features of a run, and its time in microseconds."""


def draw_batch(generator: random.Random) -> tuple[list[int], int, int, int]:
    """Draw lengths, features, hidden size and directions from the range that models have."""
    rows = generator.choice((1, 4, 16, 32, 64, 128))
    typical = generator.choice((6, 20, 20, 60, 200, 1_000))
    # Half of the batches have rows of one length: torch's packed LSTM has weights of its own for these.
    spread = generator.choice((0.0, 0.0, 0.0, 0.2, 0.5, 0.8))
    lengths = [min(max(1, round(typical * generator.lognormvariate(0, spread))), _MAX_LENGTH) for _ in range(rows)]
    hidden = generator.choice((64, 128, 300)), generator.choice((64, 128, 256, 384))
    return lengths, *hidden, generator.choice((1, 2))


def draw_small_batch(generator: random.Random, *, training: bool) -> tuple[list[int], int, int, int]:
    """Draw a batch of at most `_MAX_WORK` operations."""
    while True:
        lengths, features, hidden, directions = draw_batch(generator)
        # Training packed rows is quadratic in their length: about twice the work at 50 steps.
        penalty = 1 + max(lengths) / 50 if training else 1
        if sum(lengths) * hidden * directions * (features + hidden) * penalty < _MAX_WORK:
            return lengths, features, hidden, directions


def measure(family: Family, *, training: bool, seconds: float, seed: int) -> dict[str, list[Point]]:
    """Measure the engines in turn on random batches until the time is up, and return each one's points."""
    generator, points = random.Random(seed), dict[str, list[Point]]()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or not points or min(map(len, points.values())) < _MIN_POINTS:
        lengths, features, hidden, directions = draw_small_batch(generator, training=training)
        order = PackingOrder(torch.tensor(lengths))
        module = _MODULES[family](features, hidden, bidirectional=directions == 2)
        values = torch.randn(order.steps, features, requires_grad=training)
        weights = [[cast("Weights", tuple(own)) for own in module.all_weights]]
        with torch.set_grad_enabled(training):
            stack = StackInputs(_CELLS[family], values, order, weights)
        sizes = Sizes.of(stack)
        engines = [ENGINES[name] for name in _CANDIDATES if ENGINES[name].unsupported_reason(stack) is None]
        for name, taken in time_engines(engines, stack, module).items():
            points.setdefault(sizes.entry_of(name), []).append((compute_features(name, sizes), taken * 1e6))
    return points


def time_engines(engines: Sequence[Engine], stack: StackInputs, module: nn.Module) -> dict[str, float]:
    """Return each engine's shortest time in seconds over six rounds, engines in turn, so that noise hits all alike."""
    # With one thread, CPU time excludes other processes; with several it would add up all threads.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    taken: dict[str, list[float]] = {engine.name: [] for engine in engines}
    for round_number in range(6):
        for engine in engines if round_number % 2 else engines[::-1]:
            if round_number > 1 and taken[engine.name][-1] > _SLOW_SECONDS:
                continue
            start = clock()
            run_once(engine, stack)
            taken[engine.name].append(clock() - start)
            module.zero_grad()
    return {name: min(times) for name, times in taken.items()}


def run_once(engine: Engine, stack: StackInputs) -> None:
    """Run an engine, with its backward pass in training."""
    with torch.set_grad_enabled(stack.needs_grad):
        output, _ = engine.run(stack)
        if stack.needs_grad:
            torch.autograd.backward(output.sum())


def fit(points: Sequence[Point]) -> dict[str, float]:
    """Return nonnegative weights with which the features add up to the times; relative errors count.

    A negative weight would promise time back for more work, and be wrong beyond the measured sizes.

    Source: Lawson and Hanson 1974, "Solving Least Squares Problems", chapter 23, for the problem. We solve it by
    coordinate descent, which reaches the same optimum.
    """
    table = torch.tensor([[feature / taken for feature in row] for row, taken in points], dtype=torch.float64)
    scale = table.square().sum(0).sqrt().clamp(min=1e-30)
    table = table / scale
    squares, targets = _to_lists(table.mT @ table), _to_lists(table.sum(0).unsqueeze(0))[0]
    weights = [0.0] * len(targets)
    for _ in range(_ROUNDS):
        for index, row in enumerate(squares):
            rest = targets[index] - sum(square * weight for square, weight in zip(row, weights, strict=True))
            weights[index] = max(0.0, weights[index] + rest / row[index]) if row[index] else 0.0
    unscaled = [weight / by for weight, by in zip(weights, _to_lists(scale.unsqueeze(0))[0], strict=True)]
    return {name: float(f"{weight:.4g}") for name, weight in zip(FEATURES, unscaled, strict=True)}


# Torch leaves the type of `tolist` open.
_to_lists: Callable[[Tensor], list[list[float]]] = methodcaller("tolist")


def main() -> None:
    """Measure, fit and write."""
    parser = argparse.ArgumentParser(prog="python -m pipeline_recurrent.engines.fit_costs", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each cell, in training and in inference")
    default = Path(str(files("pipeline_recurrent.engines").joinpath("costs.json")))
    parser.add_argument("--to", type=Path, default=default, help="the file to write; this package's by default")
    options = parser.parse_args()
    threads, table = str(torch.get_num_threads()), dict[str, dict[str, dict[str, float]]]()
    for seed, family in enumerate(get_args(Family)):
        for training in (False, True):
            points = measure(family, training=training, seconds=options.seconds, seed=seed)
            key = Sizes(family, training, 1, 1, 1, 1, 1).table_key
            table[key] = {engine: fit(measured) for engine, measured in points.items()}
    path: Path = options.to
    existing: object = json.loads(path.read_text("utf-8")) if path.exists() else {}
    before = cast("dict[str, dict[str, object]]", existing)
    written = {
        "about": "Microseconds, by `python -m pipeline_recurrent.engines.fit_costs`; costs.py explains the names.",
        "machine": f"{platform.processor() or platform.machine()}, torch {torch.__version__}",
        "threads": {**before.get("threads", {}), threads: table},
    }
    path.write_text(json.dumps(written, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
