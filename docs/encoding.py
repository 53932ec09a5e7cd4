"""Measure the engines of the recurrent encoders against torch's packed kernel, with the same weights and batches.

Run it with `nox -s bench -- encoding`. All engines take turns in one process, so that noise hits them alike; a ratio is
the packed kernel's time over an engine's, with its lower and upper quartile: above 1, the engine is the faster one.
What they give is asserted equal first. Beside the ratios stands the share of the matrix peak, which is measured in
the same run as torch's own product of two large matrices.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pipeline import Packed, Padded, Sight, Vectors
from pipeline.parts.encoder import Encoder
from pipeline_recurrent import GRU, LSTM, EngineName
from pipeline_recurrent.native import available

SLOW: Final = 1.0
"""Seconds after which a run is repeated three times only."""


class Point(NamedTuple):
    """What is measured."""

    cell: str
    typical: int
    rows: int
    features: int
    hidden: int
    learning: bool
    both: bool = True

    def __str__(self) -> str:
        what = "training" if self.learning else "inference"
        return f"{'Bi' if self.both else ''}{self.cell} {what}, rows ~{self.typical}, {self.rows} at h{self.hidden}"


POINTS: Final = [
    Point(cell, typical, rows, features, hidden, learning)
    for learning in (True, False)
    for cell in ("LSTM", "GRU")
    for typical, rows, features, hidden in ((20, 64, 300, 256), (20, 32, 100, 128), (230, 32, 100, 128))
]


def batch(point: Point) -> Packed[Vectors]:
    """Rows whose lengths are spread as those of sentences, or of reviews, are."""
    generator = torch.Generator().manual_seed(0)
    spread, middle = (0.5, 17.6) if point.typical < 100 else (0.7, 180.0)
    drawn = torch.exp(torch.randn(point.rows, generator=generator) * spread + math.log(middle))
    lengths = drawn.round().long().clamp(2, 600)
    values = torch.randn(point.rows, int(lengths.max()), point.features, generator=generator)
    return Padded(Vectors, values, lengths).packed()


def encoder(point: Point, engine: EngineName) -> Encoder[Sight]:
    """The same weights for every engine."""
    torch.default_generator.manual_seed(0)
    made = LSTM if point.cell == "LSTM" else GRU
    return made(point.features, point.hidden, bidirectional=point.both, engine=engine)


def runs(point: Point, rows: Packed[Vectors]) -> Mapping[str, Callable[[], Tensor]]:
    """A step of training, or of inference, for each engine."""
    engines: Sequence[EngineName] = ("packed", "dense", "plain", *(() if available() else ("native",)), "auto")

    def run(made: Encoder[Sight]) -> Tensor:
        if not point.learning:
            with torch.inference_mode():
                return made(rows).packed().values
        steps = made(rows).packed().values
        torch.autograd.grad(steps.sum(), list(made.parameters()))
        return steps.detach()

    def of(made: Encoder[Sight]) -> Callable[[], Tensor]:
        return lambda: run(made)

    return {engine: of(encoder(point, engine)) for engine in engines}


def seconds(run: Callable[[], object]) -> float:
    """How long one run takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak() -> float:
    """How many operations a second a product of large matrices does."""
    left, right = torch.randn(1_536, 1_536), torch.randn(1_536, 1_536)
    return 2 * 1_536**3 / statistics.median(seconds(lambda: left @ right) for _ in range(9))


def operations(point: Point, rows: Packed[Vectors]) -> float:
    """The operations of the products, forward and, in training, twice that backward."""
    gates, directions = (4 if point.cell == "LSTM" else 3), (2 if point.both else 1)
    once = 2 * len(rows.values) * gates * point.hidden * (point.features + point.hidden) * directions
    return once * (3 if point.learning else 1)


def measured(point: Point) -> list[str]:
    """One row of the table."""
    rows = batch(point)
    candidates = runs(point, rows)
    wanted = candidates["packed"]()
    for run in candidates.values():
        torch.testing.assert_close(run(), wanted, rtol=1e-4, atol=1e-4)
    turns = 3 if seconds(candidates["packed"]) > SLOW else 15
    taken: dict[str, list[float]] = {engine: [] for engine in candidates}
    for turn in range(turns):
        for engine in list(candidates)[:: -1 if turn % 2 else 1]:
            taken[engine].append(seconds(candidates[engine]))
    cells = [str(point), f"{statistics.median(taken['packed']) * 1e3:.1f} ms"]
    for engine in ("dense", "plain", "native", "auto"):
        if engine not in taken:
            cells.append("-")
            continue
        ratios = [one / other for one, other in zip(taken["packed"], taken[engine], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        share = operations(point, rows) / statistics.median(taken[engine]) / peak()
        cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f}), {share:.0%}")
    return cells


def main() -> None:
    """Measure, and print the table."""
    headings = ("over packed, and share of the matrix peak", "packed", "dense", "plain", "native", "auto")
    table = Table(*headings)
    for point in POINTS:
        table.add_row(*measured(point))
    console = Console(width=160)
    console.print(table)
    console.print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, native engine: {available() or 'yes'}"
    )


if __name__ == "__main__":
    main()
