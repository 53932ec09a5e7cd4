"""Measure the engines on this machine, and write what they cost: `python -m pipeline_recurrent.engines.fit`.

It takes some minutes, with the number of threads that torch has (`OMP_NUM_THREADS`), and replaces what was known for
that number in `costs.json` of this package, or in the file that is named behind `--to`.
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
from typing import Final, cast, get_args

import torch
from torch import Tensor, nn

from pipeline.data.order import Order
from pipeline_recurrent.engines.choose import ENGINES
from pipeline_recurrent.engines.costs import FEATURES, Family, Sizes, entry, features, key
from pipeline_recurrent.engines.engine import Engine
from pipeline_recurrent.engines.run import Cell, Run, Weights

_CANDIDATES: Final = ("packed", "dense", "plain", "native")
_CELLS: Final[dict[Family, Cell]] = {"lstm": "lstm", "gru": "gru", "rnn": "rnn_tanh"}
_MODULES: Final = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
_FEWEST: Final = 2 * len(FEATURES)
"""Points without which nothing is fitted."""
_LONGEST: Final = 2_000
"""Steps that a row is cut at."""
_ROUNDS: Final = 5_000
_SLOW: Final = 1.0
"""Seconds after which a run is not repeated."""

Point = tuple[tuple[float, ...], float]
"""Features of a run, and the microseconds that it took."""


def drawn(draw: random.Random) -> tuple[list[int], int, int, int]:
    """Lengths, features, hidden and directions of a batch to measure, such as models have."""
    rows = draw.choice((1, 4, 16, 32, 64, 128))
    typical = draw.choice((6, 20, 20, 60, 200, 1_000))
    # As often even as not: torch's packed LSTM has weights of its own for rows of one length.
    spread = draw.choice((0.0, 0.0, 0.0, 0.2, 0.5, 0.8))
    lengths = [min(max(1, round(typical * draw.lognormvariate(0, spread))), _LONGEST) for _ in range(rows)]
    return lengths, draw.choice((64, 128, 300)), draw.choice((64, 128, 256, 384)), draw.choice((1, 2))


def measured(family: Family, learning: bool, seconds: float, seed: int) -> dict[str, list[Point]]:
    """Each engine's points, on batches drawn at random until the time is up, engines in turn."""
    draw, found = random.Random(seed), dict[str, list[Point]]()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or not found or min(map(len, found.values())) < _FEWEST:
        lengths, read, hidden, directions = draw_small(draw, learning)
        order = Order(torch.tensor(lengths))
        module = _MODULES[family](read, hidden, bidirectional=directions == 2)
        values = torch.randn(order.steps, read, requires_grad=learning)
        weights = [[cast("Weights", tuple(own)) for own in module.all_weights]]
        run = Run(_CELLS[family], values, order, weights)
        sizes = Sizes(family, learning, order.occupied, order.longest, order.steps, read, hidden, 1, directions)
        engines = [ENGINES[name] for name in _CANDIDATES if ENGINES[name].refusal(run) is None]
        for name, taken in timed(engines, run, module, learning=learning).items():
            found.setdefault(entry(name, sizes), []).append((features(name, sizes), taken * 1e6))
    return found


def draw_small(draw: random.Random, learning: bool) -> tuple[list[int], int, int, int]:
    """A batch that all engines can be tried on several times in a second or two."""
    while True:
        lengths, read, hidden, directions = drawn(draw)
        work = sum(lengths) * hidden * directions * (read + hidden) * (1 + max(lengths) / 50 if learning else 1)
        if work < 8e9:
            return lengths, read, hidden, directions


def timed(engines: Sequence[Engine], run: Run, module: nn.Module, *, learning: bool) -> dict[str, float]:
    """How many seconds each engine takes: the shortest of some runs, in turn, so that noise hits all alike."""
    # What else the machine does is not counted, where one thread does it all.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    taken: dict[str, list[float]] = {engine.name: [] for engine in engines}
    for turn in range(6):
        for engine in engines if turn % 2 else engines[::-1]:
            if turn > 1 and taken[engine.name][-1] > _SLOW:
                continue
            began = clock()
            once(engine, run, learning=learning)
            taken[engine.name].append(clock() - began)
            module.zero_grad()
    return {name: min(times) for name, times in taken.items()}


def once(engine: Engine, run: Run, *, learning: bool) -> None:
    """One run, and its backward pass."""
    with torch.set_grad_enabled(learning):
        output, _ = engine.run(run)
        if learning:
            torch.autograd.backward(output.sum())


def fitted(points: Sequence[Point]) -> dict[str, float]:
    """The weights, none below zero, by which features add up to the times, relative errors alike.

    By coordinate descent on the squares, which ends at the best such weights (Lawson and Hanson 1974, "Solving Least
    Squares Problems", chapter 23, reach it in another way).
    """
    table = torch.tensor([[feature / taken for feature in row] for row, taken in points], dtype=torch.float64)
    scale = table.square().sum(0).sqrt().clamp(min=1e-30)
    table = table / scale
    squares, wanted = numbers(table.mT @ table), numbers(table.sum(0).unsqueeze(0))[0]
    weights = [0.0] * len(wanted)
    for _ in range(_ROUNDS):
        for index, row in enumerate(squares):
            rest = wanted[index] - sum(square * weight for square, weight in zip(row, weights, strict=True))
            weights[index] = max(0.0, weights[index] + rest / row[index]) if row[index] else 0.0
    unscaled = [weight / by for weight, by in zip(weights, numbers(scale.unsqueeze(0))[0], strict=True)]
    return {name: float(f"{weight:.4g}") for name, weight in zip(FEATURES, unscaled, strict=True)}


numbers: Callable[[Tensor], list[list[float]]] = methodcaller("tolist")
"""A matrix as lists; torch leaves the type of `tolist` open."""


def main() -> None:
    """Measure, fit and write."""
    parser = argparse.ArgumentParser(prog="python -m pipeline_recurrent.engines.fit", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each cell, in training and in inference")
    default = Path(str(files("pipeline_recurrent.engines").joinpath("costs.json")))
    parser.add_argument("--to", type=Path, default=default, help="the file to write; this package's by default")
    said = parser.parse_args()
    threads, table = str(torch.get_num_threads()), dict[str, dict[str, dict[str, float]]]()
    for seed, family in enumerate(get_args(Family)):
        for learning in (False, True):
            points = measured(family, learning, said.seconds, seed)
            sizes = Sizes(family, learning, 1, 1, 1, 1, 1)
            table[key(sizes)] = {name: fitted(those) for name, those in points.items()}
    path: Path = said.to
    known: object = json.loads(path.read_text("utf-8")) if path.exists() else {}
    before = cast("dict[str, dict[str, object]]", known)
    written = {
        "about": "Microseconds, written by `python -m pipeline_recurrent.engines.fit`; costs.py tells the names.",
        "machine": f"{platform.processor() or platform.machine()}, torch {torch.__version__}",
        "threads": {**before.get("threads", {}), threads: table},
    }
    path.write_text(json.dumps(written, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
