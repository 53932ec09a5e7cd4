"""One epoch, whoever made its batches, and what can be said of it."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from bench.batching.corpus import Lengths

Batch: TypeAlias = Sequence[int] | NDArray[np.signedinteger]
"""The numbers of some rows."""


@attrs.frozen(eq=False)
class Epoch:
    """The batches of an epoch, in order.

    Attributes:
        lengths: how many steps each row of the data has.
        rows: the numbers of the rows, batch by batch.
        sizes: how many rows each batch has.

    Example:
        >>> epoch = Epoch.of(np.array([4, 1, 5, 2]), [[2, 0], [3, 1]])
        >>> epoch.padded.tolist(), f"{epoch.wasted:.1%}"
        ([10, 4], '14.3%')
    """

    lengths: Lengths
    rows: Lengths
    sizes: Lengths

    @classmethod
    def of(cls, lengths: Lengths, batches: Iterable[Batch]) -> "Epoch":
        """The epoch of some batches; one without rows is none of them."""
        found = [np.asarray(batch, np.int64) for batch in batches if len(batch)]
        return cls(lengths, np.concatenate([np.empty(0, np.int64), *found]), np.array([*map(len, found)], np.int64))

    @property
    def padded(self) -> Lengths:
        """How many steps each batch has when it is padded."""
        longest: Lengths = np.maximum.reduceat(self.lengths[self.rows], self._begins)
        return longest * self.sizes

    @property
    def wasted(self) -> float:
        """The share of padding in all steps."""
        return 1 - int(self.lengths[self.rows].sum()) / int(self.padded.sum())

    @property
    def correlation(self) -> float:
        """Pearson's, of the mean lengths of adjacent batches; 0 where there is none."""
        means = np.add.reduceat(self.lengths[self.rows], self._begins) / self.sizes
        if len(means) < 3 or not means[:-1].std() or not means[1:].std():
            return 0.0
        return float(np.corrcoef(means[:-1], means[1:])[0, 1])

    def mates_again(self, following: "Epoch") -> float:
        """The share of pairs of batch mates that are mates in the following epoch too."""
        pairs = int((self.sizes * (self.sizes - 1) // 2).sum())
        met = np.full(len(self.lengths), -1, np.int64)
        met[following.rows] = np.repeat(np.arange(len(following.sizes)), following.sizes)
        then = met[self.rows]
        together = np.repeat(np.arange(len(self.sizes)), self.sizes) * len(following.sizes) + then
        _, counts = np.unique(together[then >= 0], return_counts=True)
        return int((counts * (counts - 1) // 2).sum()) / pairs if pairs else 0.0

    @property
    def astray(self) -> int:
        """How many rows are served never, or more than once."""
        return int((np.bincount(self.rows, minlength=len(self.lengths)) != 1).sum())

    @property
    def _begins(self) -> Lengths:
        begins: Lengths = np.cumsum(self.sizes) - self.sizes
        return begins
