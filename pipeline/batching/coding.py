"""What rows are sorted by: one number a row, the least for the longest row."""

import math
from typing import Final, final

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.lengths import Lengths
from pipeline.batching.pieces import Pieces
from pipeline.batching.policy import Policy

_BANDS: Final = 1.5
"""How many bands there are, times the square root of a pool's batches: measured, the least padding."""


@final
@attrs.frozen(eq=False)
class Coding:
    """IntArray that bring rows of like length together.

    With one length a row, it is what the row lacks to the longest. With two, rows are divided into bands by the first
    and sorted by the second within each, up in one band and down in the next: neighbours are alike in both.

    Attributes:
        longest: the most steps of a row, both lengths together.
        sides: how many lengths a row has.
        edges: between which totals of its two lengths batches never cross.
        bands: between which first lengths the bands lie.
    """

    longest: int
    sides: int
    edges: npt.NDArray[np.int64]
    bands: npt.NDArray[np.int64]

    @classmethod
    def of(
        cls, lengths: Lengths, pieces: Pieces, policy: Policy, sample: npt.NDArray[np.int64], batches: float
    ) -> "Coding":
        """The coding of rows of such lengths.

        Args:
            lengths: the lengths of all rows.
            pieces: what is left of them.
            policy: whose edges hold.
            sample: the lengths of some rows, of shape (rows, 2) if there are two.
            batches: about how many batches a pool makes.
        """
        longest = lengths.top if pieces.limit is None else min(lengths.top, pieces.limit)
        edges = np.asarray(policy.edges(), np.int64)
        bands = np.empty(0, np.int64) if lengths.sides == 1 else _bands(sample, round(_BANDS * math.sqrt(batches)))
        return cls(longest, lengths.sides, edges, bands)

    @property
    def exact(self) -> bool:
        """Whether a row's length can be told from its code."""
        return self.sides == 1

    @property
    def top(self) -> int:
        """The greatest code."""
        if self.exact:
            return self.longest
        return (len(self.edges) + 1) * (len(self.bands) + 1) * (self.longest + 1) - 1

    def codes(self, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The code of each row, of lengths of shape (rows, 1) or (rows, 2)."""
        if self.exact:
            return self.longest - lengths[:, 0]
        first, second = lengths[:, 0], lengths[:, 1]
        groups = len(self.edges) - np.searchsorted(self.edges, first + second)
        bands = len(self.bands) - np.searchsorted(self.bands, first)
        within = np.where(bands % 2, second, self.longest - second)
        found: npt.NDArray[np.int64] = (groups * (len(self.bands) + 1) + bands) * (self.longest + 1) + within
        return found

    def lengths(self, codes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The lengths, of shape (rows,), that exact codes were made of."""
        return self.longest - codes


def _bands(sample: npt.NDArray[np.int64], bands: int) -> npt.NDArray[np.int64]:
    """First lengths between which lie so many bands of about as many steps each."""
    if bands < 2 or not len(sample):
        return np.empty(0, np.int64)
    first = np.sort(sample[:, 0])
    steps = np.cumsum(sample.sum(axis=1)[np.argsort(sample[:, 0], kind="stable")])
    return np.unique(first[np.searchsorted(steps, steps[-1] * np.arange(1, bands) // bands)])
