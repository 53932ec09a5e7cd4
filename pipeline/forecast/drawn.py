"""Pools drawn from a histogram: batches as a plan would make them, of rows that nobody has seen."""

from typing import Final, final

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.batches import Batches
from pipeline.batching.cursor import Cursor
from pipeline.batching.draws import Draws
from pipeline.batching.pieces import Pieces
from pipeline.batching.plan import Plan
from pipeline.batching.policy import Policy
from pipeline.batching.ranks import arranged
from pipeline.forecast.histogram import Histogram
from pipeline.forecast.runs import Runs, what_is_left

_POOLS: Final = 64
"""How many pools are drawn at most: six thousand batches, of 100 a pool."""

_PAIRS: Final = 1 << 16
"""How many pairs of mates are followed into the next epoch."""


@final
@attrs.frozen(eq=False)
class Drawn:
    """Batches drawn from a histogram.

    Attributes:
        batches: of the pools that were drawn, without numbers of rows.
        rows: the rows as the policy left them, of all pools.
        whole: whether all pools were drawn.
        mates: the share of pairs of mates that would be mates again in another epoch; 0 if no row has any.
    """

    batches: Batches
    rows: Histogram
    whole: bool
    mates: float

    def plan(self, world_size: int, seed: int) -> Plan:
        """The batches in the order of training: a plan that does not say which rows they hold."""
        none = np.empty(0, np.int32)
        fields = attrs.asdict(arranged(self.batches, world_size, Draws(seed, (0,))), recurse=False)
        pieces = Pieces(self.rows.rows)
        return Plan(**fields, pieces=pieces, repeated=none, dropped=none, world_size=world_size, begins=Cursor())


def drawn(histogram: Histogram, policy: Policy, world_size: int, seed: int) -> Drawn:
    """Batches as a plan of such rows would have them.

    Of one pool, exactly its batches. Of several, other pools than the plan's, drawn as it draws them: all of them, or
    64, which then stand for the others.

    Raises:
        LengthError: for a long row, if the policy refuses those.
    """
    left = what_is_left(histogram, policy)
    pools = _pools(left, policy)
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    counts = _counts(left, pools, generator)
    runs = Runs.of(left.lengths, counts, policy)
    whole = len(counts) == pools
    batches = runs.batches(policy, world_size if whole else 1)
    # Another draw is another epoch: the same, if there is one pool.
    later = _counts(left, pools, generator)
    again = _meeting_again(left.lengths, counts, later, policy, generator)
    return Drawn(batches, left, whole, again / pools)


def _pools(histogram: Histogram, policy: Policy) -> int:
    if policy.batches_per_sort is None or not histogram.rows:
        return 1
    rooms = np.fromiter(map(policy.room, histogram.lengths.tolist()), np.float64, len(histogram.lengths))
    return max(1, int((histogram.counts / rooms).sum()) // policy.batches_per_sort)


def _counts(histogram: Histogram, pools: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """How many rows of each length a pool holds, of shape (pools, lengths), for each pool that is drawn."""
    if pools == 1:
        return histogram.counts[None]
    if pools <= _POOLS:
        return generator.multinomial(histogram.counts, np.full(pools, 1 / pools)).T
    return generator.binomial(histogram.counts, 1 / pools, size=(_POOLS, len(histogram.counts)))


def _meeting_again(
    lengths: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    later: npt.NDArray[np.int64],
    policy: Policy,
    generator: np.random.Generator,
) -> float:
    """The share of pairs of mates that are mates in a later epoch too, if both rows are in one pool there."""
    now, then = (Runs.of(lengths, drawn_counts, policy) for drawn_counts in (counts, later))
    pairs = _pairs(now, policy, generator)
    if pairs is None:
        return 0.0
    # Each pair in a pool of its own choice: where its two lengths lie there, as runs of the later draw.
    pool = generator.integers(len(later), size=len(pairs))
    ends = np.cumsum(later[:, ::-1].ravel()).reshape(later.shape)
    place = len(lengths) - 1 - np.searchsorted(lengths, pairs)
    count = later[pool[:, None], len(lengths) - 1 - place]
    # Two rows of one length stand at two places: the second at any but the first's.
    alike = place[:, 0] == place[:, 1]
    count[alike, 1] = np.maximum(count[alike, 1] - 1, 0)
    at = (generator.random(pairs.shape) * count).astype(np.int64)
    at[:, 1] += alike & (at[:, 1] >= at[:, 0])
    begin = ends[pool[:, None], place] - later[pool[:, None], len(lengths) - 1 - place]
    starts = then.starts(policy)
    batch = np.searchsorted(starts, np.clip(begin + at, 0, then.rows - 1), side="right")
    return float((batch[:, 0] == batch[:, 1]).mean())


def _pairs(runs: Runs, policy: Policy, generator: np.random.Generator) -> npt.NDArray[np.int64] | None:
    """The lengths of two mates, pair by pair, each pair of the epoch as likely as any other; None if there is none."""
    starts = runs.starts(policy)
    sizes = np.diff(starts, append=runs.rows)
    weights = np.cumsum(sizes * (sizes - 1.0))
    if not len(weights) or not weights[-1]:
        return None
    heights = generator.random(_PAIRS) * float(weights[-1])
    chosen = np.searchsorted(weights, heights, side="right")
    one = (generator.random(_PAIRS) * sizes[chosen]).astype(np.int64)
    other = (generator.random(_PAIRS) * (sizes[chosen] - 1)).astype(np.int64)
    other += other >= one
    places = starts[chosen][:, None] + np.column_stack([one, other])
    return runs.lengths[runs.run_at(places)]
