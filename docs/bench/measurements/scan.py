"""Encoders that are scanned beside torch's packed LSTM of the same size, on rows of 4,096 steps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, cast

import torch
from torch import Tensor, nn

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
    """Return the lengths of rows of one length, and of rows of 3,072 to 4,096 steps."""
    lengths = torch.randint(STEPS * 3 // 4, STEPS, (ROWS,), generator=torch.Generator().manual_seed(0))
    lengths[0] = STEPS
    return {"even": torch.full((ROWS,), STEPS), "ragged": lengths}


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
    """Compare a scan with the same one step after another, then time training steps of both and of an LSTM."""
    torch.default_generator.manual_seed(0)
    values = torch.randn(ROWS, STEPS, FEATURES)
    encoder, loop, lstm = _MAKE[name](FEATURES, HIDDEN), _MAKE[name](FEATURES, HIDDEN), nn.LSTM(FEATURES, HIDDEN)
    loop.load_state_dict(encoder.state_dict())
    loop.deterministic = True
    runs: dict[str, tuple[Callable[[], Tensor], nn.Module]] = {
        "scan": (partial(run_ours, encoder, values, lengths), encoder),
        "step by step": (partial(run_ours, loop, values, lengths), loop),
        "packed LSTM": (partial(run_packed, lstm, values, lengths), lstm),
    }
    steps = {key: make_step(run, list(module.parameters()), training=True) for key, (run, module) in runs.items()}
    check_equal({key: steps[key]() for key in ("scan", "step by step")})
    times = time_interleaved(steps, Rounds(), time_first_runs(steps))
    parameters: dict[str, Parameter] = {"encoder": name, "batch": batch, "steps": int(lengths.sum())}
    return Result("scan", f"{name}, {batch} rows", torch.get_num_threads(), parameters, times)


def tabulate(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per encoder and batch."""
    headings = ("encoder", "scan", "packed LSTM / scan", "step by step / scan")
    note = (
        f"A training step on {ROWS} rows of up to {STEPS:,} steps, input {FEATURES}, hidden {HIDDEN}, one layer. "
        "Above 1, the scan is faster."
    )
    return ReportTable("Scans", headings, [_make_cells(result) for result in results], [note])


def _make_cells(result: Result) -> list[str]:
    ratios = [str(result.time_ratio(name, "scan")) for name in ("packed LSTM", "step by step")]
    return [result.point, str(result.times["scan"]), *ratios]


SCAN: Final = Measurement("scan", measure, tabulate)
