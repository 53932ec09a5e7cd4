"""Encoders that are scanned beside torch's packed LSTM of the same size, on long rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, cast

import torch
from torch import Tensor, nn

from bench.encoders.candidates import disable_native
from bench.record import Parameter, Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import Rounds, check_equal, make_step, time_first_runs, time_interleaved
from pipeline import MaybeCausal, Packed, Padded, Vectors
from pipeline_recurrent import LRU, MinGRU, MinLSTM

STEPS: Final = 4_096
ROWS: Final = 8
FEATURES: Final = 128
HIDDEN: Final = 128

_Scanned = MinGRU[MaybeCausal] | MinLSTM[MaybeCausal] | LRU[MaybeCausal]

_MAKE: Final[Mapping[str, Callable[[int, int], _Scanned]]] = {"min_gru": MinGRU, "min_lstm": MinLSTM, "lru": LRU}


def make_lengths() -> Mapping[str, Tensor]:
    """Return the lengths of rows of one length, of a lone row, and of rows of 512 to 1,024 steps.

    Longer rows of unequal lengths would take torch's LSTM minutes, since its backward pass is quadratic there.
    """
    unequal = torch.randint(STEPS // 8, STEPS // 4, (ROWS,), generator=torch.Generator().manual_seed(0))
    unequal[0] = STEPS // 4
    return {"even": torch.full((ROWS,), STEPS), "lone": torch.tensor([STEPS]), "unequal": unequal}


def run_ours(encoder: _Scanned, values: Tensor, lengths: Tensor) -> Tensor:
    """Return the sum of the squares of all states."""
    return encoder(Padded(Vectors, values, lengths)).packed().values.square().sum()


def run_packed(lstm: nn.LSTM, values: Tensor, lengths: Tensor) -> Tensor:
    """Return the same of torch's LSTM on packed rows."""
    packed: Packed[Vectors] = Padded(Vectors, values, lengths).packed()
    steps, _ = lstm(nn.utils.rnn.PackedSequence(packed.values, packed.order.batch_sizes))
    return cast("Tensor", steps.data).square().sum()


def measure(extent: Extent) -> Iterator[Result]:
    """Measure each encoder on each batch; a quick run has a minGRU on rows of one length only."""
    for batch, lengths in make_lengths().items():
        for name in _MAKE:
            if extent != "quick" or (batch, name) == ("even", "min_gru"):
                yield measure_encoder(name, batch, lengths)


def measure_encoder(name: str, batch: str, lengths: Tensor) -> Result:
    """Compare the kernels with torch's operations, then time training steps of both and of an LSTM."""
    torch.default_generator.manual_seed(0)
    values = torch.randn(len(lengths), int(lengths.max()), FEATURES)
    encoder, lstm = _MAKE[name](FEATURES, HIDDEN), nn.LSTM(FEATURES, HIDDEN)
    ours = make_step(partial(run_ours, encoder, values, lengths), list(encoder.parameters()), training=True)

    def run_without_kernels() -> tuple[Tensor, ...]:
        with disable_native():
            return ours()

    packed = make_step(partial(run_packed, lstm, values, lengths), list(lstm.parameters()), training=True)
    steps = {"scan": ours, "torch's operations": run_without_kernels, "packed LSTM": packed}
    check_equal({key: steps[key]() for key in ("scan", "torch's operations")})
    times = time_interleaved(steps, Rounds(), time_first_runs(steps))
    parameters: dict[str, Parameter] = {"encoder": name, "batch": batch, "steps": int(lengths.sum())}
    return Result("scan", f"{name}, {batch} rows", torch.get_num_threads(), parameters, times)


def tabulate(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per encoder and batch."""
    headings = ("encoder", "scan", "packed LSTM / scan", "torch's operations / scan")
    note = (
        f"A training step with compiled kernels: on {ROWS} rows of {STEPS:,} steps (even), on a lone row as long, "
        f"and on {ROWS} rows of {STEPS // 8} to {STEPS // 4:,} steps (unequal). One layer, input {FEATURES}, hidden "
        f"{HIDDEN}. Above 1, the kernels are faster."
    )
    return ReportTable("Scans", headings, [_make_cells(result) for result in results], [note])


def _make_cells(result: Result) -> list[str]:
    ratios = [str(result.time_ratio(name, "scan")) for name in ("packed LSTM", "torch's operations")]
    return [result.point, str(result.times["scan"]), *ratios]


SCAN: Final = Measurement("scan", measure, tabulate)
