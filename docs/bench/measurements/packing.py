"""Packed beside padded batches: number of steps, memory saved for the backward pass, and time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, cast

import attrs
import torch
from torch import Tensor, nn

from bench.encoders.points import draw_lengths
from bench.record import Parameter, Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import Rounds, check_equal, make_step, time_first_runs, time_interleaved
from pipeline import Packed, Padded, Vectors

FEATURES: Final = 100
HIDDEN: Final = 128


@attrs.frozen(eq=False)
class Collated:
    """A padded batch as tensors. Every step makes a `Padded` of them, as a loader does."""

    values: Tensor
    lengths: Tensor

    def make_batch(self) -> Padded[Vectors]:
        """Return a new batch, without a cached packing order."""
        return Padded(Vectors, self.values, self.lengths)


def make_batches() -> Mapping[str, Collated]:
    """Return three batches: the eight rows of the recipes page, random sentences, and bucketed sentences."""
    # 64 rows from the middle of 4,096 sorted ones are as even as those of a bucketed batch.
    many = draw_lengths("~20", 4_096)
    lengths_by_name = {
        "8 rows of 4,6,8,5,4,3,7,8 steps": torch.tensor([4, 6, 8, 5, 4, 3, 7, 8]),
        "64 sentences, random": many[:64],
        "64 sentences, bucketed": many.sort().values[2_048:2_112],
    }
    generator = torch.Generator().manual_seed(0)
    return {
        name: Collated(torch.randn(len(lengths), int(lengths.max()), FEATURES, generator=generator), lengths)
        for name, lengths in lengths_by_name.items()
    }


def run_padded(lstm: nn.LSTM, rows: Collated) -> Tensor:
    """Run a padded batch, as is common without packing. This is exact for a forward LSTM only."""
    batch = rows.make_batch()
    steps, _ = lstm(batch.values)
    return torch.where(batch.order.mask(batch.width).unsqueeze(-1), cast("Tensor", steps), 0).sum()


def run_packed(lstm: nn.LSTM, rows: Collated) -> Tensor:
    """Pack the same batch and run it."""
    packed: Packed[Vectors] = rows.make_batch().packed()
    steps, _ = lstm(nn.utils.rnn.PackedSequence(packed.values, packed.order.batch_sizes))
    return cast("Tensor", steps.data).sum()


_LAYOUTS: Final[Mapping[str, Callable[[nn.LSTM, Collated], Tensor]]] = {"padded": run_padded, "packed": run_packed}


def measure_saved_bytes(run: Callable[[], object]) -> int:
    """Return the bytes that a forward pass saves for the backward pass, without the weights."""
    # By address, since several saved tensors may be views of one storage.
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(storages.values())


def measure(extent: Extent) -> Iterator[Result]:
    """Measure each batch in training and in inference; the batches are the same in every extent."""
    del extent
    for name, rows in make_batches().items():
        for training in (True, False):
            yield measure_batch(name, rows, training=training)


def measure_batch(name: str, rows: Collated, *, training: bool) -> Result:
    """Compare sums and gradients of both layouts, then time them in interleaved rounds."""
    torch.default_generator.manual_seed(0)
    lstm = nn.LSTM(FEATURES, HIDDEN, batch_first=True)
    runs = {layout: partial(run, lstm, rows) for layout, run in _LAYOUTS.items()}
    steps = {layout: make_step(run, list(lstm.parameters()), training=training) for layout, run in runs.items()}
    check_equal({layout: step() for layout, step in steps.items()})
    times = time_interleaved(steps, Rounds(), time_first_runs(steps))
    memory = {layout: measure_saved_bytes(run) for layout, run in runs.items()} if training else {}
    report = rows.make_batch().report()
    parameters: dict[str, Parameter] = {"batch": name, "training": training}
    parameters |= {"steps": report.steps, "padded": report.padded}
    point = f"{name}, {'training' if training else 'inference'}"
    return Result("packing", point, torch.get_num_threads(), parameters, times, memory)


def tabulate(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per batch and mode."""
    headings = ("batch", "real / padded steps", "time, padded / packed", "saved memory, padded / packed")
    note = f"A forward LSTM, input {FEATURES}, hidden {HIDDEN}, torch's own kernels. Above 1, packing is better."
    return ReportTable("Packing", headings, [_make_cells(result) for result in results], [note])


def _make_cells(result: Result) -> list[str]:
    ratio = result.memory_ratio("padded", "packed")
    steps = f"{result.parameters['steps']} / {result.parameters['padded']}"
    return [result.point, steps, str(result.time_ratio("padded", "packed")), "" if ratio is None else f"{ratio:.2f}"]


PACKING: Final = Measurement("packing", measure, tabulate)
