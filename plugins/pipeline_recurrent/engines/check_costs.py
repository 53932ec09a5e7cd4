"""Compare what `auto` chooses with the fastest engine: `python -m pipeline_recurrent.engines.check_costs`.

It measures batches on which the costs were not fitted, with one thread and with two, prints them in the order of their
ratio, the time of the chosen engine divided by that of the fastest, and ends with the largest ratio of each kind.
"""

import argparse
import random
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs
import torch

from pipeline_recurrent.engines.costs import Costs, load_costs
from pipeline_recurrent.engines.measured import SETTINGS, Measured, measure

_SEED: Final = 1_000
"""Far from the seeds with which the costs were fitted."""


@attrs.frozen
class Choice:
    """A measured batch, and the engine that the cost model chooses for it."""

    threads: int
    measured: Measured
    engine: str

    @property
    def ratio(self) -> float:
        """The time of the chosen engine, divided by that of the fastest one."""
        return self.measured.compare_with_best(self.engine)

    def __str__(self) -> str:
        times = ", ".join(
            f"{engine} {statistics.median(seconds) * 1e3:.3g}" for engine, seconds in self.measured.seconds.items()
        )
        where = f"{self.measured.sizes.table_key}, threads={self.threads}, {self.measured.batch}"
        return f"{self.ratio:.3f} {self.engine}: {where} ({times} ms)"


def check(costs: Costs, *, seconds: float, threads: int, large: int = 1) -> Iterator[Choice]:
    """Measure batches with some threads, and yield the choices.

    Args:
        costs: the costs to choose by.
        seconds: the time for small batches.
        threads: the number of threads.
        large: the number of large batches of each setting, which take a minute and a half more.
    """
    shares = sum(setting.share for setting in SETTINGS)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for seed, setting in enumerate(SETTINGS, start=_SEED):
            seconds_here = seconds * setting.share / shares
            for measured in measure(setting, random.Random(seed), seconds=seconds_here, large=large):
                ranked = costs.rank_sizes(measured.sizes, threads)
                yield Choice(threads, measured, next(engine for engine in ranked if engine in measured.seconds))
    finally:
        torch.set_num_threads(before)


def summarize(choices: list[Choice]) -> str:
    """Return a line per number of threads, precision and kind of batch, and the largest ratio of all."""
    groups = dict[str, list[float]]()
    for choice in choices:
        sizes, kind = choice.measured.sizes, choice.measured.batch.kind
        groups.setdefault(f"threads={choice.threads}, {sizes.precision}, {kind}", []).append(choice.ratio)
    lines = [
        f"{name}: {len(ratios)} batches, mean {statistics.mean(ratios):.3f}, {share_within(ratios):.0%} within 1.03, "
        f"largest {max(ratios):.3f}"
        for name, ratios in sorted(groups.items())
    ]
    return "\n".join([*lines, f"largest of all: {max(choice.ratio for choice in choices):.3f}"])


def share_within(ratios: list[float], limit: float = 1.03) -> float:
    """Return the share of the ratios that are at most the limit."""
    return sum(ratio <= limit for ratio in ratios) / len(ratios)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m pipeline_recurrent.engines.check_costs", description=__doc__)
    parser.add_argument("--seconds", type=float, default=160.0, help="time for all small batches; default: 160")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], help="numbers of threads; default: 1 2")
    parser.add_argument("--costs", type=Path, help="a file of `fit_costs`; this package's by default")
    options = parser.parse_args()
    file: Path | None = options.costs
    costs = load_costs() if file is None else Costs.read(file.read_text("utf-8"))
    numbers: list[int] = options.threads
    choices = [
        choice
        for threads in numbers
        for choice in check(costs, seconds=options.seconds / len(numbers), threads=threads)
    ]
    for choice in sorted(choices, key=lambda choice: choice.ratio):
        sys.stdout.write(f"{choice}\n")
    sys.stdout.write(f"{summarize(choices)}\n")


if __name__ == "__main__":
    main()
