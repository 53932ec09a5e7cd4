"""Make batches from a histogram, without looking at single rows: a hundred million rows take about a second.

Batches are cut from rows sorted by length, so all that matters is where runs of rows of equal length start. A policy
with `batches_per_sort` sorts its rows in pools of random rows; the numbers of rows of each length in a pool are then
drawn at random.
"""

from collections.abc import Iterator
from typing import Final, final

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.arrays import IntArray, SeededRandom
from pipeline.batching.batches import Batches, choose_less_padded, shuffle_batches, split_largest
from pipeline.batching.cursor import Cursor
from pipeline.batching.lengths import RowSplits
from pipeline.batching.plan import Plan
from pipeline.batching.policies import Policy
from pipeline.errors import LengthError
from pipeline.forecast.histogram import Histogram

Int64Array = npt.NDArray[np.int64]

# The maximum number of pools to draw: 6,400 batches at 100 batches per pool are enough for every figure.
_MAX_POOLS: Final = 64

# The number of pairs of batchmates to look up in the next epoch: the standard error of their share is below 0.2%.
_PAIRS: Final = 1 << 16


@final
@attrs.frozen(eq=False)
class SampledBatches:
    """Batches made from a histogram.

    Attributes:
        batches: the batches of the drawn pools, without row numbers.
        rows: the rows of all pools, after the policy has truncated or split long ones.
        complete: whether all pools were drawn.
        repeated_batchmates: the share of pairs of batchmates that meet again in the next epoch; 0 without pairs.
    """

    batches: Batches
    rows: Histogram
    complete: bool
    repeated_batchmates: float

    def to_plan(self, world_size: int, seed: int) -> Plan:
        """Return a plan with the batches in training order. It has their shapes and steps, but no row numbers."""
        empty = np.empty(0, np.int32)
        fields = attrs.asdict(shuffle_batches(self.batches, world_size, SeededRandom(seed, (0,))), recurse=False)
        splits = RowSplits(self.rows.rows)
        return Plan(**fields, splits=splits, repeated=empty, dropped=empty, world_size=world_size, start=Cursor())


def sample_batches(histogram: Histogram, policy: Policy, world_size: int, seed: int) -> SampledBatches:
    """Make the batches of a plan of rows with these lengths.

    With one pool, these are exactly the batches of the plan. With several, pools are drawn at random from the same
    distribution as those of the plan: all of them, or 64 that represent the others.

    Raises:
        LengthError: for a row that is too long, if the policy has `too_long="raise"`.
    """
    rows = cut_long_rows(histogram, policy)
    pools = _count_pools(rows, policy)
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    counts = _draw_pools(rows, pools, generator)
    runs = LengthRuns.of(rows.lengths, counts, policy)
    complete = len(counts) == pools
    batches = runs.make_batches(policy, world_size if complete else 1)
    # Drawing again gives the pools of another epoch; a single pool always holds all rows.
    following = _draw_pools(rows, pools, generator)
    repeated = _estimate_repeated(rows.lengths, runs, following, policy, generator)
    # Two rows share a pool in the next epoch with probability 1 / pools.
    return SampledBatches(batches, rows, complete, repeated / pools)


def cut_long_rows(histogram: Histogram, policy: Policy) -> Histogram:
    """Return the histogram of the rows after a policy has truncated or split long ones, or left them alone.

    Raises:
        LengthError: for a row that is too long, if the policy has `too_long="raise"`.
    """
    limit = policy.limit()
    if limit is None or histogram.longest <= limit or policy.too_long == "alone":
        return histogram
    is_long = histogram.lengths > limit
    counts = histogram.counts[is_long]
    long_rows = int(counts.sum())
    if policy.too_long == "raise":
        msg = (
            f"rows must have at most {limit:,} steps for {policy}, got {long_rows:,} longer ones of up to "
            f'{histogram.longest:,} steps; raise the limit, or choose too_long="alone", "truncate" or "split".'
        )
        raise LengthError(msg, rows=long_rows, length=histogram.longest, limit=limit)
    # Both truncated rows and all parts of a split row but the last have `limit` steps; the last part has the rest.
    lengths = np.concatenate([histogram.lengths, [limit]])
    full = long_rows
    if policy.too_long == "split":
        full_parts = (histogram.lengths[is_long] - 1) // limit
        full = int((counts * full_parts).sum())
        lengths[np.flatnonzero(is_long)] -= full_parts * limit
    rest = np.where(is_long & (policy.too_long == "truncate"), 0, histogram.counts)
    found, index = np.unique(lengths, return_inverse=True)
    merged = np.zeros(len(found), np.int64)
    np.add.at(merged, index, np.concatenate([rest, [full]]))
    occurring = merged > 0
    return Histogram(found[occurring], merged[occurring])


def _count_pools(histogram: Histogram, policy: Policy) -> int:
    """Return the number of pools: the rows fill about this many batches, `batches_per_sort` of them per pool."""
    if policy.batches_per_sort is None or not histogram.rows:
        return 1
    room = np.fromiter(map(policy.room, histogram.lengths.tolist()), np.float64, len(histogram.lengths))
    return max(1, int((histogram.counts / room).sum()) // policy.batches_per_sort)


def _draw_pools(histogram: Histogram, pools: int, generator: np.random.Generator) -> Int64Array:
    """Draw the number of rows of each length in each pool, of shape (pools, lengths)."""
    if pools == 1:
        return histogram.counts[None]
    if pools <= _MAX_POOLS:
        return generator.multinomial(histogram.counts, np.full(pools, 1 / pools)).T
    # Some of many pools: nearly independent of each other, so a binomial draw for each is enough.
    return generator.binomial(histogram.counts, 1 / pools, size=(_MAX_POOLS, len(histogram.counts)))


_Series = tuple[int, int, int]
"""Consecutive batches of equal size: the position where the first starts, the rows of each, and their number."""


@final
@attrs.frozen(eq=False)
class LengthRuns:
    """Rows pool by pool, sorted from longest to shortest, as runs of rows of equal length.

    Attributes:
        lengths: the length of each run.
        starts: the position of each run's first row; at the end, the number of rows.
        steps_before: the number of steps of all rows before each run; at the end, of all rows.
        breaks: whether a batch must start with the run: at the start of a pool, and beyond an edge of the policy.
    """

    lengths: Int64Array
    starts: Int64Array
    steps_before: Int64Array
    breaks: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, lengths: Int64Array, counts: Int64Array, policy: Policy) -> "LengthRuns":
        """Make the runs of some pools.

        Args:
            lengths: the lengths that occur, ascending.
            counts: the number of rows of each length in each pool, of shape (pools, lengths).
            policy: the policy, whose edges no batch crosses.
        """
        pools = len(counts)
        falling = np.tile(lengths[::-1], pools)
        sizes = counts[:, ::-1].ravel()
        # A group is one pool between two edges; a batch never extends from one group into the next.
        edge = np.searchsorted(np.asarray(policy.edges(), np.int64), falling)
        group = np.repeat(np.arange(pools), len(lengths)) * (len(policy.edges()) + 1) + edge
        occurring = np.flatnonzero(sizes)
        falling, sizes, group = falling[occurring], sizes[occurring], group[occurring]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        steps_before = np.concatenate([[0], np.cumsum(sizes * falling)])
        return cls(falling, starts, steps_before, np.diff(group, prepend=-1) != 0)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.starts[-1])

    def find(self, positions: IntArray) -> Int64Array:
        """Return the run that holds each position."""
        return np.searchsorted(self.starts, positions, side="right") - 1

    def count_steps_before(self, positions: IntArray) -> Int64Array:
        """Return the number of steps of all rows before each position."""
        run = self.find(positions)
        # The position after the last row belongs to no run; a length of 0 stands for it.
        steps: Int64Array = self.steps_before[run] + (positions - self.starts[run]) * np.append(self.lengths, 0)[run]
        return steps

    def split_into_batches(self, policy: Policy) -> Int64Array:
        """Return the positions where batches start.

        They are those of `pipeline.batching`, found in time proportional to the number of runs, not of rows.
        """
        # Rows fill batches from the longest on. With a single pool, filling from the shortest may give less padding,
        # because the batch that is not full then holds long rows and not short ones; the better of both is taken.
        starts = self._split_from_longest(policy)
        if policy.batches_per_sort is not None or not len(starts):
            return starts
        other = self._split_from_shortest(policy)
        longest, other_longest = (self.lengths[self.find(found)][:, None] for found in (starts, other))
        return choose_less_padded(starts, other, longest, other_longest, self.rows, policy)

    def make_batches(self, policy: Policy, world_size: int) -> Batches:
        """Make the batches, if possible a multiple of `world_size` of them, without row numbers."""
        starts = split_largest(self.split_into_batches(policy), self.rows, world_size)
        stops = np.append(starts[1:], self.rows)[: len(starts)]
        longest = self.lengths[self.find(starts)]
        shapes = policy.shapes(stops - starts, longest[:, None])
        steps = self.count_steps_before(stops) - self.count_steps_before(starts)
        return Batches(np.empty(0, np.int32), starts, stops, shapes, steps)

    def _split_from_longest(self, policy: Policy) -> Int64Array:
        """Fill each batch from its longest row on: that row alone decides how many rows the batch holds."""
        room = self._get_room(policy)
        found: list[_Series] = []
        position = 0
        for length, start, stop, breaks in self._iterate():
            position = start if breaks else position
            # The last batch may extend into the next runs, so `position` may lie beyond `stop`.
            if position < stop:
                batches = -(-(stop - position) // room[length])  # rounded up
                found.append((position, room[length], batches))
                position += batches * room[length]
        return _list_positions(found)

    def _split_from_shortest(self, policy: Policy) -> Int64Array:
        """Fill each batch from its shortest row on: each longer row that is added may reduce its room."""
        room = self._get_room(policy)
        found: list[_Series] = []
        pending = 0  # rows of the unfinished batch, which extends into longer runs as long as they leave room
        for length, start, stop, breaks in reversed(list(self._iterate())):
            end, size = stop, room[length]
            if pending:
                # The unfinished batch takes rows of this run, as long as it is within the room for this length.
                taken = min(max(size - pending, 0), end - start)
                end -= taken
                pending += taken
                if end > start:
                    found.append((end, 1, 1))
                    pending = 0
            if not pending:
                batches, pending = divmod(end - start, size)
                found.append((start + pending, size, batches))
            if breaks and pending:
                found.append((start, 1, 1))
                pending = 0
        return np.sort(_list_positions(found))

    def _get_room(self, policy: Policy) -> dict[int, int]:
        return {length: policy.room(length) for length in set(self.lengths.tolist())}

    def _iterate(self) -> Iterator[tuple[int, int, int, bool]]:
        """Yield length, first position, end and break of each run."""
        starts = self.starts.tolist()
        return zip(self.lengths.tolist(), starts[:-1], starts[1:], self.breaks.tolist(), strict=True)


def _list_positions(found: list[_Series]) -> Int64Array:
    """Return the positions where the batches of all series start."""
    table = np.asarray(found, np.int64).reshape(-1, 3)
    counts = table[:, 2]
    # 0, 1, 2, ... within each series: the index among all batches, less the index of the first of its series.
    nth = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    positions: Int64Array = np.repeat(table[:, 0], counts) + nth * np.repeat(table[:, 1], counts)
    return positions


def _estimate_repeated(
    lengths: Int64Array,
    runs: LengthRuns,
    counts: Int64Array,
    policy: Policy,
    generator: np.random.Generator,
) -> float:
    """Estimate the share of batchmates that meet again in the next epoch, given that they share a pool there.

    Rows of one length are interchangeable, so the two rows of a pair are placed at random among the rows of their
    lengths in a random pool; then their batches are compared.

    Args:
        lengths: the lengths that occur, ascending.
        runs: the rows of this epoch.
        counts: the number of rows of each length in each pool of the next epoch, of shape (pools, lengths).
        policy: what a batch may hold.
        generator: the source of random numbers.
    """
    pairs = _draw_pairs(runs, policy, generator)
    if pairs is None:
        return 0.0
    pool = generator.integers(len(counts), size=len(pairs))[:, None]
    # Rows stand pool by pool, from longest to shortest, while the columns of `counts` ascend: adding up the reversed
    # columns gives the position after the rows of each length in each pool.
    ends = np.cumsum(counts[:, ::-1].ravel()).reshape(counts.shape)[:, ::-1]
    column = np.searchsorted(lengths, pairs)
    size = counts[pool, column]
    start = ends[pool, column] - size
    # Two rows of one length need two different positions: draw the second among one less, and skip the first.
    is_equal = column[:, 0] == column[:, 1]
    choices = size.copy()
    choices[is_equal, 1] = np.maximum(choices[is_equal, 1] - 1, 0)
    offset = (generator.random(pairs.shape) * choices).astype(np.int64)
    offset[:, 1] += is_equal & (offset[:, 1] >= offset[:, 0])
    following = LengthRuns.of(lengths, counts, policy)
    starts = following.split_into_batches(policy)
    batch = np.searchsorted(starts, np.clip(start + offset, 0, following.rows - 1), side="right")
    return float((batch[:, 0] == batch[:, 1]).mean())


def _draw_pairs(runs: LengthRuns, policy: Policy, generator: np.random.Generator) -> Int64Array | None:
    """Draw the lengths of pairs of batchmates, uniformly from all pairs of the epoch; None if there are no pairs."""
    starts = runs.split_into_batches(policy)
    sizes = np.diff(starts, append=runs.rows)
    # A batch is drawn in proportion to its number of pairs.
    weights = np.cumsum(sizes * (sizes - 1.0))
    if not len(weights) or not weights[-1]:
        return None
    batch = np.searchsorted(weights, generator.random(_PAIRS) * float(weights[-1]), side="right")
    one = (generator.random(_PAIRS) * sizes[batch]).astype(np.int64)
    other = (generator.random(_PAIRS) * (sizes[batch] - 1)).astype(np.int64)
    other += other >= one
    return runs.lengths[runs.find(starts[batch][:, None] + np.column_stack([one, other]))]
