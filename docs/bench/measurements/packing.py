"""Packed batches beside padded ones: steps, memory saved for the backward pass, and time; and the cost of shape checks.

The checks around every stage are measured as a share of a training step.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, cast

import attrs
import torch
from torch import Tensor, nn

from bench.encoders.points import draw_lengths
from bench.record import Parameter, Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import (
    Quartiles,
    Rounds,
    Step,
    Threads,
    check_equal,
    list_threads,
    make_step,
    time_first_runs,
    time_interleaved,
    use_threads,
)
from pipeline import Classify, Encode, Pack, Packed, Padded, Pool, Vectors, set_checks
from pipeline.extend import BatchMetadata
from pipeline_recurrent import LSTM

PACKING_FEATURES: Final = 100
PACKING_HIDDEN: Final = 128


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
        name: Collated(torch.randn(len(lengths), int(lengths.max()), PACKING_FEATURES, generator=generator), lengths)
        for name, lengths in lengths_by_name.items()
    }


def sum_padded(lstm: nn.LSTM, rows: Collated) -> Tensor:
    """Run a padded batch, as is common without packing. This is exact for a forward LSTM only."""
    batch = rows.make_batch()
    steps, _ = lstm(batch.values)
    return torch.where(batch.order.mask(batch.width).unsqueeze(-1), cast("Tensor", steps), 0).sum()


def sum_packed(lstm: nn.LSTM, rows: Collated) -> Tensor:
    """Pack the same batch and run it."""
    packed: Packed[Vectors] = rows.make_batch().packed()
    steps, _ = lstm(nn.utils.rnn.PackedSequence(packed.values, packed.order.batch_sizes))
    return cast("Tensor", steps.data).sum()


_LAYOUTS: Final[Mapping[str, Callable[[nn.LSTM, Collated], Tensor]]] = {"padded": sum_padded, "packed": sum_packed}


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


def measure_packing(extent: Extent) -> Iterator[Result]:
    """Measure each batch in training and in inference; the batches are the same in every extent."""
    del extent
    for name, rows in make_batches().items():
        for training in (True, False):
            yield measure_batch(name, rows, training=training)


def measure_batch(name: str, rows: Collated, *, training: bool) -> Result:
    """Compare sums and gradients of both layouts, then time them in interleaved rounds."""
    torch.default_generator.manual_seed(0)
    lstm = nn.LSTM(PACKING_FEATURES, PACKING_HIDDEN, batch_first=True)
    runs = {layout: partial(run, lstm, rows) for layout, run in _LAYOUTS.items()}
    steps = {layout: make_step(run, list(lstm.parameters()), training=training) for layout, run in runs.items()}
    check_equal({layout: step() for layout, step in steps.items()})
    times = time_interleaved(steps, Rounds())
    memory = {layout: measure_saved_bytes(run) for layout, run in runs.items()} if training else {}
    report = rows.make_batch().report()
    parameters: dict[str, Parameter] = {"batch": name, "training": training}
    parameters |= {"steps": report.steps, "padded": report.padded}
    point = f"{name}, {'training' if training else 'inference'}"
    return Result("packing", point, torch.get_num_threads(), parameters, times, memory)


def tabulate_packing(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per batch and mode."""
    headings = ("batch", "real / padded steps", "time, padded / packed", "saved memory, padded / packed")
    sizes = f"input {PACKING_FEATURES}, hidden {PACKING_HIDDEN}"
    note = f"A forward LSTM, {sizes}, torch's own kernels. Above 1, packing is better."
    return ReportTable("Packing", headings, [_make_packing_cells(result) for result in results], [note])


def _make_packing_cells(result: Result) -> list[str]:
    ratio = result.memory_ratio("padded", "packed")
    steps = f"{result.parameters['steps']} / {result.parameters['padded']}"
    return [result.point, steps, result.format_ratio("padded", "packed"), "" if ratio is None else f"{ratio:.2f}"]


PACKING: Final = Measurement("packing", measure_packing, tabulate_packing)


CHECKED_ROWS, CHECKED_STEPS, CHECKED_FEATURES, CHECKED_HIDDEN, CHECKED_CLASSES = 64, 20, 300, 256, 6


def make_training_step(features: int, hidden: int) -> Step:
    """Return a training step, from collated tensors to gradients."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(CHECKED_ROWS, CHECKED_STEPS, features, generator=generator)
    lengths = torch.randint(1, CHECKED_STEPS + 1, (CHECKED_ROWS,), generator=generator)
    targets = torch.randint(0, CHECKED_CLASSES, (CHECKED_ROWS,), generator=generator)
    torch.default_generator.manual_seed(0)
    model = Pack(Vectors) >> Encode(LSTM(features, hidden)) >> Pool("max") >> Classify(CHECKED_CLASSES)
    weights = list(model.parameters())

    def step() -> tuple[Tensor, ...]:
        metadata = BatchMetadata(torch.arange(CHECKED_ROWS), targets)
        loss = model(Padded(Vectors, values, lengths, metadata=metadata)).loss()
        return loss.detach(), *torch.autograd.grad(loss, weights)

    return step


def disable_checks(step: Step) -> Step:
    """Return the same step without checks."""

    def run() -> tuple[Tensor, ...]:
        with set_checks(False):
            return step()

    return run


def measure_check_costs(extent: Extent) -> Iterator[Result]:
    """Measure on one thread and on all; the step is the same in every extent."""
    del extent
    for threads in list_threads():
        yield measure_checks(threads)


def measure_checks(threads: Threads, rounds: int = 1_000) -> Result:
    """Measure a whole step, and the difference between a small step with and without checks.

    The small step has one feature and one hidden unit: the cost of checks does not depend on these sizes, and would be
    lost in the noise of a large step. It runs on one thread, since checks run on one.
    """
    small = make_training_step(1, 1)
    pair = {"checked": small, "unchecked": disable_checks(small)}
    check_equal({name: step() for name, step in pair.items()})
    with use_threads("one"):
        # The difference is small beside the noise of a single step. Its median takes far more rounds than a ratio does.
        times = time_interleaved(pair, Rounds(rounds, rounds))
    with use_threads(threads) as number:
        whole = {"step": make_training_step(CHECKED_FEATURES, CHECKED_HIDDEN)}
        times |= time_interleaved(whole, Rounds(min(rounds, 40)), time_first_runs(whole))
    point = (
        f"{CHECKED_ROWS} rows of up to {CHECKED_STEPS} steps, LSTM, input {CHECKED_FEATURES}, hidden {CHECKED_HIDDEN}"
    )
    return Result("checks", point, number, {"threads": threads}, times)


def tabulate_checks(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per number of threads."""
    headings = ("training step", "threads", "time", "time of checks", "share of checks")
    return ReportTable("Cost of checks", headings, [_make_checks_cells(result) for result in results])


def _make_checks_cells(result: Result) -> list[str]:
    checked, unchecked = result.times["checked"].seconds, result.times["unchecked"].seconds
    cost = Quartiles.of([one - other for one, other in zip(checked, unchecked, strict=True)])
    whole = result.times["step"].quartiles.median
    share = f"{cost.median / whole:.2%} ({cost.low / whole:.2%} to {cost.high / whole:.2%})"
    return [result.point, str(result.threads), f"{whole * 1e3:.1f} ms", f"{cost.median * 1e6:.0f} us", share]


CHECKS: Final = Measurement("checks", measure_check_costs, tabulate_checks)
