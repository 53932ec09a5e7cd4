"""Arrays of whole numbers, and whole numbers that options take."""

import operator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.errors import OptionError

Numbers: TypeAlias = npt.NDArray[np.signedinteger]
"""Whole numbers, 32 bits wide where they fit and 64 where not."""


def whole(name: str, number: object, *, least: int) -> int:
    """The option as an int, if it is a whole number and no less than it may be.

    Raises:
        OptionError: if it is not.

    Example:
        >>> whole("rows", 64, least=1)
        64
        >>> whole("rows", 0, least=1)
        Traceback (most recent call last):
        pipeline.errors.OptionError: rows must be a whole number, 1 or more, but 0 arrived.
    """
    try:
        found = least - 1 if isinstance(number, bool) else operator.index(number)  # type: ignore[arg-type]
    except TypeError:
        found = least - 1
    if found < least:
        msg = f"{name} must be a whole number, {least} or more, but {number!r} arrived."
        raise OptionError(msg, **{name: number})
    return found


def narrow(largest: int) -> type[np.int32] | type[np.int64]:
    """The narrowest type that holds such a number: four bytes a row, below two thousand million of them."""
    return np.int32 if largest <= np.iinfo(np.int32).max else np.int64
