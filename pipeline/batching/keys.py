"""Rows in the order in which batches are cut: pool by pool, the longest first, at random among equals."""

from typing import Final, final

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.draws import Draws
from pipeline.batching.lengths import Lengths, blocks
from pipeline.batching.numbers import Numbers, narrow
from pipeline.batching.pieces import Pieces

_TIES: Final = 8
"""How many bits at least tell rows of one length in one pool apart at random."""

U = np.uint64


@final
@attrs.frozen(eq=False)
class Sorted:
    """Rows in order.

    Attributes:
        order: their numbers, of shape (rows,).
        lengths: their lengths in that order, of shape (rows, 1) or (rows, 2).
        bounds: where each pool begins, and behind them where the last one ends.
        exact: whether the lengths of a pool never rise.
    """

    order: Numbers
    lengths: Numbers
    bounds: npt.NDArray[np.int64]
    exact: bool


@final
@attrs.frozen
class _Layout:
    """Which bits of a key hold what, from the top: pool, how far from the longest, at random, row."""

    pools: int
    top: int
    lost: int
    size: int
    ties: int
    row: int

    @classmethod
    def of(cls, rows: int, top: int, pools: int) -> "_Layout":
        row = max(1, (rows - 1).bit_length())
        left = 64 - row - (pools - 1).bit_length()
        size = max(1, top.bit_length())
        # Lengths too large for what is left are sorted by their upper bits.
        lost = max(0, size - max(1, left - _TIES))
        size -= lost
        return cls(pools, top, lost, size, max(0, min(32, left - size)), row)


def sort_rows(lengths: Lengths, pieces: Pieces, numbers: Numbers | None, pools: int, draws: Draws | None) -> Sorted:
    """Sort once, by one key of 64 bits a row; no two keys are equal, so any sort gives the same.

    Args:
        lengths: the rows' lengths.
        pieces: what is left of them.
        numbers: which pieces are sorted; None for all.
        pools: how many pools there are.
        draws: what the pools, and the order among rows of one length, are drawn from; None for pools of neighbours,
            and rows of one length as they stand.
    """
    count = len(pieces) if numbers is None else len(numbers)
    top = lengths.top if pieces.limit is None else min(lengths.top, pieces.limit)
    layout = _Layout.of(len(pieces), top, pools)
    keys = np.empty(count, U)
    for begin, end in blocks(count):
        which = slice(begin, end) if numbers is None else numbers[begin:end]
        rows = np.arange(begin, end, dtype=U) if isinstance(which, slice) else which.astype(U)
        sizes = (
            pieces.lengths(lengths, which).sum(axis=1) if lengths.sides == 2 else pieces.lengths(lengths, which)[:, 0]
        )
        _fill(keys[begin:end], layout, sizes, rows, _chances(begin, end, count, draws))
    keys.sort()
    return _taken_apart(keys, layout, lengths, pieces)


def _chances(begin: int, end: int, count: int, draws: Draws | None) -> npt.NDArray[np.uint64]:
    """32 bits a row whose upper ones choose its pool: at random, or rising with its place."""
    if draws is not None:
        return draws.words(end - begin).astype(U)
    return np.arange(begin, end, dtype=U) * U((1 << 32) // max(count, 1))


def _fill(
    keys: npt.NDArray[np.uint64],
    layout: _Layout,
    sizes: npt.NDArray[np.int64],
    rows: npt.NDArray[np.uint64],
    chances: npt.NDArray[np.uint64],
) -> None:
    np.multiply(chances, U(layout.pools), out=keys)
    ties = keys & U(0xFFFFFFFF)
    keys >>= U(32)
    keys <<= U(layout.size)
    keys |= (layout.top - sizes).view(U) >> U(layout.lost)
    keys <<= U(layout.ties)
    keys |= ties >> U(32 - layout.ties)
    keys <<= U(layout.row)
    keys |= rows


def _taken_apart(keys: npt.NDArray[np.uint64], layout: _Layout, lengths: Lengths, pieces: Pieces) -> Sorted:
    count = len(keys)
    exact = lengths.sides == 1 and not layout.lost
    order = np.empty(count, narrow(len(pieces)))
    sizes = np.empty((count, lengths.sides), narrow(layout.top))
    for begin, end in blocks(count):
        block = keys[begin:end]
        np.bitwise_and(block, U((1 << layout.row) - 1), out=order[begin:end], casting="unsafe")
        if exact:
            found = (block >> U(layout.row + layout.ties)) & U((1 << layout.size) - 1)
            np.subtract(layout.top, found.view(np.int64), out=sizes[begin:end, 0], casting="unsafe")
        else:
            sizes[begin:end] = pieces.lengths(lengths, order[begin:end])
    edges = np.arange(1, layout.pools, dtype=U) << U(layout.size + layout.ties + layout.row)
    bounds = np.concatenate([[0], np.searchsorted(keys, edges), [count]]).astype(np.int64)
    return Sorted(order, sizes, bounds, exact)
