"""Pools of a stream: when enough rows are read, and which batches they make."""

from typing import Final, final

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.batches import Batches
from pipeline.batching.draws import Draws
from pipeline.batching.lengths import Lengths
from pipeline.batching.making import Making
from pipeline.batching.pieces import Pieces, pieces_of
from pipeline.batching.policy import Policy
from pipeline.batching.ranks import Uneven


@final
@attrs.frozen(eq=False)
class Pool:
    """Rows of a stream that were sorted together, and their batches.

    Attributes:
        rows: how many of the rows it takes; those behind them begin the next pool.
        batches: the batches of all ranks, those of one step side by side.
        pieces: what a number in a batch means, where long rows are truncated or split.
    """

    rows: int
    batches: Batches
    pieces: Pieces


@final
class Pools:
    """Cuts the rows of a stream into batches, pool by pool: by a policy, as `Plan.of` does it for a list.

    The first pool of an epoch, if it holds all rows, has the very batches of a plan of one pool.

    Args:
        policy: what a batch may hold. Its `pool` says for how many batches rows are read at a time.
        seed: what the order is drawn from; None shuffles nothing.
        buffer_size: how many rows are read at a time at most; None for any number.
        world_size: how many ranks share the batches of a pool.
        uneven: what becomes of the last rows of a stream, where they do not go round.

    Example:
        >>> from pipeline.batching import Budget
        >>> pool = Pools(Budget(10), seed=None).cut([4, 1, 5, 2], epoch=0, number=0, last=True)
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
        self._whole = attrs.evolve(policy, batches_per_sort=None)
        self._rows = None if buffer_size is None else max(buffer_size, world_size)
        self._shares: dict[int, float] = {}

    def share(self, length: int) -> float:
        """How much of a batch a row of so many steps takes."""
        share = self._shares.get(length)
        if share is None:
            share = self._shares[length] = _share_of(length, self.policy)
        return share

    def full(self, rows: int, shares: float) -> bool:
        """Whether so many rows, which take so many batches, are enough for a pool."""
        if self._rows is not None and rows >= self._rows:
            return True
        return (
            self.policy.batches_per_sort is not None
            and shares >= self.policy.batches_per_sort
            and rows >= self.world_size
        )

    def cut(self, lengths: npt.ArrayLike, *, epoch: int, number: int, last: bool) -> Pool:
        """The batches of a pool.

        Args:
            lengths: how many steps each row has that was read.
            epoch: which epoch it is.
            number: which pool of the epoch.
            last: whether no more rows follow. If some do, those that do not go round are left to the next pool.

        Raises:
            LengthError: for a long row, if the policy refuses those.
            OptionError: if the last rows do not go round, and that is refused.
        """
        checked = Lengths.of(np.asarray(lengths, np.int64))
        if not last:
            for rows in range(len(checked), max(len(checked) - self.world_size, self.world_size - 1), -1):
                batches, pieces, repeated = self._made(Lengths.of(checked.values[:rows]), epoch, number, "repeat")
                if not repeated:
                    return Pool(rows, batches, pieces)
        if last and number and self.uneven == "drop" and len(checked) < self.world_size:
            # A plan of so few rows refuses to drop them all; a stream has given others.
            none = np.empty(0, np.int32)
            return Pool(len(checked), Batches(none, none, none, none, none), Pieces(len(checked)))
        batches, pieces, _ = self._made(checked, epoch, number, self.uneven)
        return Pool(len(checked), batches, pieces)

    def _made(self, lengths: Lengths, epoch: int, number: int, uneven: Uneven) -> tuple[Batches, Pieces, int]:
        path = (epoch, number) if number else (epoch,)
        draws = None if self.seed is None else Draws(self.seed, path)
        pieces = pieces_of(lengths, self._whole)
        making = Making(lengths, pieces, self._whole, self.seed, worst_first=False, uneven=uneven)
        batches, repeated, _ = making.made(None, draws, self.world_size)
        return batches, pieces, len(repeated)


def _share_of(length: int, policy: Policy) -> float:
    limit = policy.limit()
    if limit is None or length <= limit:
        return 1 / policy.room(length)
    match policy.too_long:
        case "truncate":
            return 1 / policy.room(limit)
        case "split":
            whole, rest = divmod(length, limit)
            return whole / policy.room(limit) + (1 / policy.room(rest) if rest else 0)
        case _:
            return 1
