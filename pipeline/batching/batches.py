"""From sorted rows to the batches of an epoch: split, balance between ranks, shuffle."""

import heapq
import math
from array import array
from collections.abc import Callable
from itertools import pairwise
from typing import Final, Literal, TypeAlias, final

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.arrays import IntArray, SeededRandom, narrow_dtype
from pipeline.batching.policies import Policy
from pipeline.batching.sorting import SortedRows
from pipeline.errors import OptionError

# The most random orders of the batches that are tried. One in 20 exceeds `compute_chance_bound`, so for one rank two
# tries are nearly always enough. The limit matters if no order can meet the bound: few batches, or many ranks.
_MAX_SHUFFLES: Final = 20

Uneven = Literal["repeat", "drop", "raise"]
"""What happens to rows that are too few for equal numbers of batches on all ranks."""

Starts: TypeAlias = npt.NDArray[np.int64]
"""Positions in the sorted order at which batches start, ascending."""


@final
@attrs.frozen(eq=False)
class Batches:
    """Batches as slices of one order of rows: batch i has the rows `order[starts[i]:stops[i]]`.

    Attributes:
        order: row numbers.
        starts: where each batch starts in the order.
        stops: where it stops.
        shapes: its padded shape: rows, then steps, one column per length of a row.
        steps: its number of real steps.
    """

    order: IntArray
    starts: IntArray
    stops: IntArray
    shapes: IntArray
    steps: IntArray

    @classmethod
    def of(cls, rows: SortedRows, starts: Starts, policy: Policy) -> "Batches":
        """Build the batches that start at these positions, each up to the start of the next."""
        dtype = narrow_dtype(len(rows.order))
        stops = np.append(starts[1:], len(rows.order)).astype(dtype)
        if not len(starts):
            no_shapes = np.empty((0, 1 + rows.lengths.shape[1]), np.int32)
            return cls(rows.order, stops[:0], stops[:0], no_shapes, no_shapes[:, 0])
        # With one length per row, the first row of a batch is its longest, since batches never cross a pool.
        one = rows.lengths.shape[1] == 1
        longest = rows.lengths[starts] if one else np.maximum.reduceat(rows.lengths, starts, axis=0)
        # Column by column: reduceat along the first of two axes takes ten times as long.
        steps = np.zeros(len(starts), np.int64)
        for column in range(rows.lengths.shape[1]):
            steps += np.add.reduceat(rows.lengths[:, column], starts, dtype=np.int64)
        shapes = policy.shapes(stops - starts, longest)
        shapes = shapes.astype(narrow_dtype(int(shapes.max())))
        return cls(rows.order, starts.astype(dtype), stops, shapes, steps.astype(narrow_dtype(int(steps.max()))))

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, selected: IntArray | slice) -> "Batches":
        """Return some of the batches, in the order given."""
        return Batches(
            self.order, self.starts[selected], self.stops[selected], self.shapes[selected], self.steps[selected]
        )


def split_into_batches(rows: SortedRows, policy: Policy, room: Callable[[int], int]) -> Starts:
    """Choose where batches start. Each batch takes as many of the next sorted rows as fit.

    The time is proportional to the number of batches, not of rows.

    Args:
        rows: the sorted rows.
        policy: the limit on a batch.
        room: `policy.room`, cached: it is called for each batch.
    """
    bounds = _add_edges(rows, policy)
    if rows.lengths.shape[1] > 1:
        return np.frombuffer(_split_sides(rows.lengths, bounds, room), np.int64)
    starts = np.frombuffer(_split_from_longest(rows.lengths, bounds, room), np.int64)
    if policy.batches_per_sort is not None or not len(starts):
        return starts
    # If all rows are one pool, also split from the other end, and keep what pads less.
    others = np.frombuffer(_split_from_shortest(rows.lengths, bounds, room), np.int64)
    return choose_less_padded(starts, others, rows.lengths[starts], rows.lengths[others], len(rows.order), policy)


def choose_less_padded(
    starts: Starts, others: Starts, longest: IntArray, others_longest: IntArray, rows: int, policy: Policy
) -> Starts:
    """Return the one of two ways to split the same rows that has fewer padded steps; the first if both are equal.

    Args:
        starts: where batches start in the first way.
        others: where they start in the second.
        longest: the longest row of each batch in the first way, of shape (batches, 1).
        others_longest: the same in the second.
        rows: the number of rows.
        policy: determines how batches are padded.
    """

    def count_padded(starts: Starts, longest: IntArray) -> int:
        shapes = policy.shapes(np.diff(starts, append=rows), longest).astype(np.int64)
        return int((shapes[:, 0] * shapes[:, 1]).sum())

    return others if count_padded(others, others_longest) < count_padded(starts, longest) else starts


def _split_from_longest(lengths: IntArray, bounds: Starts, room: Callable[[int], int]) -> "array[int]":
    """Fill batches from the longest row down: the first row of a batch is its longest, so its room is known at once."""
    view = lengths[:, 0].data  # a memoryview gives Python ints, which are faster than numpy's
    starts = array("q")
    for begin, end in _list_ranges(bounds):
        start = begin
        while start < end:
            starts.append(start)
            start += room(view[start])
    return starts


def _split_from_shortest(lengths: IntArray, bounds: Starts, room: Callable[[int], int]) -> "array[int]":
    """Fill batches from the shortest row up, so that the rows left for the last batch are the longest ones.

    Each way leaves one batch partly filled: with the shortest rows, or with the longest. Long rows differ most in
    length, so a small batch of them saves the most padding; but which way is better depends on how many rows are left.
    """
    view = lengths[:, 0].data
    starts = array("q")
    for begin, end in reversed(_list_ranges(bounds)):
        stop = end
        while stop > begin:
            # The batch ends at `stop`; find its first row, which is its longest. Starting at `fits` the rows fit, and
            # starting at `over` they do not. The room for the shortest row gives the first bound, and the room for the
            # longest row that could be reached gives the second. Bisection finds the border between them.
            over, fits = max(stop - room(view[stop - 1]), begin) - 1, stop - 1
            fits = min(fits, max(stop - room(view[over + 1]), begin))
            while fits - over > 1:
                middle = (over + fits) // 2
                if stop - middle <= room(view[middle]):
                    fits = middle
                else:
                    over = middle
            starts.append(fits)
            stop = fits
    starts.reverse()
    return starts


def _split_sides(lengths: IntArray, bounds: Starts, room: Callable[[int], int]) -> "array[int]":
    """Fill batches of rows with several lengths, of each of which any row may be the longest.

    The running maximum of each length over the next rows never falls and the room never rises, so bisection finds how
    many rows fit.
    """
    starts = array("q")
    for begin, end in _list_ranges(bounds):
        start = begin
        while start < end:
            starts.append(start)
            most = min(room(int(lengths[start].sum(dtype=np.int64))), end - start)
            longest = np.maximum.accumulate(lengths[start : start + most], axis=0).sum(axis=1, dtype=np.int64)
            # `few` rows fit, more than `many` do not.
            few, many = 1, len(longest)
            while few < many:
                middle = (few + many + 1) // 2
                if middle <= room(int(longest[middle - 1])):
                    few = middle
                else:
                    many = middle - 1
            start += few
    return starts


def _list_ranges(bounds: Starts) -> list[tuple[int, int]]:
    """Return the first position of each range of rows between two bounds, and the position after its last."""
    positions: list[int] = bounds.tolist()
    return list(pairwise(positions))


def _add_edges(rows: SortedRows, policy: Policy) -> Starts:
    """Return the bounds of the pools, and every position between rows on different sides of an edge of the policy."""
    edges = policy.edges()
    if not edges:
        return rows.bounds
    totals: npt.NDArray[np.int64] = rows.lengths.sum(axis=1, dtype=np.int64)
    groups = np.searchsorted(np.asarray(edges), totals)
    return np.union1d(rows.bounds, np.flatnonzero(np.diff(groups)) + 1)


def split_largest(starts: Starts, rows: int, world_size: int) -> Starts:
    """Halve the batches with the most rows until the number of batches is a multiple of `world_size`, if rows allow it.

    Half a batch is always within the limits of the whole one. A batch of one row cannot be halved.

    Example:
        >>> split_largest(np.array([0, 6]), rows=8, world_size=3).tolist()
        [0, 3, 6]
    """
    missing = min(-len(starts) % world_size, rows - len(starts))
    if missing <= 0:
        return starts
    sizes = np.diff(starts, append=rows)
    # Each halving takes the largest batch, so only the `missing` largest ones can be reached.
    largest = np.argsort(-sizes, kind="stable")[:missing]
    heap = [(-int(sizes[batch]), int(starts[batch])) for batch in largest]
    heapq.heapify(heap)
    added: list[int] = []
    for _ in range(missing):
        size, start = heapq.heappop(heap)
        half = (-size + 1) // 2
        added.append(start + half)
        heapq.heappush(heap, (-half, start))
        heapq.heappush(heap, (size + half, start + half))
    return np.sort(np.concatenate([starts, np.asarray(added, np.int64)]))


def balance_ranks(
    batches: Batches, world_size: int, uneven: Uneven, random: SeededRandom | None
) -> tuple[Batches, IntArray, IntArray]:
    """Make the number of batches a multiple of `world_size`, and return them with the repeated and the dropped rows.

    Raises:
        OptionError: if rows have to be repeated or dropped and `uneven` is "raise", or if dropping would leave none.
    """
    none = np.empty(0, batches.order.dtype)
    over = len(batches) % world_size
    if not over:
        return batches, none, none
    if uneven == "raise" or (uneven == "drop" and over == len(batches)):
        reason = "" if uneven == "raise" else ", and dropping them would leave none"
        msg = (
            f"{len(batches.order)} rows do not make the same number of batches for {world_size} ranks{reason}; "
            'use fewer ranks, or repeat some rows: uneven="repeat".'
        )
        raise OptionError(msg, rows=len(batches.order), world_size=world_size, uneven=uneven)
    # Every batch has one row here: otherwise `split_largest` would have halved another one.
    shuffled = np.arange(len(batches)) if random is None else random.permutation(len(batches))
    if uneven == "drop":
        kept, dropped = np.sort(shuffled[over:]), shuffled[:over]
        return batches.take(kept), none, batches.order[batches.starts[dropped]]
    repeated = np.resize(shuffled, world_size - over)
    every = np.concatenate([np.arange(len(batches)), repeated])
    return batches.take(every), batches.order[batches.starts[repeated]], none


def shuffle_batches(batches: Batches, world_size: int, random: SeededRandom | None) -> Batches:
    """Shuffle batches for training: in groups of `world_size` batches of similar size, one for each rank.

    All ranks wait for the slowest at each step, so the batches of a step should cost the same. The groups are runs of
    the batches sorted by size; the groups are then shuffled, and the ranks within each.

    A random order can by chance still be sorted to some degree. If the lengths of adjacent batches correlate more than
    19 of 20 random orders do, the order is drawn again. Without `random`, batches stay in the order of the pools.
    """
    if random is None or not len(batches):
        return batches
    # Shuffled before the sort as well, so that batches of one size meet different ones in each epoch.
    shuffled = random.permutation(len(batches))
    if world_size > 1:
        # Sorted by width, then by rows: ranks with equal widths run the same number of time steps.
        widths = batches.shapes[:, 1:].sum(axis=1, dtype=np.int64)
        shuffled = shuffled[np.lexsort((batches.shapes[shuffled, 0], widths[shuffled]))]
    groups = shuffled.reshape(-1, world_size)
    means = batches.steps / (batches.stops - batches.starts)
    bound = compute_chance_bound(len(groups))
    order = _shuffle_groups(groups, random)
    for _ in range(_MAX_SHUFFLES):
        if all(abs(correlate_neighbors(means[ranked])) <= bound for ranked in order.T):
            break
        order = _shuffle_groups(groups, random)
    return batches.take(order.ravel())


def _shuffle_groups(groups: npt.NDArray[np.int64], random: SeededRandom) -> npt.NDArray[np.int64]:
    """Shuffle the groups, and the batches within each group."""
    groups = groups[random.permutation(len(groups))]
    if groups.shape[1] == 1:
        return groups
    keys = random.uint32(groups.size).reshape(groups.shape)
    return np.take_along_axis(groups, keys.argsort(axis=1, kind="stable"), axis=1)


def move_costliest_first(batches: Batches, world_size: int, policy: Policy) -> Batches:
    """Move the step with the costliest batch to the front: if memory is too small for it, the first step fails."""
    if not len(batches):
        return batches
    step = int(policy.cost(batches.shapes).argmax()) // world_size
    steps = np.concatenate([[step], np.delete(np.arange(len(batches) // world_size), step)])
    return batches.take((steps[:, None] * world_size + np.arange(world_size)).ravel())


def correlate_neighbors(values: npt.NDArray[np.float64]) -> float:
    """Compute Pearson's correlation of each value with the next; 0 for fewer than three values, or equal ones.

    Example:
        >>> round(correlate_neighbors(np.array([1.0, 2.0, 3.0, 4.0])), 6)
        1.0
    """
    if len(values) < 3 or not np.ptp(values[:-1]) or not np.ptp(values[1:]):
        return 0.0
    return float(np.corrcoef(values[:-1], values[1:])[0, 1])


def compute_chance_bound(count: int) -> float:
    """Return the bound that `correlate_neighbors` of `count` random values stays within in 19 of 20 cases.

    That is two standard deviations of about 1 / sqrt(count) each. The bound is at least 0.05: a stricter one for many
    batches would only cost more shuffles.
    """
    return max(0.05, 2 / math.sqrt(max(count, 1)))
