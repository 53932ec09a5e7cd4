"""Measure what the checks at the borders cost of a training step.

Run it with `nox -s bench -- checks`. The cost of the checks is the difference between two runs of one chain, with
and without them, that take turns in one process; its tensors are one feature wide, so that the difference is
not lost in the work. It does not depend on the width. The step that it is held against is 64 rows of up to 20
steps x 300, encoded at hidden 256.
"""

import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from pipeline import Classify, Encode, Pack, Padded, Pool, Vectors, set_checks
from pipeline.sequences.riders import Riders
from pipeline_recurrent import LSTM

ROWS, STEPS, FEATURES, HIDDEN, CLASSES = 64, 20, 300, 256, 6


def training(features: int, hidden: int) -> Callable[[], object]:
    """One step of training, from collated tensors to moved weights."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(ROWS, STEPS, features, generator=generator)
    lengths = torch.randint(1, STEPS + 1, (ROWS,), generator=generator)
    targets = torch.randint(0, CLASSES, (ROWS,), generator=generator)
    model = Pack(Vectors) >> Encode(LSTM(features, hidden)) >> Pool("max") >> Classify(CLASSES)
    weights = list(model.parameters())

    def step() -> None:
        riders = Riders(torch.arange(ROWS), targets)
        loss = model(Padded(Vectors, values, lengths, riders=riders)).loss()
        with torch.no_grad():
            for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight.sub_(gradient, alpha=0.01)

    return step


def seconds(run: Callable[[], object]) -> float:
    """How long one run takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def cost(turns: int = 1_000) -> list[float]:
    """How much longer a narrow step takes with checks than without: quartiles, in seconds."""
    narrow = training(1, 1)
    differences: list[float] = []
    for _ in range(turns):
        with set_checks(False):
            without = seconds(narrow)
        differences.append(seconds(narrow) - without)
    return statistics.quantiles(differences, n=4)


def main() -> None:
    """Measure, and print the table."""
    table = Table("threads", "a training step", "the checks in it", "share, with quartiles")
    every = torch.get_num_threads()
    for threads in sorted({1, every}):
        torch.set_num_threads(threads)
        step = training(FEATURES, HIDDEN)
        step()
        whole = statistics.median(seconds(step) for _ in range(40))
        torch.set_num_threads(1)
        low, middle, high = cost()
        share = f"{middle / whole:.2%} ({low / whole:.2%} to {high / whole:.2%})"
        table.add_row(str(threads), f"{whole * 1e3:.1f} ms", f"{middle * 1e6:.0f} us", share)
    console = Console(width=120)
    console.print(table)
    shape = f"{ROWS} rows of up to {STEPS} steps x {FEATURES}, LSTM at hidden {HIDDEN}"
    console.print(f"torch {torch.__version__}, {shape}")


if __name__ == "__main__":
    main()
