"""The points at which encoders are measured: a layer, a batch of rows of some lengths, and a number of threads."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from operator import methodcaller
from typing import Final, Literal, TypeAlias

import attrs
import torch
from jaxtyping import Int64
from torch import Tensor

from bench.record import Parameter
from bench.report import Extent
from bench.timing import Threads, describe_threads
from pipeline.batching import Plan, Rows

Lengths: TypeAlias = Literal[
    "~20",
    "~230",
    "~20, bucketed",
    "~230, bucketed",
    "1-512",
    "2,000",
    "~20 and 2,000",
    "exactly 1",
    "exactly 20",
    "exactly 128",
    "exactly 1,024",
]
"""The distributions: sentences and reviews, in random batches or in batches that `Bucket` makes of them; any length up
to 512; one row of 2,000 steps, alone or among sentences; and rows of equal length."""

_EQUAL: Final[Mapping[str, int]] = {
    "2,000": 2_000,
    "exactly 1": 1,
    "exactly 20": 20,
    "exactly 128": 128,
    "exactly 1,024": 1_024,
}
"""The length of every row, for distributions with one length."""

# Deviation of the logarithm, and median: means of about 20 words per sentence and 230 words per review.
_SENTENCES: Final = (0.5, 17.6)
_REVIEWS: Final = (0.7, 180.0)

_BATCHES: Final = 200
"""Batches in the epoch from which a bucketed batch is taken: enough that every length occurs in some batch."""

to_ints: Callable[[Tensor], list[int]] = methodcaller("tolist")
"""Convert a tensor of integers of one axis to a list; `Tensor.tolist` itself is untyped."""


def draw_lengths(lengths: Lengths, rows: int) -> Int64[Tensor, " batch"]:
    """Draw the lengths of a batch of `rows` rows; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    if lengths in _EQUAL:
        return torch.full((rows,), _EQUAL[lengths])
    if lengths == "1-512":
        return torch.randint(1, 513, (rows,), generator=generator)
    deviation, median = _REVIEWS if lengths.startswith("~230") else _SENTENCES
    if lengths.endswith("bucketed"):
        return _bucket_lengths(_draw_log_normal(rows * _BATCHES, deviation, median, generator), rows)
    drawn = _draw_log_normal(rows, deviation, median, generator)
    if lengths == "~20 and 2,000":
        drawn[0] = _EQUAL["2,000"]
    return drawn


def _bucket_lengths(lengths: Int64[Tensor, " row"], rows: int) -> Int64[Tensor, " batch"]:
    """Return the lengths of one batch of an epoch planned with the default policy: the batch with the median of steps.

    In a bucketed epoch the rows of most batches are of nearly equal length, short in some batches and long in others.
    The batch with the median number of real steps represents them.
    """
    plan = Plan.of(to_ints(lengths), Rows(rows), seed=0)
    batches = sorted((lengths[torch.as_tensor(batch)] for batch in plan), key=lambda batch: int(batch.sum()))
    return batches[len(batches) // 2]


def _draw_log_normal(rows: int, deviation: float, median: float, generator: torch.Generator) -> Int64[Tensor, " row"]:
    """Draw lengths whose logarithms are normally distributed, which fits sentences and reviews well."""
    logarithms = torch.randn(rows, generator=generator) * deviation + math.log(median)
    return logarithms.exp().round().long().clamp(2, 600)


Cell: TypeAlias = Literal["LSTM", "GRU"]


@attrs.frozen
class Point:
    """A stack of recurrent layers over one batch.

    Attributes:
        cell: the recurrent cell.
        training: a step of training, or of inference.
        lengths: the distribution of the rows' lengths.
        rows: the number of rows.
        features: the size of an input vector.
        hidden: the size of a state, per direction.
        bidirectional: whether rows are read in both directions.
        layers: the number of layers.
        threads: the number of threads of torch.
        other_runtimes: whether runtimes other than torch are measured too.

    Example:
        >>> str(Point("LSTM", True, "~20", rows=64, features=300, hidden=256))
        'BiLSTM training, 64 rows of ~20 steps, input 300, hidden 256, all threads'
        >>> str(Point("GRU", False, "~230, bucketed", 32, 100, 128, bidirectional=False, layers=2, threads="one"))
        'GRU inference, 32 rows of ~230 steps, bucketed, input 100, hidden 128, 2 layers, one thread'
    """

    cell: Cell
    training: bool
    lengths: Lengths
    rows: int
    features: int
    hidden: int
    bidirectional: bool = True
    layers: int = 1
    threads: Threads = "all"
    other_runtimes: bool = False

    def __str__(self) -> str:
        lengths, comma, bucketed = self.lengths.partition(", ")
        return ", ".join(
            [
                f"{'Bi' * self.bidirectional}{self.cell} {'training' if self.training else 'inference'}",
                f"{self.rows} row{'s' * (self.rows > 1)} of {lengths} steps{comma}{bucketed}",
                f"input {self.features}, hidden {self.hidden}",
                *([] if self.layers == 1 else [f"{self.layers} layers"]),
                describe_threads(self.threads),
            ]
        )

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The attributes by name."""
        return attrs.asdict(self)

    def count_operations(self, steps: int) -> float:
        """Count the operations of the matrix products over a number of real steps.

        A product of a weight of n numbers with one step takes 2n operations. The backward pass takes twice those of
        the forward pass: one product for the gradient of the input, and one for the gradient of the weight.
        """
        gates, directions = (4 if self.cell == "LSTM" else 3), (2 if self.bidirectional else 1)
        # All layers but the first read the states of both directions.
        inputs = self.features + (self.layers - 1) * directions * self.hidden
        forward = 2.0 * steps * gates * self.hidden * (inputs + self.layers * self.hidden) * directions
        return forward * (3 if self.training else 1)


_train: Final = partial(Point, training=True)
_infer: Final = partial(Point, training=False)

_CELLS: Final[Sequence[Cell]] = ("LSTM", "GRU")
_THREADS: Final[Sequence[Threads]] = ("all", "one")

_BUCKETED: Final[Sequence[tuple[Cell, Lengths, int, int, int]]] = (
    ("LSTM", "~20, bucketed", 32, 100, 128),
    ("LSTM", "~20, bucketed", 64, 300, 256),
    ("LSTM", "~230, bucketed", 32, 100, 128),
    ("GRU", "~20, bucketed", 32, 100, 128),
)
"""Cell, lengths, rows, features and hidden size of the points with bucketed batches."""

DEFAULT: Final[Sequence[Point]] = (
    # Batches as `Bucket` makes them: rows are nearly even, and packed torch takes its fast dense kernel.
    *(
        _train(cell, lengths=lengths, rows=rows, features=features, hidden=hidden, threads=threads)
        for threads in _THREADS
        for cell, lengths, rows, features, hidden in _BUCKETED
    ),
    *(
        _infer(cell, lengths=lengths, rows=rows, features=features, hidden=hidden, threads=threads)
        for threads in _THREADS
        for cell, lengths, rows, features, hidden in _BUCKETED
        if cell == "LSTM"
    ),
    # Random batches of sentences: packed torch runs step by step.
    _train("LSTM", lengths="~20", rows=64, features=300, hidden=256),
    _train("LSTM", lengths="~20", rows=64, features=300, hidden=256, threads="one"),
    _train("LSTM", lengths="~20", rows=32, features=100, hidden=128),
    _train("LSTM", lengths="~20", rows=256, features=128, hidden=128, bidirectional=False, layers=2),
    _train("GRU", lengths="~20", rows=64, features=300, hidden=256),
    _train("GRU", lengths="~20", rows=32, features=100, hidden=128),
    _train("GRU", lengths="~20", rows=32, features=100, hidden=128, threads="one"),
    _train("GRU", lengths="~20", rows=128, features=256, hidden=512, layers=2),
    # Random batches of reviews: the backward pass of packed torch takes time quadratic in the length.
    _train("LSTM", lengths="~230", rows=32, features=100, hidden=128),
    _train("LSTM", lengths="~230", rows=32, features=100, hidden=128, threads="one"),
    _train("LSTM", lengths="~230", rows=32, features=100, hidden=256),
    _train("LSTM", lengths="~230", rows=32, features=100, hidden=512),
    _train("GRU", lengths="~230", rows=32, features=100, hidden=128),
    # Any length, and one row much longer than all others.
    _train("LSTM", lengths="1-512", rows=64, features=128, hidden=128, bidirectional=False),
    _train("GRU", lengths="1-512", rows=32, features=128, hidden=256, threads="one"),
    _train("LSTM", lengths="2,000", rows=1, features=128, hidden=256, bidirectional=False),
    _train("LSTM", lengths="~20 and 2,000", rows=32, features=100, hidden=128),
    # Two lengths, to compare the time per step in short and in long rows.
    _train("LSTM", lengths="exactly 128", rows=32, features=128, hidden=128),
    _train("LSTM", lengths="exactly 1,024", rows=32, features=128, hidden=128),
    _infer("LSTM", lengths="~20", rows=64, features=300, hidden=256, other_runtimes=True),
    _infer("LSTM", lengths="~20", rows=64, features=300, hidden=256, threads="one"),
    _infer("LSTM", lengths="~20", rows=32, features=100, hidden=128, threads="one"),
    _infer("LSTM", lengths="~20", rows=256, features=256, hidden=512, bidirectional=False, layers=2),
    _infer("GRU", lengths="~20", rows=64, features=300, hidden=256, other_runtimes=True),
    _infer("LSTM", lengths="~230", rows=32, features=100, hidden=128, other_runtimes=True),
    _infer("GRU", lengths="~230", rows=32, features=100, hidden=256, threads="one"),
    _infer("LSTM", lengths="1-512", rows=64, features=128, hidden=256, bidirectional=False),
    _infer("GRU", lengths="2,000", rows=1, features=128, hidden=128, bidirectional=False, threads="one"),
)
"""The points of a run without `quick` or `full`."""

_RANDOM: Final = next(index for index, point in enumerate(DEFAULT) if not point.lengths.endswith("bucketed"))
QUICK: Final[Sequence[Point]] = (DEFAULT[0], DEFAULT[2], *(DEFAULT[_RANDOM + index] for index in (0, 5, 8, 19, 25)))
"""The points of a quick run, which takes about a minute."""

_LENGTHS: Final[Sequence[Lengths]] = ("~20", "~230", "1-512", "2,000")


def list_grid() -> list[Point]:
    """List all combinations of sizes; measuring them takes many hours."""
    sizes = product(_CELLS, (True, False), _LENGTHS, (32, 128, 256), (128, 256, 512), (True, False), (1, 2), _THREADS)
    points = [
        Point(cell, training, lengths, 1 if lengths == "2,000" else rows, 128, hidden, bidirectional, layers, threads)
        for cell, training, lengths, rows, hidden, bidirectional, layers, threads in sizes
    ]
    # The point with a single row occurs once per number of rows; keep one.
    return list(dict.fromkeys(points))


def list_points(extent: Extent) -> Sequence[Point]:
    """List the points of an extent."""
    match extent:
        case "quick":
            return QUICK
        case "default":
            return DEFAULT
        case "full":
            return [*DEFAULT, *(point for point in list_grid() if point not in DEFAULT)]
