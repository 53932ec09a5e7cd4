"""Rows in the order in which batches are cut: pool by pool, the longest first, at random among equals.

Rows are dealt into bins small enough for a processor's cache, and each bin is sorted there by radix, which numpy does
for 16 bits: some 10 ns a row in all, where one sort of all rows waits for memory. A bin is a pool, or, of a large pool,
a range of lengths, so that bins in order are the pools in order.
"""

from typing import Final, TypeAlias, final

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.coding import Coding
from pipeline.batching.draws import Draws
from pipeline.batching.lengths import Lengths, blocks
from pipeline.batching.numbers import IntArray, narrow
from pipeline.batching.pieces import Pieces

_BIN: Final = 1 << 15
"""About how many rows a bin has."""

_BINS: Final = 1 << 16
"""How many bins there are at most: their numbers have 16 bits."""

_TIES: Final = 8
"""How many random bits tell rows of one length apart: those that they do not are too few to fill a batch."""

_CELLS: Final = 14
"""How many bits of a code the histogram tells apart that divides a large pool into ranges."""

U = np.uint64
Keys: TypeAlias = npt.NDArray[np.unsignedinteger]
"""Whole numbers, no wider than they need to be."""


@final
@attrs.frozen(eq=False)
class Sorted:
    """Rows in order.

    Attributes:
        order: their numbers, of shape (rows,).
        lengths: their lengths in that order, of shape (rows, 1) or (rows, 2).
        bounds: where each pool begins, and behind them where the last one ends.
    """

    order: IntArray
    lengths: IntArray
    bounds: npt.NDArray[np.int64]


@final
@attrs.frozen(eq=False)
class Unsorted:
    """Rows as they stand, some of them or all.

    Attributes:
        lengths: the lengths of all rows.
        pieces: what is left of them.
        numbers: which pieces are sorted; None for all.
        coding: what they are sorted by.
    """

    lengths: Lengths
    pieces: Pieces
    numbers: IntArray | None
    coding: Coding

    def __len__(self) -> int:
        return len(self.pieces) if self.numbers is None else len(self.numbers)

    def rows(self, begin: int, end: int) -> IntArray:
        """The numbers of a block of rows."""
        return np.arange(begin, end) if self.numbers is None else self.numbers[begin:end]

    def codes(self, begin: int, end: int) -> npt.NDArray[np.int64]:
        """What a block of rows is sorted by."""
        which = slice(begin, end) if self.numbers is None else self.numbers[begin:end]
        return self.coding.codes(self.pieces.lengths(self.lengths, which))


def sort_rows(rows: Unsorted, pools: int, draws: Draws | None) -> Sorted:
    """Sort rows pool by pool.

    Args:
        rows: the rows.
        pools: how many pools there are.
        draws: what the pools, and the order among rows of one length, are drawn from; None for pools of neighbours,
            and rows of one length as they stand.
    """
    ranges = max(1, min(round(len(rows) / pools / _BIN), _BINS // pools))
    bins, counts = _bins(rows, pools, ranges, draws)
    edges = np.concatenate([[0], np.cumsum(counts)])
    keys = _Keys.of(rows.coding.top)
    order, found = _dealt(rows, bins, edges[:-1], keys, draws)
    del bins
    lengths = np.empty((len(order), rows.lengths.sides), narrow(rows.lengths.top))
    for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        into = keys.sorting(found[begin:end])
        order[begin:end] = order[begin:end][into]
        if rows.coding.exact:
            lengths[begin:end, 0] = rows.coding.lengths(keys.codes(found[begin:end][into]))
    if not rows.coding.exact:
        for begin, end in blocks(len(order)):
            lengths[begin:end] = rows.pieces.lengths(rows.lengths, order[begin:end])
    return Sorted(order, lengths, edges[::ranges])


@final
@attrs.frozen
class _Keys:
    """What rows of a bin are sorted by: their code, and below it some random bits, which tell rows of one code apart.

    Attributes:
        bits: how many bits a code has.
        ties: how many are random.
    """

    bits: int
    ties: int

    @classmethod
    def of(cls, top: int) -> "_Keys":
        """Keys for codes up to the greatest one: of 16 bits, sorted at once, where those leave enough to chance."""
        bits = max(1, top.bit_length())
        return cls(bits, 16 - bits if bits <= _TIES + 1 else _TIES)

    def empty(self, count: int) -> Keys:
        """Room for so many keys, no wider than they need to be."""
        return np.empty(count, _unsigned(self.bits + self.ties))

    def fill(self, keys: Keys, codes: npt.NDArray[np.int64], draws: Draws | None) -> None:
        """Make keys of codes."""
        codes <<= self.ties
        if draws is not None:
            codes |= draws.halves(len(codes)) >> np.uint16(16 - self.ties)
        keys[:] = codes

    def codes(self, keys: Keys) -> npt.NDArray[np.int64]:
        """The codes that keys were made of."""
        return (keys >> keys.dtype.type(self.ties)).astype(np.int64)

    def sorting(self, keys: Keys) -> npt.NDArray[np.int64]:
        """What sorts keys, equal ones as they stand: 16 bits at a time, the lowest first."""
        into = np.argsort(keys.astype(np.uint16), kind="stable")
        for digit in range(16, self.bits + self.ties, 16):
            into = into[np.argsort((keys >> keys.dtype.type(digit)).astype(np.uint16)[into], kind="stable")]
        return into


def _bins(rows: Unsorted, pools: int, ranges: int, draws: Draws | None) -> tuple[Keys, npt.NDArray[np.int64]]:
    """The bin of each row, and how many rows each bin has."""
    counts = np.zeros(pools * ranges, np.int64)
    bins = np.zeros(len(rows), _unsigned((len(counts) - 1).bit_length()))
    if len(counts) == 1:
        counts[0] = len(rows)
        return bins, counts
    divide = _Ranges.of(rows, ranges) if ranges > 1 else None
    for begin, end in blocks(len(rows)):
        chances = _chances(begin, end, len(rows), draws) * U(pools)
        found = (chances >> U(32)).view(np.int64)
        if divide is not None:
            found *= ranges
            found += divide.range_of(rows.codes(begin, end), chances & U(0xFFFFFFFF))
        bins[begin:end] = found
        counts += np.bincount(found, minlength=len(counts))
    return bins, counts


def _chances(begin: int, end: int, count: int, draws: Draws | None) -> npt.NDArray[np.uint64]:
    """32 bits a row whose upper ones choose its pool: at random, or rising with its place."""
    if draws is not None:
        return draws.words(end - begin).astype(U)
    # Rounded up, so that a pool's first row is no longer one of the pool before.
    return ((np.arange(begin, end, dtype=U) << U(32)) + U(count - 1)) // U(count)


@final
@attrs.frozen(eq=False)
class _Ranges:
    """Ranges of codes with about as many rows each; rows of one code may stand in several, by chance.

    Attributes:
        lower: how many bits of a code the histogram leaves out.
        before: how many rows have a code of an earlier cell.
        within: how many have a code of each cell.
        count: how many rows there are.
        ranges: how many ranges.
    """

    lower: int
    before: npt.NDArray[np.uint64]
    within: npt.NDArray[np.uint64]
    count: int
    ranges: int

    @classmethod
    def of(cls, rows: Unsorted, ranges: int) -> "_Ranges":
        lower = max(0, rows.coding.top.bit_length() - _CELLS)
        within = np.zeros((rows.coding.top >> lower) + 1, np.int64)
        for begin, end in blocks(len(rows)):
            within += np.bincount(rows.codes(begin, end) >> lower, minlength=len(within))
        return cls(lower, (np.cumsum(within) - within).astype(U), within.astype(U), len(rows), ranges)

    def range_of(self, codes: npt.NDArray[np.int64], chances: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """The range of each row; never falling as the code rises, for whole numbers do not round."""
        cells = codes >> self.lower
        parts = chances >> U(self.lower)
        if self.lower:
            parts |= (codes & ((1 << self.lower) - 1)).astype(U) << U(32 - self.lower)
        places = self.before[cells] + (self.within[cells] * parts >> U(32))
        found: npt.NDArray[np.int64] = (places * U(self.ranges) // U(self.count)).view(np.int64)
        return found


def _dealt(
    rows: Unsorted, bins: Keys, begins: npt.NDArray[np.int64], keys: _Keys, draws: Draws | None
) -> tuple[IntArray, Keys]:
    """The rows' numbers and keys, bin by bin, as they stand in each."""
    order = np.empty(len(rows), narrow(len(rows.pieces)))
    found = keys.empty(len(rows))
    free = begins.copy()
    for begin, end in blocks(len(rows)):
        # Cast before they are dealt: numpy casts slowly where it writes here and there.
        numbers = rows.rows(begin, end).astype(order.dtype, copy=False)
        block = keys.empty(end - begin)
        keys.fill(block, rows.codes(begin, end), draws)
        if len(begins) == 1:
            order[begin:end], found[begin:end] = numbers, block
            continue
        into = np.argsort(bins[begin:end], kind="stable")
        counts = np.bincount(bins[begin:end], minlength=len(begins))
        places = np.repeat(free - (np.cumsum(counts) - counts), counts)
        places += np.arange(end - begin)
        order[places] = numbers[into]
        found[places] = block[into]
        free += counts
    return order, found


def _unsigned(bits: int) -> "np.dtype[np.unsignedinteger]":
    """The narrowest type of so many bits."""
    for kind in (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.uint32)):
        if bits <= 8 * kind.itemsize:
            return kind
    return np.dtype(U)
