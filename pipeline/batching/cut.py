"""Where one batch ends and the next begins."""

from array import array
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pipeline.batching.numbers import Numbers
from pipeline.batching.policy import Policy
from pipeline.batching.sorting import Sorted


def cut(rows: Sorted, policy: Policy) -> npt.NDArray[np.int64]:
    """The places where batches begin, ascending: each takes as many rows as the policy has room for.

    Costs a few steps a batch, whatever the number of rows.
    """
    bounds = _with_edges(rows, policy)
    walk = _walk_descending if rows.lengths.shape[1] == 1 else _walk
    return np.frombuffer(walk(rows.lengths, bounds, policy), np.int64)


def _walk_descending(lengths: Numbers, bounds: npt.NDArray[np.int64], policy: Policy) -> "array[int]":
    """Where a batch's first row is its longest."""
    view = lengths[:, 0].data
    rooms: dict[int, int] = {}
    starts = array("q")
    places: list[int] = bounds.tolist()
    for begin, end in pairwise(places):
        start = begin
        while start < end:
            starts.append(start)
            longest = view[start]
            room = rooms.get(longest)
            if room is None:
                room = rooms[longest] = policy.room(longest)
            start += room
    return starts


def _walk(lengths: Numbers, bounds: npt.NDArray[np.int64], policy: Policy) -> "array[int]":
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
