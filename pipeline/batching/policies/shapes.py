"""Batches of a few fixed shapes, for graphs that are compiled once a shape."""

from collections.abc import Sequence
from typing import final

import attrs
import numpy as np
from typing_extensions import override

from pipeline.batching.numbers import IntArray, whole
from pipeline.batching.policy import Policy
from pipeline.errors import OptionError


def _by_steps(shapes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    known = [(whole("rows", rows, least=1), whole("steps", steps, least=1)) for rows, steps in shapes]
    if not known:
        raise OptionError("shapes must be one (rows, steps) or more, but none arrived.")
    return tuple(sorted(set(known), key=lambda shape: (shape[1], shape[0])))


@final
@attrs.frozen
class Shapes(Policy):
    """A fixed set of shapes: every batch is padded to one of them, in rows too where rows run out.

    A row goes to the shape of the fewest steps that hold it, and of the most rows among those.

    Args:
        allowed: pairs of rows and steps.

    Raises:
        OptionError: for no shapes, or a number below 1; by a plan, for rows of two lengths.

    Example:
        >>> shapes = Shapes([(16, 128), (64, 32)])
        >>> shapes.room(longest=20), shapes.room(longest=40)
        (64, 16)
    """

    allowed: tuple[tuple[int, int], ...] = attrs.field(converter=_by_steps)

    @override
    def rows_of(self, longest: int) -> int:
        steps = min(steps for _, steps in self.allowed if steps >= longest)
        # A shape of more steps and more rows is wide of the mark: what is asked for must not grow with the length.
        return max(rows for rows, least in self.allowed if least == steps)

    @override
    def fits(self) -> int:
        return self.allowed[-1][1]

    @override
    def shapes(self, rows: IntArray, longest: IntArray) -> IntArray:
        """The least shape that holds each batch; a long row's own, if it stands alone."""
        if longest.shape[1] == 2:
            msg = "Shapes needs one length a row, but two arrived: its shapes have rows and steps; take a Budget."
            raise OptionError(msg)
        own = np.column_stack([rows, longest]).astype(np.int64)
        areas = sorted(self.allowed, key=lambda shape: (shape[0] * shape[1], shape[1]), reverse=True)
        found = own.copy()
        for allowed in areas:
            found[(own <= allowed).all(axis=1)] = allowed
        return found
