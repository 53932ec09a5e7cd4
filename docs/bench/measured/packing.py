"""What packing saves: steps, memory kept for the backward pass, and time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, cast

import attrs
import torch
from torch import Tensor, nn

from bench.encoders.lengths import draw_lengths
from bench.measured.measurement import Extent, Measurement
from bench.record.finding import Finding, Trait
from bench.record.sheet import Sheet
from bench.timing.alike import check_alike
from bench.timing.step import step_of
from bench.timing.turns import Turns, by_turns, first_times
from pipeline import Packed, Padded, Vectors

FEATURES: Final = 100
HIDDEN: Final = 128


@attrs.frozen(eq=False)
class Rows:
    """A batch in a rectangle; made into one of the library's own at every step, as a loader does."""

    values: Tensor
    lengths: Tensor

    def padded(self) -> Padded[Vectors]:
        """The batch."""
        return Padded(Vectors, self.values, self.lengths)


def batches() -> Mapping[str, Rows]:
    """Three batches: the eight rows of the page, sentences in random batches, and the same rows bucketed."""
    many = draw_lengths("~20", 4_096)
    several = {
        "8 rows of 4,6,8,5,4,3,7,8 steps": torch.tensor([4, 6, 8, 5, 4, 3, 7, 8]),
        "64 sentences, drawn at random": many[:64],
        "64 sentences, bucketed": many.sort().values[2_048:2_112],
    }
    generator = torch.Generator().manual_seed(0)
    return {
        name: Rows(torch.randn(len(lengths), int(lengths.max()), FEATURES, generator=generator), lengths)
        for name, lengths in several.items()
    }


def padded_run(lstm: nn.LSTM, rows: Rows) -> Tensor:
    """What one writes without packing; for two directions its backward half would be wrong."""
    batch = rows.padded()
    steps, _ = lstm(batch.values)
    return torch.where(batch.order.mask(batch.width).unsqueeze(-1), cast("Tensor", steps), 0).sum()


def packed_run(lstm: nn.LSTM, rows: Rows) -> Tensor:
    """The same rows packed; the packing is counted in."""
    packed: Packed[Vectors] = rows.padded().packed()
    steps, _ = lstm(nn.utils.rnn.PackedSequence(packed.values, packed.order.batch_sizes))
    return cast("Tensor", steps.data).sum()


_WAYS: Final[Mapping[str, Callable[[nn.LSTM, Rows], Tensor]]] = {"padded": padded_run, "packed": packed_run}


def kept(run: Callable[[], object]) -> int:
    """How many bytes a forward pass keeps for the backward pass, weights left out."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(storages.values())


def find(extent: Extent) -> Iterator[Finding]:
    """Every batch, in training and in inference; there are no more of them in any extent."""
    del extent
    for name, rows in batches().items():
        for learning in (True, False):
            yield measured(name, rows, learning=learning)


def measured(name: str, rows: Rows, *, learning: bool) -> Finding:
    """One batch: sums and gradients are compared, then both take turns."""
    torch.default_generator.manual_seed(0)
    lstm = nn.LSTM(FEATURES, HIDDEN, batch_first=True)
    runs = {way: partial(run, lstm, rows) for way, run in _WAYS.items()}
    steps = {way: step_of(run, list(lstm.parameters()), learning=learning) for way, run in runs.items()}
    check_alike({way: step() for way, step in steps.items()})
    times = by_turns(steps, Turns(), first_times(steps))
    memory = {way: kept(run) for way, run in runs.items()} if learning else {}
    report = rows.padded().report()
    traits: dict[str, Trait] = {"batch": name, "learning": learning, "steps": report.steps, "padded": report.padded}
    point = f"{name}, {'training' if learning else 'inference'}"
    return Finding("packing", point, torch.get_num_threads(), traits, times, memory)


def sheet(findings: Sequence[Finding]) -> Sheet:
    """A row a batch and what is done with it."""
    headings = ("batch", "real of padded steps", "padded over packed", "memory kept, padded over packed")
    notes = (f"A forward LSTM of {FEATURES} to {HIDDEN}, torch's own kernels. Above 1, packing is the better one.",)
    return Sheet("What packing saves", headings, [_cells(finding) for finding in findings], notes)


def _cells(finding: Finding) -> list[str]:
    memory = f"{finding.bytes['padded'] / finding.bytes['packed']:.2f}" if finding.bytes else ""
    steps = f"{finding.traits['steps']} of {finding.traits['padded']}"
    return [finding.point, steps, str(finding.ratio("padded", "packed")), memory]


PACKING: Final = Measurement("packing", find, sheet)
