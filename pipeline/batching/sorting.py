"""Sort rows by length, in pools drawn at random, with a random order among rows of one length.

This is the step of a plan that touches every row, so it is written for the cache. One argsort of all keys jumps through
memory: 49 ms for a million int64 keys, 780 ms for ten million. Instead:

1. Give each row a *bin*: its pool and, if pools are large, a range of keys within the pool.
2. Write row numbers and sort keys bin by bin, in one pass over the rows.
3. Sort each bin by itself. A bin of 32,768 rows fits in the L2 cache, and its keys have 16 bits (or a few times 16),
   for which numpy's stable argsort is a radix sort: 8 ms for a million keys.

Bins in order are the pools in order, each sorted, so nothing is merged afterwards. A whole plan takes about
35 ns per row, for a million rows and for twenty million.
"""

import math
from typing import Final, TypeAlias, final

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.arrays import IntArray, SeededRandom, iterate_blocks, narrow_dtype
from pipeline.batching.lengths import Lengths, RowSplits

# About how many rows a bin has. Measured for 20 million rows in one pool: 0.80 s with 2**15 and 2**17, 0.93 s with
# 2**20, 2.1 s with 2**24. Smaller bins cost a few numpy calls each: a million rows take 40% longer with 2**10.
_BIN_ROWS: Final = 1 << 15

# The most bins. Their numbers then fit in 16 bits, so that rows are grouped by bin with a radix sort, too.
_MAX_BINS: Final = 1 << 16

# Random bits appended to a key, to order rows of one length at random. Rows that agree in these as well keep their
# order: about 1 in 256 of the rows of one length in a bin, so some 128 rows at most.
_TIE_BITS: Final = 8

# Leading bits of a key that the histogram distinguishes which divides large pools into ranges. 16,384 counters take
# 128 KiB and stay in the cache. The time is the same from 10 to 16 bits; more bits make the ranges more equal.
_CELL_BITS: Final = 14

# Number of bands for rows with two lengths, divided by the square root of the batches per pool. If the lengths are
# independent, a square root gives about as many bands as batches per band, so that a batch is about as wide in one
# length as in the other. Padding of 200,000 pairs with 0, 0.5, 1, 1.5, 2 and 3:
#   independent lengths: 53, 20, 15.4, 15.1, 15.9, 18%
#   translation (target = 1.1 +- 0.25 of the source): 28, 14, 9.6, 8.5, 8.4, 8.9%
#   nearly equal lengths (target 0 to 4 longer): 6.1, 5.7, 5.1, 4.4, 4.2, 3.7%
_BANDS: Final = 1.5

UnsignedArray: TypeAlias = npt.NDArray[np.unsignedinteger]


@final
@attrs.frozen(eq=False)
class SortedRows:
    """Rows in the order in which they are split into batches.

    Attributes:
        order: row numbers, of shape (rows,).
        lengths: their lengths in that order, of shape (rows, 1) or (rows, sides).
        bounds: where each pool starts in the order; at the end, where the last pool stops.
    """

    order: IntArray
    lengths: IntArray
    bounds: npt.NDArray[np.int64]


@final
@attrs.frozen(eq=False)
class SortInput:
    """Rows to sort, and the integer key of each. Longer rows have smaller keys.

    The key of one length is its distance from the longest row. Rows with two lengths are divided into bands by the
    first length, and sorted by the second within a band: descending in one band, ascending in the next (a boustrophedon
    order), so that rows at the border of two bands are similar in both lengths.

    Attributes:
        lengths: the lengths of all rows.
        splits: the slices that rows are truncated to or split into.
        numbers: which slices to sort; None for all.
        longest: the longest slice.
        edges: total lengths that separate batches: they are the highest digit of the key, so that each batch can be a
            run of sorted rows.
        bands: the first lengths that separate bands; empty for one length per row.
    """

    lengths: Lengths
    splits: RowSplits
    numbers: IntArray | None
    longest: int
    edges: npt.NDArray[np.int64]
    bands: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.splits) if self.numbers is None else len(self.numbers)

    @property
    def max_key(self) -> int:
        """The largest possible key."""
        if self.lengths.per_row == 1:
            return self.longest
        return (len(self.edges) + 1) * (len(self.bands) + 1) * (self.longest + 1) - 1

    def numbers_of(self, start: int, stop: int) -> IntArray:
        """Return the numbers of a block of rows."""
        return np.arange(start, stop) if self.numbers is None else self.numbers[start:stop]

    def keys_of(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Compute the keys of a block of rows."""
        selected = slice(start, stop) if self.numbers is None else self.numbers[start:stop]
        lengths = self.splits.lengths(self.lengths, selected)
        if self.lengths.per_row == 1:
            return self.longest - lengths[:, 0]
        # Of more than two sides, the others count as one: rows of equal sums mostly have sides of similar lengths.
        first = lengths[:, 0]
        second: npt.NDArray[np.int64] = lengths[:, 1:].sum(axis=1, dtype=np.int64)
        groups = len(self.edges) - np.searchsorted(self.edges, first + second)
        bands = len(self.bands) - np.searchsorted(self.bands, first)
        within = np.where(bands % 2, second, self.longest - second)
        keys: npt.NDArray[np.int64] = (groups * (len(self.bands) + 1) + bands) * (self.longest + 1) + within
        return keys


def choose_bands(sample: npt.NDArray[np.int64], batches: float) -> npt.NDArray[np.int64]:
    """Choose first lengths that divide rows into bands with about equal numbers of steps.

    Args:
        sample: lengths of some rows, of shape (rows, 1) or (rows, sides).
        batches: about how many batches a pool makes.
    """
    bands = round(_BANDS * math.sqrt(batches))
    if sample.shape[1] == 1 or bands < 2 or not len(sample):
        return np.empty(0, np.int64)
    # Bands of equal numbers of steps, not rows: batches have equal numbers of padded steps, too.
    first = np.sort(sample[:, 0])
    steps = np.cumsum(sample.sum(axis=1)[np.argsort(sample[:, 0], kind="stable")])
    return np.unique(first[np.searchsorted(steps, steps[-1] * np.arange(1, bands) // bands)])


def sort_rows(rows: SortInput, pools: int, random: SeededRandom | None) -> SortedRows:
    """Sort rows within pools, longest first.

    Args:
        rows: the rows and their keys.
        pools: the number of pools.
        random: draws the pool of each row, and the order among rows of one length. None makes pools of neighboring
            rows, and keeps the order of rows of one length.
    """
    ranges = max(1, min(round(len(rows) / pools / _BIN_ROWS), _MAX_BINS // pools))
    bins, counts = _assign_bins(rows, pools, ranges, random)
    edges = np.concatenate([[0], np.cumsum(counts)])
    key_bits = max(1, rows.max_key.bit_length())
    # If 7 or more of 16 bits are left for random bits, one pass of the radix sort is enough.
    tie_bits = 16 - key_bits if key_bits <= _TIE_BITS + 1 else _TIE_BITS
    order, keys = _scatter_to_bins(rows, bins, edges[:-1], (key_bits, tie_bits), random)
    del bins
    per_row = rows.lengths.per_row
    lengths = np.empty((len(order), per_row), narrow_dtype(rows.lengths.longest))
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        # In place, bin by bin: memory for a second order of all rows is never needed.
        by_key = _argsort_radix(keys[start:stop], key_bits + tie_bits)
        order[start:stop] = order[start:stop][by_key]
        if per_row == 1:
            # The key gives the length back, so that lengths are not looked up at random places in memory.
            sorted_keys = keys[start:stop][by_key] >> keys.dtype.type(tie_bits)
            lengths[start:stop, 0] = rows.longest - sorted_keys.astype(np.int64)
    if per_row > 1:
        # Keys of several lengths cannot be inverted, because they have only the band of the first.
        for start, stop in iterate_blocks(len(order)):
            lengths[start:stop] = rows.splits.lengths(rows.lengths, order[start:stop])
    return SortedRows(order, lengths, edges[::ranges])


def _argsort_radix(keys: UnsignedArray, bits: int) -> npt.NDArray[np.int64]:
    """Return a stable order of keys, 16 bits at a time, lowest first: numpy has a radix sort for uint16 only."""
    order = np.argsort(keys.astype(np.uint16), kind="stable")
    for shift in range(16, bits, 16):
        order = order[np.argsort((keys >> keys.dtype.type(shift)).astype(np.uint16)[order], kind="stable")]
    return order


def _assign_bins(
    rows: SortInput, pools: int, ranges: int, random: SeededRandom | None
) -> tuple[UnsignedArray, npt.NDArray[np.int64]]:
    """Return the bin of each row, and the number of rows in each bin."""
    counts = np.zeros(pools * ranges, np.int64)
    bins = np.zeros(len(rows), _choose_unsigned((len(counts) - 1).bit_length()))
    if len(counts) == 1:
        counts[0] = len(bins)
        return bins, counts
    quantiles = _KeyQuantiles.of(rows, ranges) if ranges > 1 else None
    for start, stop in iterate_blocks(len(bins)):
        # A 32-bit number per row, times the number of pools: the upper half of the product is the row's pool, and the
        # lower half is a number from 0 to 2**32 that is again uniform within the pool. It breaks ties between ranges.
        position = _draw_positions(start, stop, len(bins), random) * np.uint64(pools)
        block = (position >> np.uint64(32)).view(np.int64)
        if quantiles is not None:
            block *= ranges
            block += quantiles.find_ranges(rows.keys_of(start, stop), position & np.uint64(0xFFFFFFFF))
        bins[start:stop] = block
        counts += np.bincount(block, minlength=len(counts))
    return bins, counts


def _draw_positions(start: int, stop: int, count: int, random: SeededRandom | None) -> npt.NDArray[np.uint64]:
    """Return 32 bits per row: random, or without `random` rising from 0 to 2**32 over all rows."""
    if random is not None:
        return random.uint32(stop - start).astype(np.uint64)
    # Rounded up: rounded down, the first row of a pool would belong to the pool before.
    return ((np.arange(start, stop, dtype=np.uint64) << np.uint64(32)) + np.uint64(count - 1)) // np.uint64(count)


@final
@attrs.frozen(eq=False)
class _KeyQuantiles:
    """Ranges of keys with about equal numbers of rows, from a histogram of the keys.

    A key that many rows have can belong to several ranges. Its rows are then divided between them at random, which is
    why the ranges stay equal even if all rows have one length.

    Attributes:
        dropped_bits: how many low bits of a key the histogram ignores.
        before: the number of rows in earlier cells, for each cell of the histogram.
        within: the number of rows in each cell.
        count: the number of rows.
        ranges: the number of ranges.
    """

    dropped_bits: int
    before: npt.NDArray[np.uint64]
    within: npt.NDArray[np.uint64]
    count: int
    ranges: int

    @classmethod
    def of(cls, rows: SortInput, ranges: int) -> "_KeyQuantiles":
        dropped_bits = max(0, rows.max_key.bit_length() - _CELL_BITS)
        within = np.zeros((rows.max_key >> dropped_bits) + 1, np.int64)
        for start, stop in iterate_blocks(len(rows)):
            within += np.bincount(rows.keys_of(start, stop) >> dropped_bits, minlength=len(within))
        before = (np.cumsum(within) - within).astype(np.uint64)
        return cls(dropped_bits, before, within.astype(np.uint64), len(rows), ranges)

    def find_ranges(self, keys: npt.NDArray[np.int64], random: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Return the range of each row.

        A larger key never has a smaller range, which the order of bins relies on: all arithmetic is in integers,
        because rounded floats could violate it.
        """
        cells = keys >> self.dropped_bits
        # The position within a cell, as a fraction of 2**32: the dropped bits of the key first, then random bits.
        position = random >> np.uint64(self.dropped_bits)
        if self.dropped_bits:
            low_bits = (keys & ((1 << self.dropped_bits) - 1)).astype(np.uint64)
            position |= low_bits << np.uint64(32 - self.dropped_bits)
        rank = self.before[cells] + (self.within[cells] * position >> np.uint64(32))
        ranges: npt.NDArray[np.int64] = (rank * np.uint64(self.ranges) // np.uint64(self.count)).view(np.int64)
        return ranges


def _scatter_to_bins(
    rows: SortInput,
    bins: UnsignedArray,
    starts: npt.NDArray[np.int64],
    bits: tuple[int, int],
    random: SeededRandom | None,
) -> tuple[IntArray, UnsignedArray]:
    """Return row numbers and keys with random low bits, grouped by bin and in the given order within each bin.

    Args:
        rows: the rows and their keys.
        bins: the bin of each row.
        starts: where each bin starts in the result.
        bits: how many bits a key has, and how many random bits are appended.
        random: draws these bits; None appends zeros.
    """
    key_bits, tie_bits = bits
    order = np.empty(len(bins), narrow_dtype(len(rows.splits)))
    keys = np.empty(len(bins), _choose_unsigned(key_bits + tie_bits))
    free = starts.copy()
    for start, stop in iterate_blocks(len(bins)):
        # Cast before scattering: numpy casts slowly while it writes to scattered positions.
        numbers = rows.numbers_of(start, stop).astype(order.dtype, copy=False)
        wide = rows.keys_of(start, stop)
        wide <<= tie_bits
        if random is not None:
            wide |= random.uint16(len(wide)) >> np.uint16(16 - tie_bits)
        block = wide.astype(keys.dtype)
        if len(starts) == 1:
            order[start:stop], keys[start:stop] = numbers, block
            continue
        # Group the block by bin first, so that the rows of a bin are written next to each other. Row k of the grouped
        # block goes to the next free position of its bin, plus its rank among the block's rows of that bin.
        by_bin = np.argsort(bins[start:stop], kind="stable")
        counts = np.bincount(bins[start:stop], minlength=len(starts))
        positions = np.repeat(free - (np.cumsum(counts) - counts), counts)
        positions += np.arange(stop - start)
        order[positions] = numbers[by_bin]
        keys[positions] = block[by_bin]
        free += counts
    return order, keys


def _choose_unsigned(bits: int) -> "np.dtype[np.unsignedinteger]":
    """Return the narrowest unsigned type with that many bits."""
    return np.dtype(np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32 if bits <= 32 else np.uint64)
