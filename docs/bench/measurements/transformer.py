"""The transformer encoder beside torch's `nn.TransformerEncoder` with the same weights and a mask of the padding."""

import gc
from collections.abc import Iterator, Sequence
from typing import Final

import attrs
import torch
from torch import Tensor, nn

from bench.encoders.points import Lengths, draw_lengths
from bench.record import Parameter, Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import (
    MATMUL,
    SLOW,
    Rounds,
    Step,
    Threads,
    check_equal,
    describe_threads,
    make_matmul,
    make_step,
    time_interleaved,
    time_run,
    use_threads,
)
from pipeline import MaybeCausal, Padded, Vectors
from pipeline_transformer import Transformer

OURS, TORCH = "ours", "torch"
"""The candidates."""


@attrs.frozen
class Point:
    """A training step of an encoder on a batch.

    Attributes:
        lengths: the distribution of the rows' lengths.
        rows: the number of rows.
        hidden: the size of a state; there are 4 heads, and 4 times as many features in the feed-forward part.
        layers: the number of layers.
        dropout: the probability of all dropout, that of weights included.
        threads: the number of threads of torch.
    """

    lengths: Lengths
    rows: int
    hidden: int = 256
    layers: int = 2
    dropout: float = 0.0
    threads: Threads = "one"

    def __str__(self) -> str:
        return (
            f"{self.rows} rows of {self.lengths}, hidden {self.hidden}, {self.layers} layers, dropout {self.dropout}, "
            f"{describe_threads(self.threads)}"
        )

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The attributes by name."""
        return {
            "lengths": self.lengths,
            "rows": self.rows,
            "hidden": self.hidden,
            "layers": self.layers,
            "dropout": self.dropout,
            "threads": self.threads,
        }


_BATCHES: Final[Sequence[tuple[Lengths, int]]] = (
    ("~20, bucketed", 64),
    ("~230, bucketed", 32),
    ("~20", 64),
    ("~230", 32),
)
_THREADS: Final[Sequence[Threads]] = ("one", "all")

POINTS: Final = [
    Point(lengths, rows, dropout=dropout, threads=threads)
    for threads in _THREADS
    for dropout in (0.0, 0.1)
    for lengths, rows in _BATCHES
]


def measure(extent: Extent) -> Iterator[Result]:
    """Measure point by point; a quick run has short rows with one thread."""
    quick = extent == "quick"
    rounds = Rounds(most=5, seconds=3.0) if quick else Rounds(seconds=10.0)
    for point in (POINTS[0], POINTS[4]) if quick else POINTS:
        with use_threads(point.threads) as threads:
            yield measure_point(point, threads, rounds)
        gc.collect()


def measure_point(point: Point, threads: int, rounds: Rounds) -> Result:
    """Compare states and gradients of both without dropout, then time them with dropout, in interleaved rounds."""
    torch.default_generator.manual_seed(0)
    lengths = draw_lengths(point.lengths, point.rows)
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(point.rows, int(lengths.max()), point.hidden, generator=generator)
    is_padding = torch.arange(values.shape[1]) >= lengths.unsqueeze(1)
    values.masked_fill_(is_padding.unsqueeze(2), 0).requires_grad_()
    theirs = _make_module(point)
    ours = Transformer.from_torch(theirs)
    steps = {
        TORCH: _make_torch_step(theirs, values, is_padding),
        OURS: _make_our_step(ours, values, lengths),
    }
    for module in (theirs, ours):
        module.eval()
    check_equal({name: _pack(step(), lengths) for name, step in steps.items()})
    for module in (theirs, ours):
        module.train()
    first = {name: time_run(step)[1] for name, step in steps.items()}
    matmul = make_matmul()
    matmul()
    first[MATMUL] = time_run(matmul)[1]
    times = time_interleaved({**steps, MATMUL: matmul}, rounds, first, slow=SLOW)
    operations = _count_operations(point, lengths)
    return Result("transformer", str(point), threads, point.parameters, times, operations=operations)


def _make_module(point: Point) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        point.hidden, 4, 4 * point.hidden, point.dropout, batch_first=True, norm_first=True, activation="gelu"
    )
    # Without a last norm, after which the sum of squares would be the same for any weights.
    return nn.TransformerEncoder(layer, point.layers, enable_nested_tensor=False)


def _make_torch_step(module: nn.TransformerEncoder, values: Tensor, is_padding: Tensor) -> Step:
    def forward() -> Tensor:
        states: Tensor = module(values, src_key_padding_mask=is_padding)
        return states.masked_fill(is_padding.unsqueeze(2), 0)

    return make_step(forward, [values, *module.parameters()], training=True)


def _make_our_step(encoder: Transformer[MaybeCausal], values: Tensor, lengths: Tensor) -> Step:
    def forward() -> Tensor:
        return encoder(Padded(Vectors, values, lengths)).packed().values

    return make_step(forward, [values, *encoder.parameters()], training=True)


def _pack(results: Sequence[Tensor], lengths: Tensor) -> tuple[Tensor, ...]:
    """Return packed states and the gradients of the input, on which the gradients of all weights depend."""
    states, by_values, *_ = results
    packed = states if states.ndim == 2 else Padded(Vectors, states.clone(), lengths).packed().values
    return packed, by_values


def _count_operations(point: Point, lengths: Tensor) -> int:
    """Count multiplications and additions of a training step on real steps: three times those of the forward pass."""
    steps, pairs = int(lengths.sum()), int(lengths.square().sum())
    weights = 12 * point.hidden**2
    return 3 * 2 * point.layers * (steps * weights + 2 * pairs * point.hidden)


def tabulate(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per point: torch's time, and the speedup of ours over it."""
    headings = ("point", "threads", TORCH, "ours", "share of the matrix peak: torch", "ours")
    note = (
        "Training steps. Times of nn.TransformerEncoder with a mask of the padding, and the speedup of ours over it; "
        "above 1, ours is faster. The peak counts operations on real steps only."
    )
    return ReportTable("Transformer encoder", headings, [_make_cells(result) for result in results], [note])


def _make_cells(result: Result) -> list[str]:
    shares = [result.peak_share(name) for name in (TORCH, OURS)]
    return [
        result.point,
        str(result.threads),
        str(result.times[TORCH]),
        str(result.time_ratio(TORCH, OURS)),
        *("" if share is None else f"{share:.0%}" for share in shares),
    ]


TRANSFORMER: Final = Measurement("transformer", measure, tabulate, quick=True)
