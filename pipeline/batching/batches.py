"""Batches as views into one order of rows, while a plan is made."""

from typing import final

import attrs
import numpy as np

from pipeline.batching.numbers import IntArray, narrow
from pipeline.batching.policy import Policy
from pipeline.batching.sorting import Sorted


@final
@attrs.frozen(eq=False)
class Batches:
    """Batch i holds `order[starts[i]:stops[i]]`.

    Attributes:
        order: numbers of rows.
        starts: where each batch begins in it.
        stops: where it ends.
        shapes: what it is padded to: rows, then steps, a column for each of a row's lengths.
        steps: how many real steps it has.
    """

    order: IntArray
    starts: IntArray
    stops: IntArray
    shapes: IntArray
    steps: IntArray

    @classmethod
    def of(cls, rows: Sorted, starts: IntArray, policy: Policy) -> "Batches":
        """The batches that begin at such places, one behind the other."""
        kind = narrow(len(rows.order))
        stops = np.append(starts[1:], len(rows.order)).astype(kind)
        if not len(starts):
            none = np.empty((0, 1 + rows.lengths.shape[1]), np.int32)
            return cls(rows.order, stops[:0], stops[:0], none, none[:, 0])
        # One length a row never rises within a pool.
        one = rows.lengths.shape[1] == 1
        longest = rows.lengths[starts] if one else np.maximum.reduceat(rows.lengths, starts, axis=0)
        # Column by column: along two axes numpy takes ten times as long.
        steps = np.zeros(len(starts), np.int64)
        for side in range(rows.lengths.shape[1]):
            steps += np.add.reduceat(rows.lengths[:, side], starts, dtype=np.int64)
        shapes = policy.shapes(stops - starts, longest)
        return cls(rows.order, starts.astype(kind), stops, shapes.astype(_kind(shapes)), steps.astype(_kind(steps)))

    def __len__(self) -> int:
        return len(self.starts)

    def taken(self, which: IntArray | slice) -> "Batches":
        """Some of the batches, in the order that is asked for."""
        return attrs.evolve(
            self,
            starts=self.starts[which],
            stops=self.stops[which],
            shapes=self.shapes[which],
            steps=self.steps[which],
        )


def _kind(numbers: IntArray) -> "np.dtype[np.signedinteger]":
    return narrow(int(numbers.max()))
