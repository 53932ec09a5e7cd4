"""What rows are sorted by: one number a row, the longest row's the least."""

from typing import final

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.lengths import Lengths
from pipeline.batching.pieces import Pieces


@final
@attrs.frozen(eq=False)
class Coding:
    """Numbers that bring rows of like length together.

    Attributes:
        top: the greatest code.
        exact: whether a row's length is what its code lacks to the greatest.
    """

    top: int
    exact: bool

    @classmethod
    def of(cls, lengths: Lengths, pieces: Pieces) -> "Coding":
        """The coding of rows of such lengths."""
        top = lengths.top if pieces.limit is None else min(lengths.top, pieces.limit)
        return cls(top, exact=lengths.sides == 1)

    def codes(self, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The code of each row, of lengths of shape (rows, 1) or (rows, 2)."""
        return self.top - (lengths[:, 0] if lengths.shape[1] == 1 else lengths.sum(axis=1))
