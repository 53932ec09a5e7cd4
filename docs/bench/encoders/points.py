"""The points that are measured."""

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Final

from bench.encoders.lengths import Lengths
from bench.encoders.point import Cell, Point
from bench.measured.measurement import Extent
from bench.timing.threads import Threads

_LEARN: Final = partial(Point, learning=True)
_INFER: Final = partial(Point, learning=False)

NAMED: Final[Sequence[Point]] = (
    # Batches as `Bucket` makes them: rows are nearly even, and packed torch falls into its fast dense kernel.
    *(
        _LEARN(cell, lengths=lengths, rows=rows, features=features, hidden=hidden, threads=threads)
        for threads in ("all", "one")
        for cell, lengths, rows, features, hidden in (
            ("LSTM", "~20, bucketed", 32, 100, 128),
            ("LSTM", "~20, bucketed", 64, 300, 256),
            ("LSTM", "~230, bucketed", 32, 100, 128),
            ("GRU", "~20, bucketed", 32, 100, 128),
        )
    ),
    *(
        _INFER("LSTM", lengths=lengths, rows=rows, features=features, hidden=hidden, threads=threads)
        for threads in ("all", "one")
        for lengths, rows, features, hidden in (
            ("~20, bucketed", 32, 100, 128),
            ("~20, bucketed", 64, 300, 256),
            ("~230, bucketed", 32, 100, 128),
        )
    ),
    # Random batches of sentences: packed torch runs step by step.
    _LEARN("LSTM", lengths="~20", rows=64, features=300, hidden=256),
    _LEARN("LSTM", lengths="~20", rows=64, features=300, hidden=256, threads="one"),
    _LEARN("LSTM", lengths="~20", rows=32, features=100, hidden=128),
    _LEARN("LSTM", lengths="~20", rows=256, features=128, hidden=128, both=False, layers=2),
    _LEARN("GRU", lengths="~20", rows=64, features=300, hidden=256),
    _LEARN("GRU", lengths="~20", rows=32, features=100, hidden=128),
    _LEARN("GRU", lengths="~20", rows=32, features=100, hidden=128, threads="one"),
    _LEARN("GRU", lengths="~20", rows=128, features=256, hidden=512, layers=2),
    # Reviews, where its backward pass is quadratic.
    _LEARN("LSTM", lengths="~230", rows=32, features=100, hidden=128),
    _LEARN("LSTM", lengths="~230", rows=32, features=100, hidden=128, threads="one"),
    _LEARN("LSTM", lengths="~230", rows=32, features=100, hidden=256),
    _LEARN("LSTM", lengths="~230", rows=32, features=100, hidden=512),
    _LEARN("GRU", lengths="~230", rows=32, features=100, hidden=128),
    # Any length, and rows that outlast all others.
    _LEARN("LSTM", lengths="1-512", rows=64, features=128, hidden=128, both=False),
    _LEARN("GRU", lengths="1-512", rows=32, features=128, hidden=256, threads="one"),
    _LEARN("LSTM", lengths="2,000", rows=1, features=128, hidden=256, both=False),
    _LEARN("LSTM", lengths="~20 and 2,000", rows=32, features=100, hidden=128),
    # What a step costs as rows grow longer.
    _LEARN("LSTM", lengths="even 128", rows=32, features=128, hidden=128),
    _LEARN("LSTM", lengths="even 1,024", rows=32, features=128, hidden=128),
    _INFER("LSTM", lengths="~20", rows=64, features=300, hidden=256, strangers=True),
    _INFER("LSTM", lengths="~20", rows=64, features=300, hidden=256, threads="one"),
    _INFER("LSTM", lengths="~20", rows=32, features=100, hidden=128, threads="one"),
    _INFER("LSTM", lengths="~20", rows=256, features=256, hidden=512, both=False, layers=2),
    _INFER("GRU", lengths="~20", rows=64, features=300, hidden=256, strangers=True),
    _INFER("LSTM", lengths="~230", rows=32, features=100, hidden=128, strangers=True),
    _INFER("GRU", lengths="~230", rows=32, features=100, hidden=256, threads="one"),
    _INFER("LSTM", lengths="1-512", rows=64, features=128, hidden=256, both=False),
    _INFER("GRU", lengths="2,000", rows=1, features=128, hidden=128, both=False, threads="one"),
)
"""What a plain run measures."""

_RANDOM: Final = next(index for index, point in enumerate(NAMED) if not point.lengths.endswith("bucketed"))
QUICK: Final[Sequence[Point]] = (NAMED[0], NAMED[2], *(NAMED[_RANDOM + index] for index in (0, 5, 8, 19, 25)))
"""A few of them, that end within a minute."""

_CELLS: Final[Sequence[Cell]] = ("LSTM", "GRU")
_LENGTHS: Final[Sequence[Lengths]] = ("~20", "~230", "1-512", "2,000")
_THREADS: Final[Sequence[Threads]] = ("one", "all")


def grid() -> list[Point]:
    """All sizes with all others: a matter of many hours."""
    sizes = product(_CELLS, (True, False), _LENGTHS, (32, 128, 256), (128, 256, 512), (True, False), (1, 2), _THREADS)
    points = [
        Point(cell, learning, lengths, 1 if lengths == "2,000" else rows, 128, hidden, both, layers, threads)
        for cell, learning, lengths, rows, hidden, both, layers, threads in sizes
    ]
    # The lone row is the same one in batches of any size.
    return list(dict.fromkeys(points))


def points(extent: Extent) -> Sequence[Point]:
    """Those that are measured."""
    match extent:
        case "quick":
            return QUICK
        case "named":
            return NAMED
        case "full":
            return [*NAMED, *(point for point in grid() if point not in NAMED)]
