"""Batches out of a histogram alone: rows of one length are a run, and no row is looked at by itself."""

from collections.abc import Iterator
from typing import final

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.batches import Batches
from pipeline.batching.cut import less_padded
from pipeline.batching.numbers import IntArray
from pipeline.batching.policy import Policy
from pipeline.batching.ranks import divided
from pipeline.errors import LengthError
from pipeline.forecast.histogram import Histogram

Whole = npt.NDArray[np.int64]

_Equal = tuple[int, int, int]
"""Batches of as many rows each, one behind the other: where the first begins, the rows of each, and how many."""


@final
@attrs.frozen(eq=False)
class Runs:
    """Rows pool by pool, the longest first, as runs of rows of one length.

    Attributes:
        lengths: of each run.
        begins: where each begins among the rows, and behind them where the last one ends.
        before: how many steps all rows before it have, likewise.
        breaks: whether no batch may go on into a run from the one before: where a pool begins, or an edge is crossed.
    """

    lengths: Whole
    begins: Whole
    before: Whole
    breaks: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, lengths: Whole, counts: npt.NDArray[np.int64], policy: Policy) -> "Runs":
        """The runs of some pools.

        Args:
            lengths: the lengths that occur, ascending.
            counts: how many rows of each a pool holds, of shape (pools, lengths).
            policy: whose edges are not crossed.
        """
        pools = len(counts)
        falling = np.tile(lengths[::-1], pools)
        sizes = counts[:, ::-1].ravel()
        groups = np.searchsorted(np.asarray(policy.edges(), np.int64), falling)
        group = np.repeat(np.arange(pools), len(lengths)) * (len(policy.edges()) + 1) + groups
        there = np.flatnonzero(sizes)
        falling, sizes, group = falling[there], sizes[there], group[there]
        begins = np.concatenate([[0], np.cumsum(sizes)])
        before = np.concatenate([[0], np.cumsum(sizes * falling)])
        return cls(falling, begins, before, np.diff(group, prepend=-1) != 0)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self.begins[-1])

    def run_at(self, places: IntArray) -> Whole:
        """The run that each place lies in."""
        return np.searchsorted(self.begins, places, side="right") - 1

    def steps_before(self, places: IntArray) -> Whole:
        """How many steps all rows before each place have."""
        run = self.run_at(places)
        # Behind the last run there is nothing.
        steps: Whole = self.before[run] + (places - self.begins[run]) * np.append(self.lengths, 0)[run]
        return steps

    def starts(self, policy: Policy) -> Whole:
        """The places where batches begin: those of `pipeline.batching.cut`, found in a step a run."""
        found = self._from_the_longest(policy)
        if policy.batches_per_sort is not None or not len(found):
            return found
        other = self._from_the_shortest(policy)
        longest, others_longest = (self.lengths[self.run_at(starts)][:, None] for starts in (found, other))
        return less_padded(found, other, longest, others_longest, self.rows, policy)

    def _from_the_longest(self, policy: Policy) -> Whole:
        rooms = self._rooms(policy)
        found: list[_Equal] = []
        start = 0
        for length, begin, end, breaks in self._each():
            start = begin if breaks else start
            if start < end:
                batches = -(-(end - start) // rooms[length])
                found.append((start, rooms[length], batches))
                start += batches * rooms[length]
        return _places(found)

    def _from_the_shortest(self, policy: Policy) -> Whole:
        rooms = self._rooms(policy)
        found: list[_Equal] = []
        held = 0  # how many rows the batch has that is under way: it goes on into longer ones while there is room
        for length, begin, end, breaks in reversed(list(self._each())):
            stop, room = end, rooms[length]
            if held:
                taken = min(max(room - held, 0), stop - begin)
                stop -= taken
                held += taken
                if stop > begin:
                    found.append((stop, 1, 1))
                    held = 0
            if not held:
                batches, held = divmod(stop - begin, room)
                found.append((begin + held, room, batches))
            if breaks and held:
                found.append((begin, 1, 1))
                held = 0
        return np.sort(_places(found))

    def _rooms(self, policy: Policy) -> dict[int, int]:
        return {length: policy.room(length) for length in set(self.lengths.tolist())}

    def _each(self) -> Iterator[tuple[int, int, int, bool]]:
        begins = self.begins.tolist()
        return zip(self.lengths.tolist(), begins[:-1], begins[1:], self.breaks.tolist(), strict=True)

    def batches(self, policy: Policy, world_size: int) -> Batches:
        """The batches, their number a multiple of `world_size` if the rows allow it; they hold no numbers of rows."""
        starts = divided(self.starts(policy), self.rows, world_size)
        stops = np.append(starts[1:], self.rows)[: len(starts)]
        longest = self.lengths[self.run_at(starts)]
        shapes = policy.shapes(stops - starts, longest[:, None])
        steps = self.steps_before(stops) - self.steps_before(starts)
        return Batches(np.empty(0, np.int32), starts, stops, shapes, steps)


def _places(found: list[_Equal]) -> Whole:
    table = np.asarray(found, np.int64).reshape(-1, 3)
    counts = table[:, 2]
    nth = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    places: Whole = np.repeat(table[:, 0], counts) + nth * np.repeat(table[:, 1], counts)
    return places


def what_is_left(histogram: Histogram, policy: Policy) -> Histogram:
    """The histogram of rows as a policy leaves them: long ones truncated, split, or as they are.

    Raises:
        LengthError: for a long row, if the policy refuses those.
    """
    limit = policy.limit()
    if limit is None or histogram.longest <= limit or policy.too_long == "alone":
        return histogram
    long = histogram.lengths > limit
    many = int(histogram.counts[long].sum())
    if policy.too_long == "raise":
        msg = (
            f"{many:,} rows are longer than {limit:,} steps, up to {histogram.longest:,}, but {policy} has no room for "
            'those; raise that, or say what becomes of long rows: too_long="alone", "truncate" or "split".'
        )
        raise LengthError(msg, rows=many, length=histogram.longest, limit=limit)
    counts = histogram.counts[long]
    lengths = np.concatenate([histogram.lengths, [limit]])
    whole = many
    if policy.too_long == "split":
        pieces = (histogram.lengths[long] - 1) // limit
        whole = int((counts * pieces).sum())
        lengths[np.flatnonzero(long)] -= pieces * limit
    kept = np.concatenate([np.where(long & (policy.too_long == "truncate"), 0, histogram.counts), [whole]])
    found, place = np.unique(lengths, return_inverse=True)
    merged = np.zeros(len(found), np.int64)
    np.add.at(merged, place, kept)
    there = merged > 0
    return Histogram(found[there], merged[there])
