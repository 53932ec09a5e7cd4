"""How random an epoch is, in two figures; and whether it serves every row once."""

from typing import final

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.adjacent import adjacent_correlation
from pipeline.batching.draws import Draws
from pipeline.batching.numbers import IntArray, whole
from pipeline.batching.plan import Plan
from pipeline.errors import OptionError


@final
@attrs.frozen
class Randomness:
    """Two figures that show whether sorting by length became an order of training.

    Attributes:
        correlation: of the mean lengths of adjacent batches, as one rank meets them: 0 if their order is random, near
            1 if batches come sorted. A shuffled plan keeps it within
            max(0.05, 2 / sqrt(batches)), where its batches allow that.
        mates: the share of pairs of batch mates that are mates in the next epoch again: 1 if batches are always the
            same.

    Example:
        >>> from pipeline.batching import Budget
        >>> lengths = [length % 40 for length in range(10_000)]
        >>> this, following = (Plan.of(lengths, Budget(400, batches_per_sort=50), epoch=epoch) for epoch in (0, 1))
        >>> figures = Randomness.of(this, following)
        >>> abs(figures.correlation) < 0.1, figures.mates < 0.1
        (True, True)
    """

    correlation: float
    mates: float

    @classmethod
    def of(cls, plan: Plan, following: Plan) -> "Randomness":
        """Both figures of a plan and the next epoch's."""
        return cls(correlation(plan), mates_again(plan, following))

    def __str__(self) -> str:
        return f"adjacent batches correlate by {self.correlation:+.3f}; {self.mates:.1%} of mates meet again"


def correlation(plan: Plan, rank: int = 0) -> float:
    """Pearson's correlation of adjacent batches' mean lengths, in the order in which one rank meets them.

    0 where there are fewer than three batches, or all are of one length.
    """
    mine = plan if plan.taken_by is not None else plan.rank(rank)
    means = mine.steps / np.maximum(mine.stops - mine.starts, 1)
    return adjacent_correlation(means)


def mates_again(plan: Plan, following: Plan, *, rows: int = 1_000_000) -> float:
    """The share of a plan's pairs of batch mates that are mates in the following plan too.

    Args:
        plan: one epoch.
        following: another, of the same rows.
        rows: of how many rows pairs are counted: of all, if there are no more, else of whole batches drawn at random.

    Raises:
        OptionError: for plans of different rows.
    """
    whole("rows", rows, least=1)
    if len(plan.pieces) != len(following.pieces):
        msg = f"plans must be of the same rows, but one has {len(plan.pieces)} of them, one {len(following.pieces)}."
        raise OptionError(msg)
    chosen = Draws(0, ()).permutation(len(plan))
    sizes = (plan.stops - plan.starts)[chosen].astype(np.int64)
    enough = int(np.searchsorted(np.cumsum(sizes), rows)) + 1
    chosen, sizes = chosen[:enough], sizes[:enough]
    pairs = int((sizes * (sizes - 1) // 2).sum())
    if not pairs:
        return 0.0
    met = np.full(len(following.pieces), -1, np.int64)
    met[served(following)] = np.repeat(np.arange(len(following)), following.stops - following.starts)
    then = met[np.concatenate([plan[batch] for batch in chosen.tolist()])]
    together = np.repeat(np.arange(len(chosen)), sizes) * len(following) + then
    _, counts = np.unique(together[then >= 0], return_counts=True)
    return int((counts * (counts - 1) // 2).sum()) / pairs


def served(plan: Plan) -> IntArray:
    """The numbers of all rows that a plan serves, batch by batch."""
    return np.concatenate([plan.order[:0], *plan])


@final
@attrs.frozen(eq=False)
class Coverage:
    """Which rows plans leave out, and which they serve more than once.

    Attributes:
        missing: the rows that are in none of the batches.
        doubled: the rows that are in more than one.

    Example:
        >>> from pipeline.batching import Rows
        >>> plan = Plan.of([3, 1, 2, 5], Rows(1), world_size=2)
        >>> Coverage.of(plan.rank(0), plan.rank(1)).once
        True
        >>> len(Coverage.of(plan.rank(0)).missing)
        2
    """

    missing: npt.NDArray[np.int64]
    doubled: npt.NDArray[np.int64]

    @classmethod
    def of(cls, *plans: Plan) -> "Coverage":
        """What plans cover together: those of all ranks, or of the stretches of an epoch.

        Raises:
            OptionError: for plans of different rows, or none.
        """
        if len({len(plan.pieces) for plan in plans}) != 1:
            raise OptionError("the coverage of one plan, or of some of the same rows, can be told, but others arrived.")
        times = np.zeros(len(plans[0].pieces), np.int64)
        for plan in plans:
            times += np.bincount(served(plan), minlength=len(times))
        return cls(np.flatnonzero(times == 0), np.flatnonzero(times > 1))

    @property
    def complete(self) -> bool:
        """Whether every row is served exactly once."""
        return not len(self.missing) and not len(self.doubled)
