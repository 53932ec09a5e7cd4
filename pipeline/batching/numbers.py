"""Arrays of whole numbers, and whole numbers that options take."""

import operator
from typing import SupportsIndex, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.errors import OptionError

IntArray: TypeAlias = npt.NDArray[np.signedinteger]
"""Whole numbers, 32 bits wide where they fit and 64 where not."""


def whole(name: str, number: object, *, least: int) -> int:
    """The option as an int, if it is a whole number, and no less than the least that it may be.

    Raises:
        OptionError: if it is not.

    Example:
        >>> whole("rows", 64, least=1)
        64
        >>> whole("rows", 0, least=1)
        Traceback (most recent call last):
        pipeline.errors.OptionError: rows must be a whole number, 1 or more, but 0 arrived.
    """
    if not isinstance(number, SupportsIndex) or isinstance(number, bool) or (found := operator.index(number)) < least:
        msg = f"{name} must be a whole number, {least} or more, but {number!r} arrived."
        raise OptionError(msg, **{name: number})
    return found


def whole_or_none(name: str, number: object, *, least: int) -> None:
    """Check an option that may be left out.

    Raises:
        OptionError: if it is given, and is not a whole number, `least` or more.
    """
    if number is not None:
        whole(name, number, least=least)


def one_of(name: str, choice: object, choices: tuple[str, ...]) -> None:
    """Check an option that has a few choices.

    Raises:
        OptionError: if it is none of them.
    """
    if choice not in choices:
        msg = f"{name} must be one of {', '.join(choices)}, but {choice!r} arrived."
        raise OptionError(msg, **{name: choice})


def narrow(largest: int) -> "np.dtype[np.signedinteger]":
    """The narrowest type that holds such a number: four bytes a row, below two thousand million of them."""
    return np.dtype(np.int32) if largest <= np.iinfo(np.int32).max else np.dtype(np.int64)
