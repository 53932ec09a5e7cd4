"""A broken part, and the laws that it must break."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import attrs

from pipeline.testing import Law, LawBrokenError

P = TypeVar("P")


@attrs.frozen
class Trial:
    """A part, the laws that it must break, and a function that finds those that it breaks."""

    name: str
    breaks: frozenset[str]
    because: str
    found: Callable[[], frozenset[str]]


def trial(make: Callable[[], P], laws: Sequence[Law[P]], breaks: str, because: str = "") -> Trial:
    """Describe a part that breaks the named laws, and obeys all others of its kind.

    Args:
        make: creates the part.
        laws: the laws of its kind.
        breaks: the names of the laws that it breaks.
        because: the reason if there are several.
    """

    def found() -> frozenset[str]:
        return frozenset(get_name(law) for law in laws if is_broken(law, make))

    return Trial(get_name(make), frozenset(breaks.split()), because, found)


def get_name(function: Callable[..., object]) -> str:
    """Return the name of a function or class."""
    return str(getattr(function, "__name__", function))


def is_broken(law: Law[P], make: Callable[[], P]) -> bool:
    """Return whether a part breaks a law."""
    try:
        law(make)
    except LawBrokenError:
        return True
    return False
