"""Measure what packing saves: steps, memory kept for the backward pass, and time. Prints the table of cases.md.

Run it with `nox -s bench`. Padded and packed take turns in one process, so that noise hits both alike;
a ratio is padded over packed, with its lower and upper quartile: above 1, packing is the better one.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import cast

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from pipeline import Packed, Padded, Vectors

FEATURES, HIDDEN, TURNS = 100, 128, 15


def batches() -> dict[str, Padded[Vectors]]:
    """Three batches: the eight rows of the page, sentences in random batches, and the same rows bucketed."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.exp(torch.randn(4_096, generator=generator) * 0.6 + 3).long().clamp(1, 200)
    several = {
        "8 rows of 4,6,8,5,4,3,7,8 steps": torch.tensor([4, 6, 8, 5, 4, 3, 7, 8]),
        "64 sentences, drawn at random": drawn[:64],
        "64 sentences, bucketed": drawn.sort().values[2_048:2_112],
    }
    return {
        name: Padded(Vectors, torch.randn(len(lengths), int(lengths.max()), FEATURES, generator=generator), lengths)
        for name, lengths in several.items()
    }


def padded_run(lstm: nn.LSTM, batch: Padded[Vectors]) -> Tensor:
    """What one writes without packing; for two directions its backward half would be wrong."""
    steps, _ = lstm(batch.values)
    return torch.where(batch.order.mask(batch.width).unsqueeze(-1), cast("Tensor", steps), 0).sum()


def packed_run(lstm: nn.LSTM, batch: Padded[Vectors]) -> Tensor:
    """The same rows packed; the packing is counted in."""
    packed: Packed[Vectors] = Padded(Vectors, batch.values, batch.lengths).packed()
    steps, _ = lstm(nn.utils.rnn.PackedSequence(packed.values, packed.order.batch_sizes))
    return cast("Tensor", steps.data).sum()


def kept(run: Callable[[], Tensor]) -> int:
    """How many bytes a forward pass keeps for the backward pass, weights left out."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(storages.values())


def seconds(run: Callable[[], object]) -> float:
    """How long one run takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratio(one: Callable[[], object], other: Callable[[], object]) -> str:
    """How many times as long one takes as the other, with quartiles."""
    one()
    other()
    ratios = sorted(seconds(one) / seconds(other) for _ in range(TURNS))
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def measured(batch: Padded[Vectors]) -> Sequence[str]:
    """One row of the table."""
    lstm = nn.LSTM(FEATURES, HIDDEN, batch_first=True)
    report = batch.report()

    def infer(run: Callable[[nn.LSTM, Padded[Vectors]], Tensor]) -> Callable[[], object]:
        return torch.no_grad()(lambda: run(lstm, batch))

    def train(run: Callable[[nn.LSTM, Padded[Vectors]], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(run(lstm, batch), list(lstm.parameters()))

    memory = kept(lambda: padded_run(lstm, batch)) / kept(lambda: packed_run(lstm, batch))
    return [
        f"{report.steps} of {report.padded}",
        f"{memory:.2f}",
        ratio(infer(padded_run), infer(packed_run)),
        ratio(train(padded_run), train(packed_run)),
    ]


def main() -> None:
    """Measure, and print the table."""
    table = Table("batch", "real of padded steps", "memory kept", "time, inference", "time, training")
    for name, batch in batches().items():
        table.add_row(name, *measured(batch))
    console = Console(width=120)
    console.print(table)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, LSTM {FEATURES} to {HIDDEN}")


if __name__ == "__main__":
    main()
