"""Group rows of similar length into batches, so that little of a batch is padding."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Final, TypeAlias, TypedDict, cast, final, get_args, overload

import attrs
import numpy.typing as npt
from typing_extensions import Unpack, override

from pipeline.batching.automatic import DEFAULT_STEPS, choose_budget
from pipeline.batching.batches import Uneven
from pipeline.batching.builder import PoolBatcher, SortedPool, compute_digest, describe_policy
from pipeline.batching.cursor import StreamCursor
from pipeline.batching.epochs import EpochState
from pipeline.batching.policies import Budget, Policy, Rows, TooLong
from pipeline.checks.options import check_choice, check_int
from pipeline.core.stage import Spec
from pipeline.data.iteration import find_length, iterate
from pipeline.data.kinds import Ids, K, Kind, check_fields, count_steps
from pipeline.data.rows import Row, cut_row, reject_cut, reject_split
from pipeline.errors import LengthError, OptionError
from pipeline.stages.resumable import Resumable, check_row

_RowAndLengths: TypeAlias = tuple[Row[K], tuple[int, ...]]
"""A row and its number of steps, or that of each of two sides."""

_PLAN_POSITION: Final = 3
"""The count of numbers in the position of a cursor within an epoch that was read as a whole."""


class BucketOptions(TypedDict, total=False):
    """The options of `Bucket`, which describes them."""

    policy: Policy | None
    max_padded_steps: int | None
    rows: int | None
    too_long: TooLong | None
    buffer_size: int | None
    seed: int | None
    uneven: Uneven


@final
class Bucket(Resumable[Row[K], list[Row[K]]]):
    """Group rows into batches of similar length, shuffled; each row is in exactly one batch.

    Rows are sorted by length and cut into batches, and the batches are shuffled: sorting saves padding, but should not
    decide the order of training.

    Rows with two sides (`Sides`) are planned by both lengths: a budget counts the padded steps of both. Nested rows,
    such as documents of sentences, are planned by the number of their inner steps: a budget counts padded words.

    If the input has a length, as a list or a file has, all rows are read before the first batch. The batches are those
    of `pipeline.batching.Plan` for their lengths: each is drawn from all rows, so rows that are ordered by class train
    as well as shuffled ones. This takes about 1 KB per row, and 8 bytes per id or the size of the features. With a
    `buffer_size`, and for an input without a length (a generator, a stream), rows are read one pool at a time, and only
    the rows of a pool are mixed: enough for the `batches_per_sort` batches of the policy (100 by default), at most
    `buffer_size`. Shuffle such an input before.

    Each iteration is an epoch with an order of its own, fixed by the seed; see `set_epoch`. Prediction reads one pool
    at a time, in order.

    Without a limit, as in `Bucket()`, a budget is chosen from the lengths of all rows: the largest one, up to 4,096
    padded steps, with which an epoch has at least 100 batches. Longer rows are alone in their batch. Where the lengths
    are not known before, in prediction and for an input without a length, it is 4,096 padded steps.

    Args:
        kind: the kind of the rows; `Ids` by default.
        policy: the limits of a batch, and the size of a pool of an input without a length (`batches_per_sort`).
        max_padded_steps: instead of a policy, the limit on a batch's padded steps: its rows times its longest row.
        rows: instead of a policy, the limit on a batch's rows. Give this, `max_padded_steps` or both; without any
            limit, one is chosen from the lengths.
        too_long: without a policy, what to do with a row longer than `max_padded_steps`: `raise` an error, let it be
            `alone` in a batch over the limit, `truncate` it, or `split` it into parts with the same row id, which are
            batched like rows. A class of the whole row goes with each part; rows with `Sides` cannot be split.
            Prediction neither raises for a long row nor splits it: it is `alone`.
        buffer_size: the maximum number of rows to read ahead, whatever the policy and the length of the input; None for
            no such limit.
        seed: the seed of the shuffling. None does not shuffle: each pool's batches are in order of length.
        uneven: if ranks share the stream, what to do with the last rows that cannot be shared equally.

    Raises:
        OptionError: if a policy and one of its limits are given, `too_long` is given without a limit, a number is too
            small, rows with `Sides` are to be split, or nested rows are to be split or truncated.

    Example:
        >>> import torch
        >>> rows = [Row(Ids(torch.ones(n, dtype=torch.int64))) for n in (4, 1, 5, 2)]
        >>> [[len(row) for row in batch] for batch in Bucket(max_padded_steps=10, seed=None)(rows)]
        [[5, 4], [2, 1]]
        >>> [[len(row) for row in batch] for batch in Bucket(policy=Rows(3), seed=None)(rows)]
        [[5, 4, 2], [1]]
    """

    stepwise = True

    @overload
    def __init__(self: "Bucket[Ids]", **options: Unpack[BucketOptions]) -> None: ...
    @overload
    def __init__(self, kind: type[K], **options: Unpack[BucketOptions]) -> None: ...
    def __init__(
        self,
        kind: type[Kind] = Ids,
        *,
        policy: Policy | None = None,
        max_padded_steps: int | None = None,
        rows: int | None = None,
        too_long: TooLong | None = None,
        buffer_size: int | None = None,
        seed: int | None = 0,
        uneven: Uneven = "repeat",
    ) -> None:
        check_fields(kind)
        self.kind: Final = kind
        self.automatic: Final = policy is None and max_padded_steps is None and rows is None
        """Whether no limit was given, so that one is chosen from the lengths."""
        self.policy: Final = _make_policy(policy, max_padded_steps, rows, too_long)
        if self.policy.too_long == "split":
            reject_split(kind)
        if self.policy.too_long in {"split", "truncate"}:
            reject_cut(kind)
        self.buffer_size: Final = None if buffer_size is None else check_int("buffer_size", buffer_size, minimum=1)
        self.seed: Final = None if seed is None else check_int("seed", seed, minimum=0)
        check_choice("uneven", uneven, get_args(Uneven))
        self.uneven: Final[Uneven] = uneven
        self._epochs: Final = EpochState(StreamCursor)

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments with which this stage can be made again; the epoch is not among them."""
        policy = None if self.automatic else self.policy
        names = ("kind", "buffer_size", "seed", "uneven")
        return {"policy": policy, **{name: getattr(self, name) for name in names}}

    @property
    def epoch(self) -> int:
        """The current epoch, or the next one if none has begun: with the seed, it determines the order."""
        return self._epochs.epoch

    def choose_policy(self, lengths: npt.ArrayLike, *, max_padded_steps: int = DEFAULT_STEPS) -> Policy:
        """Return the policy for rows of these lengths: the given one, or one that is chosen from them.

        Args:
            lengths: the number of steps of each row, or of both sides of each row.
            max_padded_steps: the largest budget that may be chosen.

        Example:
            >>> print(Bucket().choose_policy([20] * 1_000), Bucket(rows=8).choose_policy([20] * 1_000))
            Budget(too_long='alone', max_padded_steps=200) Rows(rows=8)
        """
        return choose_budget(lengths, max_padded_steps=max_padded_steps) if self.automatic else self.policy

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, up to its first batch.

        Without it, each iteration is the epoch after that of the last one, even if that was left early.

        Raises:
            OptionError: if it is below 0.
        """
        self._epochs.set_epoch(epoch)

    @override
    def build(self, spec: Spec, /) -> Spec:
        return spec

    @override
    def __call__(self, values: Iterable[Row[K]], /) -> Iterator[list[Row[K]]]:
        """Yield batches of similar length, shuffled.

        Raises:
            ShapeError: for an item that is not a row of the bucket's kind.
            LengthError: for a row that is too long, with `too_long="raise"`.
        """
        iteration = self._epochs.begin()
        for batch, after in self.resume(values, self._epochs.position):
            self._epochs.move(iteration, after)
            yield batch
        self._epochs.end(iteration)

    @override
    def predict_alone(self, value: Row[K], /) -> list[Row[K]] | None:
        """Return a batch of one row, unless the row is to be truncated.

        Raises:
            ShapeError: if it is not a row of the bucket's kind.
        """
        row = cast("Row[K]", check_row(value, self.kind, 0))
        limit = self.policy.limit() if self.policy.too_long == "truncate" else None
        return None if limit is not None and sum(count_steps(row.sequence)) > limit else [row]

    @override
    def predict_batches(self, values: Iterable[Row[K]], /) -> Iterator[list[Row[K]]]:
        """Yield batches of similar length, pool after pool, not shuffled; the epoch is not counted.

        Raises:
            ShapeError: for an item that is not a row of the bucket's kind.
        """
        policy = self.policy
        if policy.too_long in {"raise", "split"}:
            # One long row must not stop a service, and a row has one prediction. It is alone in its batch, over the
            # limit: without gradients that takes a fraction of the memory of training. Copied like this because a
            # policy of the user's own may have any `__init__`.
            policy = copy(policy)
            object.__setattr__(policy, "too_long", "alone")
        batcher = PoolBatcher(policy, seed=None, buffer_size=self.buffer_size)
        rows = self._check_rows(iterate(values), first=0, longest=None)
        return (batch for batch, _ in self._make_batches(rows, batcher, StreamCursor(), 0))

    @override
    def get_recipe(self, world_size: int = 1) -> str:
        return compute_digest(
            {
                "stage": "Bucket",
                "policy": "chosen from the lengths" if self.automatic else describe_policy(self.policy),
                "seed": self.seed,
                "buffer_size": self.buffer_size,
                "uneven": self.uneven,
                "world_size": world_size,
            }
        )

    @override
    def resume(
        self, values: Iterable[Row[K]], at: StreamCursor, /, *, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[list[Row[K]], StreamCursor]]:
        at = attrs.evolve(at, recipe=self._check_cursor(at, rank, world_size))
        batcher = self._make_batcher(world_size, self.policy)
        longest = self.policy.limit() if self.policy.too_long == "raise" else None
        rows = self._check_rows(iterate(values), first=at.rows, longest=longest)
        count = find_length(values) if self.buffer_size is None else None
        # A cursor within an epoch that was read as a whole has three numbers, one of pools has two.
        if len(at.position) == _PLAN_POSITION or (count is not None and not at.position):
            return self._make_plan(rows, count, batcher, at, rank)
        return self._make_batches(rows, batcher, at, rank)

    def _make_batcher(self, world_size: int, policy: Policy) -> PoolBatcher:
        return PoolBatcher(
            policy, seed=self.seed, buffer_size=self.buffer_size, world_size=world_size, uneven=self.uneven
        )

    def _make_plan(
        self, values: Iterator[_RowAndLengths[K]], count: int | None, batcher: PoolBatcher, at: StreamCursor, rank: int
    ) -> Iterator[tuple[list[Row[K]], StreamCursor]]:
        """Read all rows, and yield the batches of one rank, each with the cursor after it.

        The cursor's position is 0, the number of the next batch, and the number of rows. To resume, all rows are read
        again.
        """
        rows: list[_RowAndLengths[K]] = []
        for row in values:
            # Not only the length is wrong then: an endless input would be read until the memory is full.
            if len(rows) == count:
                msg = (
                    f"the input has a length of {count}, but yields more rows; fix its __len__, leave it out, or limit "
                    "the rows to read ahead: Bucket(buffer_size=...)."
                )
                raise OptionError(msg, length=count)
            rows.append(row)
        _, done, planned = at.position or (0, 0, len(rows))
        if planned != len(rows):
            msg = f"the cursor is within {planned} rows, but the source has {len(rows)}; resume with the same source."
            raise OptionError(msg, rows=len(rows), planned=planned)
        if not rows:
            return
        lengths = [lengths for _, lengths in rows]
        if self.automatic:
            batcher = self._make_batcher(batcher.world_size, self.choose_policy(lengths))
        plan = batcher.make_plan(lengths, epoch=at.epoch)
        batches = _get_batches_of_rank(plan, rank, batcher.world_size)
        for index in range(done, len(batches)):
            is_last = index + 1 == len(batches)
            position = (1, 0) if is_last else (0, index + 1, len(rows))
            yield (
                _get_rows(rows, plan, batches[index]),
                attrs.evolve(at, rows=len(rows) if is_last else 0, position=position),
            )

    def _make_batches(
        self, values: Iterator[_RowAndLengths[K]], batcher: PoolBatcher, at: StreamCursor, rank: int
    ) -> Iterator[tuple[list[Row[K]], StreamCursor]]:
        """Yield the batches of one rank, each with the cursor after it.

        The cursor's position is the number of the pool and of the batch in it. Its rows are those of finished pools: to
        resume within a pool, the whole pool is read again.
        """
        number, done = at.position or (0, 0)
        rows: list[_RowAndLengths[K]] = []
        is_last = False
        while not is_last:
            is_last = not _fill_pool(rows, values, batcher)
            if not rows:
                return
            pool = batcher.make_batches([lengths for _, lengths in rows], epoch=at.epoch, number=number, last=is_last)
            after_pool = attrs.evolve(at, rows=at.rows + pool.rows, position=(number + 1, 0))
            batches = _get_batches_of_rank(pool, rank, batcher.world_size)
            for index in range(done, len(batches)):
                is_inside = index + 1 < len(batches)
                after = attrs.evolve(at, position=(number, index + 1)) if is_inside else after_pool
                yield _get_rows(rows, pool, batches[index]), after
            # Rows that the pool did not take, since they cannot be shared equally, begin the next pool.
            del rows[: pool.rows]
            at, number, done = after_pool, number + 1, 0

    def _check_rows(self, values: Iterable[object], *, first: int, longest: int | None) -> Iterator[_RowAndLengths[K]]:
        """Yield the rows with their lengths, after checking their kind, and their length if there is a limit."""
        limit = self.policy.limit() if self.policy.too_long == "truncate" else None
        for number, value in enumerate(values, start=first):
            row = cast("Row[K]", check_row(value, self.kind, number))
            lengths = count_steps(row.sequence)
            length = sum(lengths)
            if limit is not None and len(lengths) > 1 and length > limit:
                # The longest side is truncated first. A plan cannot do so for several lengths.
                row = cut_row(row, 0, _find_longest_side(lengths, limit))
                lengths = count_steps(row.sequence)
            if longest is not None and length > longest:
                msg = (
                    f"row {row.row_id} has {length} steps, but {self.policy} allows at most {longest} per row; cut it "
                    'in its input stage (max_length), raise the limit, or pass too_long="alone", "truncate" or '
                    '"split".'
                )
                raise LengthError(msg, row=row.row_id, length=length, limit=longest)
            yield row, lengths


def _find_longest_side(lengths: Sequence[int], limit: int) -> int:
    """Return the length to which sides are truncated, so that they have at most `limit` steps together.

    Example:
        >>> _find_longest_side([2, 9, 3], 10), _find_longest_side([5, 9, 4], 10)
        (5, 3)
    """
    # From the shortest side up: each may have an equal share of what the shorter ones leave.
    for index, length in enumerate(sorted(lengths)):
        share = limit // (len(lengths) - index)
        if length > share:
            return share
        limit -= length
    return max(lengths)


def _make_policy(
    policy: Policy | None, max_padded_steps: int | None, rows: int | None, too_long: TooLong | None
) -> Policy:
    """Return the given policy, or the one that the other options are short for."""
    if policy is not None:
        options = {"max_padded_steps": max_padded_steps, "rows": rows, "too_long": too_long}
        given = [name for name, option in options.items() if option]
        if given:
            msg = f"Bucket takes a policy or {given[0]}, got both; pass {given[0]} to the policy instead."
            raise OptionError(msg, policy=policy)
        return policy
    if max_padded_steps is not None:
        return Budget(max_padded_steps, rows=rows, too_long=too_long or "raise")
    if rows is not None:
        return Rows(rows, too_long=too_long or "raise")
    if too_long not in {None, "alone"}:
        msg = f"too_long={too_long!r} needs a limit to compare with, got none; pass Bucket(max_padded_steps=4096, ...)."
        raise OptionError(msg, too_long=too_long)
    return Budget(DEFAULT_STEPS, too_long="alone")


def _fill_pool(rows: list[_RowAndLengths[K]], values: Iterator[_RowAndLengths[K]], batcher: PoolBatcher) -> bool:
    """Read rows until they fill a pool; return False if there are no more rows."""
    # A row's share is the part of a batch that it takes; a pool is full when the shares add up to enough batches.
    shares = sum(batcher.estimate_share(sum(lengths)) for _, lengths in rows)
    for row in values:
        rows.append(row)
        shares += batcher.estimate_share(sum(row[1]))
        if batcher.is_full(len(rows), shares):
            return True
    return False


def _get_batches_of_rank(pool: SortedPool, rank: int, world_size: int) -> list[list[int]]:
    """Return the row numbers in each batch of a rank."""
    batches = pool.batches.take(slice(rank, None, world_size))
    order: list[int] = batches.order.tolist()
    return [order[start:stop] for start, stop in zip(batches.starts.tolist(), batches.stops.tolist(), strict=True)]


def _get_rows(rows: Sequence[_RowAndLengths[K]], pool: SortedPool, numbers: Sequence[int]) -> list[Row[K]]:
    limit = pool.splits.limit
    if limit is None:
        return [rows[number][0] for number in numbers]
    # With too_long "truncate" or "split", a number stands for a part of a row.
    parts = [pool.splits[number] for number in numbers]
    found = [(*rows[part.row], part.start) for part in parts]
    return [row if sum(lengths) <= limit else cut_row(row, start, start + limit) for row, lengths, start in found]
