"""Group rows of like length into batches, so that little of a batch is padding."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias, cast, final, get_args, overload

import attrs
from typing_extensions import override

from pipeline.batching.making import digest_of, said_of
from pipeline.batching.numbers import one_of, whole
from pipeline.batching.policies.budget import Budget
from pipeline.batching.policies.rows import Rows
from pipeline.batching.policy import LongRows, Policy
from pipeline.batching.pools import Pool, Pools
from pipeline.batching.ranks import Uneven
from pipeline.batching.stream_cursor import StreamCursor
from pipeline.core.stage import Spec
from pipeline.data.rows import Ids, K, Kind, Row
from pipeline.data.windows import window_of
from pipeline.errors import LengthError, OptionError
from pipeline.stages.incoming import checked_row
from pipeline.stages.resumable import Resumable

_Measured: TypeAlias = tuple[Row[K], int]
"""A row, and how many steps it has."""


@final
class Bucket(Resumable[Row[K], list[Row[K]]]):
    """Rows in, batches of rows of like length out, shuffled; no row lost or doubled.

    Rows are read ahead a pool at a time, sorted by length, cut into batches, and the batches
    shuffled: sorting saves padding, but must not become an order of training. Each call is
    an epoch with an order of its own, fixed by the seed. Rows that make one pool have the batches
    of `pipeline.batching.Plan` over their lengths.

    Args:
        kind: what the rows are; ids if left out.
        policy: what a batch may hold, and for how many batches rows are read ahead (`pool`). A row has one length.
        max_padded_steps: instead of a policy, how many padded steps a batch may have: its rows times its longest one.
        rows: instead of a policy, how many rows a batch may have. Give this, `max_padded_steps` or both.
        too_long: without a policy, what becomes of a row longer than `max_padded_steps`: `raise` it with an error, let it
            stand `alone` in a batch over the budget, `truncate` it, or `split` it into parts at the same place, which
            are batched as rows are. A class of the whole row goes with each part. Predictions refuse to split.
        buffer_size: how many rows are read ahead at most, whatever the policy; None for no other limit.
        seed: what the shuffling starts from. None keeps each pool's batches in order of length.
        uneven: shared among ranks, what becomes of the last rows, where too few are left to go round.

    Raises:
        OptionError: if neither a policy nor `max_padded_steps` nor `rows` is given, or both are, or a number is below 1.

    Example:
        >>> import torch
        >>> rows = [Row(Ids(torch.ones(n, dtype=torch.int64))) for n in (4, 1, 5, 2)]
        >>> [[len(row) for row in batch] for batch in Bucket(max_padded_steps=10, seed=None)(rows)]
        [[5, 4], [2, 1]]
        >>> [[len(row) for row in batch] for batch in Bucket(policy=Rows(3), seed=None)(rows)]
        [[5, 4, 2], [1]]
    """

    @overload
    def __init__(
        self: "Bucket[Ids]",
        *,
        policy: Policy | None = None,
        max_padded_steps: int | None = None,
        rows: int | None = None,
        too_long: LongRows | None = None,
        buffer_size: int | None = None,
        seed: int | None = 0,
        uneven: Uneven = "repeat",
    ) -> None: ...
    @overload
    def __init__(
        self,
        kind: type[K],
        *,
        policy: Policy | None = None,
        max_padded_steps: int | None = None,
        rows: int | None = None,
        too_long: LongRows | None = None,
        buffer_size: int | None = None,
        seed: int | None = 0,
        uneven: Uneven = "repeat",
    ) -> None: ...
    def __init__(
        self,
        kind: type[Kind] = Ids,
        *,
        policy: Policy | None = None,
        max_padded_steps: int | None = None,
        rows: int | None = None,
        too_long: LongRows | None = None,
        buffer_size: int | None = None,
        seed: int | None = 0,
        uneven: Uneven = "repeat",
    ) -> None:
        self.kind: Final = kind
        self.policy: Final = _policy(policy, max_padded_steps, rows, too_long)
        self.buffer_size: Final = None if buffer_size is None else whole("buffer_size", buffer_size, least=1)
        self.seed: Final = None if seed is None else whole("seed", seed, least=0)
        one_of("uneven", uneven, get_args(Uneven))
        self.uneven: Final[Uneven] = uneven
        self.epoch: int = 0
        """How many times the bucket was called: with the seed, what fixes the next order."""

    @override
    def build(self, spec: Spec, /) -> Spec:
        return spec

    @override
    def __call__(self, values: Iterable[Row[K]], /) -> Iterator[list[Row[K]]]:
        """Batches of like length, shuffled within each pool.

        Raises:
            ShapeError: for what is no row of the bucket's kind.
            LengthError: for a long row, if the policy refuses those.
        """
        at = StreamCursor(self.epoch)
        self.epoch += 1
        return (batch for batch, _ in self.marked(values, at))

    @override
    def predict_batches(self, values: Iterable[Row[K]], /) -> Iterator[list[Row[K]]]:
        """Batches of like length, pool after pool, nothing shuffled; the epoch does not move.

        Raises:
            ShapeError: for what is no row of the bucket's kind.
            LengthError: for a long row, if the policy refuses those, or would split it: it has one answer.
        """
        pools = Pools(self.policy, seed=None, buffer_size=self.buffer_size)
        rows = self._checked(values, first=0, whole_rows=True)
        return (batch for batch, _ in self._batches(rows, pools, StreamCursor(), 0))

    @override
    def recipe(self, world_size: int = 1) -> str:
        return digest_of(
            {
                "stage": "Bucket",
                "policy": said_of(self.policy),
                "seed": self.seed,
                "buffer_size": self.buffer_size,
                "uneven": self.uneven,
                "world_size": world_size,
            }
        )

    @override
    def marked(
        self, values: Iterable[Row[K]], at: StreamCursor, /, *, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[list[Row[K]], StreamCursor]]:
        at = attrs.evolve(at, recipe=self._check_mine(at, rank, world_size))
        pools = Pools(
            self.policy, seed=self.seed, buffer_size=self.buffer_size, world_size=world_size, uneven=self.uneven
        )
        return self._batches(self._checked(values, first=at.rows, whole_rows=False), pools, at, rank)

    def _batches(
        self, values: Iterator[_Measured[K]], pools: Pools, at: StreamCursor, rank: int
    ) -> Iterator[tuple[list[Row[K]], StreamCursor]]:
        """The batches of one rank, each with where the stream stands behind it."""
        number, given = at.inside or (0, 0)
        rows: list[_Measured[K]] = []
        last = False
        while not last:
            last = not _filled(rows, values, pools)
            if not rows:
                return
            pool = pools.cut([length for _, length in rows], epoch=at.epoch, number=number, last=last)
            ends = attrs.evolve(at, rows=at.rows + pool.rows, inside=(number + 1, 0))
            batches = _of_rank(pool, rank, pools.world_size)
            for index in range(given, len(batches)):
                behind = attrs.evolve(at, inside=(number, index + 1)) if index + 1 < len(batches) else ends
                yield _taken(rows, pool, batches[index]), behind
            del rows[: pool.rows]
            at, number, given = ends, number + 1, 0

    def _checked(self, values: Iterable[object], *, first: int, whole_rows: bool) -> Iterator[_Measured[K]]:
        """The rows as they come, each of them a row of the bucket's kind, and none longer than it may be."""
        limit = self.policy.limit()
        refused = {"raise", "split"} if whole_rows else {"raise"}
        longest = limit if self.policy.too_long in refused else None
        for place, value in enumerate(values, start=first):
            row = cast("Row[K]", checked_row(value, self.kind, place))
            length = len(row)
            if longest is not None and length > longest:
                raise self._too_long(row, longest)
            yield row, length

    def _too_long(self, row: Row[Kind], limit: int) -> LengthError:
        if self.policy.too_long == "split":
            rule = f"in a prediction it has one answer, and would have one for each {limit} of them"
            ways = 'too_long="alone" or "truncate"'
        else:
            rule, ways = f"{self.policy} has room for {limit}", 'too_long="alone", "truncate" or "split"'
        msg = (
            f"row {row.row_id} has {len(row)} steps, but {rule}; truncate it at its door (max_length), raise the limit, "
            f"or say what becomes of long rows: {ways}."
        )
        return LengthError(msg, row=row.row_id, length=len(row), limit=limit)


def _policy(policy: Policy | None, max_padded_steps: int | None, rows: int | None, too_long: LongRows | None) -> Policy:
    """The policy that is given, or the one that its shorthand means."""
    if policy is not None:
        both = [
            name
            for name, option in (("max_padded_steps", max_padded_steps), ("rows", rows), ("too_long", too_long))
            if option
        ]
        if both:
            msg = f"Bucket has a policy, and {both[0]} beside it; say it in the policy alone."
            raise OptionError(msg, policy=policy)
        return policy
    if max_padded_steps is not None:
        return Budget(max_padded_steps, rows=rows, too_long=too_long or "raise")
    if rows is not None:
        return Rows(rows, too_long=too_long or "raise")
    msg = "Bucket needs a policy, max_padded_steps or rows, but none arrived; Bucket(max_padded_steps=4096) is a fair start."
    raise OptionError(msg)


def _filled(rows: list[_Measured[K]], values: Iterator[_Measured[K]], pools: Pools) -> bool:
    """Read rows until they make a pool; False if there are no more."""
    shares = sum(pools.share(length) for _, length in rows)
    for row in values:
        rows.append(row)
        shares += pools.share(row[1])
        if pools.full(len(rows), shares):
            return True
    return False


def _of_rank(pool: Pool, rank: int, world_size: int) -> list[list[int]]:
    """The numbers in each batch of a rank."""
    mine = pool.batches.taken(slice(rank, None, world_size))
    order: list[int] = mine.order.tolist()
    return [order[start:stop] for start, stop in zip(mine.starts.tolist(), mine.stops.tolist(), strict=True)]


def _taken(rows: Sequence[_Measured[K]], pool: Pool, numbers: Sequence[int]) -> list[Row[K]]:
    limit = pool.pieces.limit
    if limit is None:
        return [rows[number][0] for number in numbers]
    pieces = [pool.pieces[number] for number in numbers]
    read = [(*rows[piece.row], piece.begin) for piece in pieces]
    return [row if length <= limit else window_of(row, begin, begin + limit) for row, length, begin in read]
