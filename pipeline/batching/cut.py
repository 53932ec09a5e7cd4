"""Where one batch ends and the next begins."""

from array import array
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pipeline.batching.numbers import IntArray
from pipeline.batching.policy import Policy
from pipeline.batching.sorting import Sorted


def cut(rows: Sorted, policy: Policy) -> npt.NDArray[np.int64]:
    """The places where batches begin, ascending: each takes as many rows as the policy has room for.

    Costs a few steps a batch, whatever the number of rows.
    """
    bounds = _with_edges(rows, policy)
    if rows.lengths.shape[1] == 2:
        return np.frombuffer(_walk(rows.lengths, bounds, policy), np.int64)
    found = np.frombuffer(_from_the_longest(rows.lengths, bounds, policy), np.int64)
    if policy.batches_per_sort is not None or not len(found):
        return found
    # Where a pool is all there is, the other way to begin costs little, and may pad less.
    other = np.frombuffer(_from_the_shortest(rows.lengths, bounds, policy), np.int64)
    return less_padded(found, other, rows.lengths[found], rows.lengths[other], len(rows.order), policy)


def less_padded(
    starts: npt.NDArray[np.int64],
    others: npt.NDArray[np.int64],
    longest: IntArray,
    others_longest: IntArray,
    rows: int,
    policy: Policy,
) -> npt.NDArray[np.int64]:
    """Of two ways to cut the same rows the one that pads less; the first, if they are alike.

    Args:
        starts: where batches begin in one way.
        others: where they begin in the other.
        longest: the longest row of each batch, of shape (batches, 1).
        others_longest: the same, in the other way.
        rows: how many rows there are.
        policy: what says how batches are padded.
    """

    def padded(starts: npt.NDArray[np.int64], longest: IntArray) -> int:
        shapes = policy.shapes(np.diff(starts, append=rows), longest).astype(np.int64)
        return int((shapes[:, 0] * shapes[:, 1]).sum())

    return others if padded(others, others_longest) < padded(starts, longest) else starts


def _from_the_longest(lengths: IntArray, bounds: npt.NDArray[np.int64], policy: Policy) -> "array[int]":
    """Where a batch's first row is its longest."""
    room = _rooms(lengths, policy)
    starts = array("q")
    places: list[int] = bounds.tolist()
    for begin, end in pairwise(places):
        start = begin
        while start < end:
            starts.append(start)
            start += room(start)
    return starts


def _from_the_shortest(lengths: IntArray, bounds: npt.NDArray[np.int64], policy: Policy) -> "array[int]":
    """The same, from the other end: rows that are over are the longest, not the shortest.

    Lengths lie the farthest apart there, and a batch of few rows pads the least; but it is a matter of what is over.
    """
    room = _rooms(lengths, policy)
    starts = array("q")
    places: list[int] = bounds.tolist()
    for begin, end in pairwise(reversed(places)):
        stop = begin
        while stop > end:
            # Of the rows before `stop`: with `fits` as the first they fit together, with one before `over` never.
            over, fits = max(stop - room(stop - 1), end) - 1, stop - 1
            fits = min(fits, max(stop - room(over + 1), end))
            while fits - over > 1:
                middle = (over + fits) // 2
                if stop - middle <= room(middle):
                    fits = middle
                else:
                    over = middle
            starts.append(fits)
            stop = fits
    starts.reverse()
    return starts


def _rooms(lengths: IntArray, policy: Policy) -> Callable[[int], int]:
    """How many rows a batch may hold whose longest row stands at a place: asked of the policy once a length."""
    view = lengths[:, 0].data
    known: dict[int, int] = {}

    def room(place: int) -> int:
        longest = view[place]
        found = known.get(longest)
        if found is None:
            found = known[longest] = policy.room(longest)
        return found

    return room


def _walk(lengths: IntArray, bounds: npt.NDArray[np.int64], policy: Policy) -> "array[int]":
    """Where any row may be a batch's longest: as many rows as fit together."""
    starts = array("q")
    for begin, end in pairwise(bounds.tolist()):
        start = begin
        while start < end:
            starts.append(start)
            most = min(policy.room(int(lengths[start].sum(dtype=np.int64))), end - start)
            longest = np.maximum.accumulate(lengths[start : start + most], axis=0).sum(axis=1, dtype=np.int64)
            start += _fitting(longest, policy)
    return starts


def _fitting(longest: npt.NDArray[np.int64], policy: Policy) -> int:
    """How many rows fit together, by bisection; always one."""
    few, many = 1, len(longest)
    while few < many:
        middle = (few + many + 1) // 2
        if middle <= policy.room(int(longest[middle - 1])):
            few = middle
        else:
            many = middle - 1
    return few


def _with_edges(rows: Sorted, policy: Policy) -> npt.NDArray[np.int64]:
    """The bounds of the pools, and wherever neighbours lie on two sides of an edge."""
    edges = policy.edges()
    if not edges:
        return rows.bounds
    totals: npt.NDArray[np.int64] = rows.lengths.sum(axis=1, dtype=np.int64)
    groups = np.searchsorted(np.asarray(edges), totals)
    return np.union1d(rows.bounds, np.flatnonzero(np.diff(groups)) + 1)
