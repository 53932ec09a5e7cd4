"""Build batches from lengths and a policy: for the plan of an epoch, or for one pool of a stream."""

import hashlib
import json
import operator
from collections.abc import Callable
from functools import cache
from typing import Final, final

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.arrays import IntArray, SeededRandom, narrow_dtype
from pipeline.batching.batches import (
    Batches,
    Uneven,
    balance_ranks,
    move_costliest_first,
    shuffle_batches,
    split_into_batches,
    split_largest,
)
from pipeline.batching.lengths import Lengths, RowSplits
from pipeline.batching.policies import Policy
from pipeline.batching.sorting import SortInput, choose_bands, sort_rows
from pipeline.errors import LengthError, OptionError

# Rows drawn to estimate the number of batches, which sets the number of pools. The error is about 1%, far less than
# pools differ by chance. Counting the lengths of all rows would take about as long as the whole plan.
_SAMPLE_ROWS: Final = 1 << 14

# Version of the algorithm, part of every recipe. Raise it with any change that gives other batches: cursors of the old
# version are then rejected, instead of continued in another order.
_VERSION: Final = 1


@final
@attrs.frozen(eq=False)
class PlanBuilder:
    """Everything that determines the plans of a run, apart from the epoch and the number of ranks.

    Make `splits` with `split_rows`, from the same lengths and policy.
    """

    lengths: Lengths
    splits: RowSplits
    policy: Policy
    seed: int | None
    worst_first: bool = False
    uneven: Uneven = "repeat"

    def compute_recipe(self) -> str:
        """Compute a digest of everything in this builder."""
        return compute_digest(
            {
                "version": _VERSION,
                "lengths": self.lengths.digest(),
                "policy": describe_policy(self.policy),
                "seed": self.seed,
                "worst_first": self.worst_first,
                "uneven": self.uneven,
            }
        )

    def build_rest(
        self, epoch: int, batches_done: tuple[tuple[int, int], ...], world_size: int
    ) -> tuple[Batches, IntArray, IntArray]:
        """Build the batches of the rest of an epoch, with the rows that are repeated and those that are dropped.

        Nothing is stored about rows that were read. Each stretch of the epoch (a number of ranks, and the batches that
        each did) is built again, and the rows of its batches are removed from the rest.

        Raises:
            OptionError: if `uneven` forbids what the rows need, or more batches were done than there are.
        """
        numbers: IntArray | None = None
        for stretch, (ranks, done) in enumerate(batches_done):
            batches, _, _ = self.build(numbers, self._make_random(epoch, batches_done[:stretch]), ranks)
            check_batches_done(done, len(batches) // ranks)
            numbers = self._remove(numbers, batches.take(slice(done * ranks)))
        return self.build(numbers, self._make_random(epoch, batches_done), world_size)

    def build(
        self, numbers: IntArray | None, random: SeededRandom | None, world_size: int
    ) -> tuple[Batches, IntArray, IntArray]:
        """Build the batches of some rows, with the rows that are repeated and those that are dropped.

        Args:
            numbers: which rows or slices; None for all.
            random: draws the pools and all orders; None shuffles nothing.
            world_size: the number of ranks.

        Raises:
            OptionError: if `uneven` forbids what the rows need.
        """
        # Called once per batch, but there are far fewer lengths than batches.
        room = cache(self.policy.room)
        count = len(self.splits) if numbers is None else len(numbers)
        sample = self._draw_sample(numbers, count, random)
        expected = _count_batches(sample, room) * count / max(len(sample), 1)
        # Rounded down, so that a pool makes at least `batches_per_sort` batches: smaller pools pad more.
        pools = 1 if self.policy.batches_per_sort is None else max(1, int(expected) // self.policy.batches_per_sort)
        longest = self.lengths.longest if self.splits.limit is None else min(self.lengths.longest, self.splits.limit)
        edges = np.asarray(self.policy.edges(), np.int64)
        bands = choose_bands(sample, expected / pools)
        rows = sort_rows(SortInput(self.lengths, self.splits, numbers, longest, edges, bands), pools, random)
        # Batches are halved before they are shuffled, so that both halves find ranks with batches of similar size.
        starts = split_largest(split_into_batches(rows, self.policy, room), count, world_size)
        batches = Batches.of(rows, starts, self.policy)
        batches, repeated, dropped = balance_ranks(batches, world_size, self.uneven, random)
        batches = shuffle_batches(batches, world_size, random)
        if self.worst_first:
            batches = move_costliest_first(batches, world_size, self.policy)
        return batches, repeated, dropped

    def _make_random(self, epoch: int, batches_done: tuple[tuple[int, int], ...]) -> SeededRandom | None:
        if self.seed is None:
            return None
        return SeededRandom(self.seed, (epoch, *(number for stretch in batches_done for number in stretch)))

    def _draw_sample(self, numbers: IntArray | None, count: int, random: SeededRandom | None) -> npt.NDArray[np.int64]:
        """Return the lengths of some rows; of all if they are few."""
        if count <= _SAMPLE_ROWS:
            chosen = np.arange(count)
        elif random is None:
            chosen = np.arange(_SAMPLE_ROWS) * count // _SAMPLE_ROWS
        else:
            # With replacement: that is one multiplication, and duplicates do not bias the estimate.
            chosen = (random.uint32(_SAMPLE_ROWS) * np.float64(count / (1 << 32))).astype(np.int64)
        return self.splits.lengths(self.lengths, chosen if numbers is None else numbers[chosen])

    def _remove(self, numbers: IntArray | None, done: Batches) -> IntArray:
        """Return the numbers without those in some batches, in ascending order."""
        # One byte per row, set and read in order of the numbers. A set difference would sort both sides.
        left = np.ones(len(self.splits), np.bool_) if numbers is None else np.zeros(len(self.splits), np.bool_)
        if numbers is not None:
            left[numbers] = True
        for start, stop in zip(done.starts.tolist(), done.stops.tolist(), strict=True):
            left[done.order[start:stop]] = False
        return np.flatnonzero(left).astype(narrow_dtype(len(left)), copy=False)


def _count_batches(lengths: npt.NDArray[np.int64], room: Callable[[int], int]) -> float:
    """Return about how many batches rows of these lengths fill: each row fills a part that depends on its length."""
    sizes, counts = np.unique(lengths.sum(axis=1), return_counts=True)
    return float((counts / np.fromiter(map(room, sizes.tolist()), np.float64, len(sizes))).sum())


def split_rows(lengths: Lengths, policy: Policy) -> RowSplits:
    """Truncate or split long rows as a policy says; most often all rows stay whole.

    Raises:
        LengthError: if a row is too long and the policy raises.
        OptionError: if rows of two lengths would have to be truncated or split.
    """
    limit = policy.limit()
    if limit is None or lengths.longest <= limit or policy.too_long == "alone":
        return RowSplits(len(lengths))
    if policy.too_long == "raise":
        totals = lengths.totals()
        long = np.flatnonzero(totals > limit)
        row, length = int(long[0]), int(totals[long[0]])
        others = f", the first of {len(long):,} rows that are too long" if len(long) > 1 else ""
        msg = (
            f"row {row} must have at most {limit} steps for {policy}, got {length}{others}; raise the limit, leave the "
            'row out, or choose what happens to long rows: too_long="alone", "truncate" or "split".'
        )
        raise LengthError(msg, row=row, length=length, limit=limit)
    if lengths.per_row > 1:
        msg = (
            f"too_long={policy.too_long!r} needs one length per row, got {lengths.per_row}, and any could be "
            'shortened; shorten them before, or use too_long="alone".'
        )
        raise OptionError(msg, too_long=policy.too_long)
    return RowSplits.of(lengths, limit=limit, split=policy.too_long == "split")


def describe_policy(policy: Policy) -> list[object]:
    """Describe a policy by its class and fields, for a digest."""
    module = type(policy).__module__
    # Our own modules may move; that must not invalidate the cursors in checkpoints.
    package = "pipeline" if module.startswith("pipeline.") else module
    return [package, type(policy).__qualname__, attrs.asdict(policy)]


def compute_digest(value: object) -> str:
    """Compute a digest of a JSON value, as 32 letters.

    Raises:
        OptionError: if a field of a policy cannot be written as JSON.
    """
    try:
        text = json.dumps(value, sort_keys=True, default=operator.index)
    except TypeError as error:
        msg = f"fields of a policy must be numbers, text or tuples of them, because plans are named by them: {error}."
        raise OptionError(msg) from error
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def check_batches_done(batches_done: int, batches: int) -> None:
    """Reject a cursor past the end of its plan.

    Raises:
        OptionError: if more batches were done than there are.
    """
    if batches_done > batches:
        msg = f"cursor must be within its plan of {batches} batches per rank, got {batches_done} batches done."
        raise OptionError(msg, batches_done=batches_done, batches=batches)


@final
@attrs.frozen(eq=False)
class SortedPool:
    """Rows of a stream that were sorted together, and their batches.

    Attributes:
        rows: how many of the rows are used; the rows after them start the next pool.
        batches: the batches of all ranks, those of one step next to each other.
        splits: the meaning of the numbers in a batch, if long rows are truncated or split.
    """

    rows: int
    batches: Batches
    splits: RowSplits


@final
class PoolBatcher:
    """Batch the rows of a stream, pool by pool, with the algorithm of `Plan.of`.

    If the first pool of an epoch has all rows, its batches are those of a plan.

    Args:
        policy: the limit on a batch. Its `batches_per_sort` determines how many rows are read for one pool.
        seed: the seed of all orders; None shuffles nothing.
        buffer_size: the most rows that are read for one pool; None for no limit.
        world_size: how many ranks share the batches of a pool.
        uneven: what happens to the last rows of a stream if they are too few for all ranks.

    Example:
        >>> from pipeline.batching import Budget
        >>> batcher = PoolBatcher(Budget(10), seed=None)
        >>> pool = batcher.make_batches([4, 1, 5, 2], epoch=0, number=0, last=True)
        >>> pool.batches.order.tolist(), pool.batches.starts.tolist()
        ([2, 0, 3, 1], [0, 2])
    """

    def __init__(
        self,
        policy: Policy,
        *,
        seed: int | None = 0,
        buffer_size: int | None = None,
        world_size: int = 1,
        uneven: Uneven = "repeat",
    ) -> None:
        self.policy: Final = policy
        self.seed: Final = seed
        self.world_size: Final = world_size
        self.uneven: Final[Uneven] = uneven
        # A pool of a stream is sorted as a whole.
        self._one_pool: Final = attrs.evolve(policy, batches_per_sort=None)
        # A pool with fewer rows than ranks could not give each rank a batch.
        self._max_rows: Final = None if buffer_size is None else max(buffer_size, world_size)
        self.estimate_share: Final = cache(self._estimate_share)
        """Return the part of a batch that a row of that many steps fills."""

    def is_full(self, rows: int, shares: float) -> bool:
        """Return whether that many rows, which fill that many batches, are enough for a pool."""
        if self._max_rows is not None and rows >= self._max_rows:
            return True
        target = self.policy.batches_per_sort
        return target is not None and shares >= target and rows >= self.world_size

    def make_plan(self, lengths: npt.ArrayLike, *, epoch: int) -> SortedPool:
        """Build the batches of all rows of an epoch: those of `Plan.of`, with as many pools as the policy says.

        Raises:
            LengthError: if a row is too long and the policy raises.
            OptionError: if the rows do not divide by the ranks and `uneven` is "raise".
        """
        checked = Lengths.of(np.asarray(lengths, np.int64))
        random = None if self.seed is None else SeededRandom(self.seed, (epoch,))
        splits = split_rows(checked, self.policy)
        builder = PlanBuilder(checked, splits, self.policy, self.seed, uneven=self.uneven)
        batches, _, _ = builder.build(None, random, self.world_size)
        return SortedPool(len(checked), batches, splits)

    def make_batches(self, lengths: npt.ArrayLike, *, epoch: int, number: int, last: bool) -> SortedPool:
        """Build the batches of one pool.

        Args:
            lengths: the lengths of the rows that were read.
            epoch: the epoch.
            number: the number of the pool in the epoch, from 0.
            last: whether no more rows follow. If some do, rows that do not divide by the ranks are left for the next
                pool.

        Raises:
            LengthError: if a row is too long and the policy raises.
            OptionError: if the last rows do not divide by the ranks and `uneven` is "raise".
        """
        checked = Lengths.of(np.asarray(lengths, np.int64))
        if not last:
            # Leave rows for the next pool until no row is repeated. The first attempt nearly always succeeds: only if
            # there are fewer rows than batches needed, `split_largest` cannot make their number a multiple.
            for rows in range(len(checked), max(len(checked) - self.world_size, self.world_size - 1), -1):
                batches, splits, repeated = self._build(Lengths.of(checked.values[:rows]), epoch, number, "repeat")
                if not repeated:
                    return SortedPool(rows, batches, splits)
        if last and number and self.uneven == "drop" and len(checked) < self.world_size:
            # A plan would not drop all of its rows, but here earlier pools had others.
            none = np.empty(0, np.int32)
            return SortedPool(len(checked), Batches(none, none, none, none, none), RowSplits(len(checked)))
        batches, splits, _ = self._build(checked, epoch, number, self.uneven)
        return SortedPool(len(checked), batches, splits)

    def _build(self, lengths: Lengths, epoch: int, number: int, uneven: Uneven) -> tuple[Batches, RowSplits, int]:
        # The first pool uses the random numbers of a plan, so that a stream of one pool has its batches.
        path = (epoch, number) if number else (epoch,)
        random = None if self.seed is None else SeededRandom(self.seed, path)
        splits = split_rows(lengths, self._one_pool)
        builder = PlanBuilder(lengths, splits, self._one_pool, self.seed, uneven=uneven)
        batches, repeated, _ = builder.build(None, random, self.world_size)
        return batches, splits, len(repeated)

    def _estimate_share(self, length: int) -> float:
        limit = self.policy.limit()
        if limit is None or length <= limit:
            return 1 / self.policy.room(length)
        match self.policy.too_long:
            case "truncate":
                return 1 / self.policy.room(limit)
            case "split":
                # The parts of a long row are batched like rows: each full part, and the rest, fills a share of its own.
                whole, rest = divmod(length, limit)
                return whole / self.policy.room(limit) + (1 / self.policy.room(rest) if rest else 0)
            case _:
                return 1  # alone in a batch
