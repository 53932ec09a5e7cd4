"""Where each record of a file stands: 8 bytes a record."""

from collections.abc import Iterable
from typing import final

import attrs
import numpy as np

from pipeline.sources.framing import Frame, Places


@final
@attrs.frozen(eq=False)
class Index:
    """The places of a file's records.

    Attributes:
        bounds: where each frame begins, and where the last ends, in bytes.
        gaps: which frames are no records: blank lines, a header.
    """

    bounds: Places
    gaps: Places

    @classmethod
    def of(cls, found: Iterable[Frame], *, keep_blank: bool, headers: int) -> "Index":
        """The index of frames.

        Args:
            found: the frames of a file, in their order.
            keep_blank: whether a blank line is a record.
            headers: how many records at the beginning are none.
        """
        bounds: list[Places] = []
        gaps: list[Places] = []
        count = 0
        for some in found:
            if count == 0:
                bounds.append(some.starts[:1])
            bounds.append(some.stops)
            left_out = np.zeros_like(some.blank) if keep_blank else some.blank.copy()
            heads = np.flatnonzero(~left_out)[:headers]
            headers -= len(heads)
            left_out[heads] = True
            gaps.append(np.flatnonzero(left_out) + count)
            count += len(some.stops)
        return cls(_joined(bounds), _joined(gaps))

    def __len__(self) -> int:
        return max(0, len(self.bounds) - 1) - len(self.gaps)

    def span(self, record: int) -> tuple[int, int]:
        """Where a record begins and ends, in bytes.

        Example:
            >>> index = Index(np.array([0, 4, 5, 9]), np.array([1]))
            >>> len(index), index.span(0), index.span(1)
            (2, (0, 4), (5, 9))
        """
        frame = without(self.gaps, record)
        return int(self.bounds[frame]), int(self.bounds[frame + 1])


def without(gaps: Places, number: int) -> int:
    """The number that something has among all, if it has this one when those at the gaps are left out.

    Example:
        >>> [without(np.array([0, 3]), number) for number in range(4)]
        [1, 2, 4, 5]
    """
    if len(gaps) == 0:
        return number
    # Before the gap of number g, g less its own place among the gaps are counted.
    return number + int(np.searchsorted(gaps - np.arange(len(gaps)), number, side="right"))


def _joined(parts: list[Places]) -> Places:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
