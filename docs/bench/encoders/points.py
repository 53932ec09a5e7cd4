"""The points at which encoders are measured: a layer, a batch, and a number of threads."""

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Final, Literal, TypeAlias

import attrs

from bench.encoders.lengths import Lengths
from bench.record.measurement import Extent
from bench.record.record import Parameter
from bench.timing.steps import Threads, describe_threads

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
