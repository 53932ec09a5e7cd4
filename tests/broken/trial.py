"""A broken part, and the laws that it breaks."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import attrs
import torch
from torch import Tensor

from pipeline.testing import Law, LawBrokenError

P = TypeVar("P")


def leaked(update: Tensor, start: Tensor) -> Tensor:
    """A decaying sum over time."""
    state = start
    steps: list[Tensor] = []
    for step in update.unbind(1):
        state = state / 2 + step
        steps.append(state)
    return torch.stack(steps, 1) if steps else update


@attrs.frozen
class Trial:
    """A part, the names of the laws that it breaks, and those that it was found to break."""

    name: str
    breaks: frozenset[str]
    because: str
    found: Callable[[], frozenset[str]]


def trial(make: Callable[[], P], laws: Sequence[Law[P]], breaks: str, because: str = "") -> Trial:
    """A part that breaks the laws named, all others of its kind holding.

    Args:
        make: makes one.
        laws: those of its kind.
        breaks: the names of those that it breaks.
        because: why there are more than one.
    """

    def found() -> frozenset[str]:
        return frozenset(name_of(law) for law in laws if is_broken(law, make))

    return Trial(name_of(make), frozenset(breaks.split()), because, found)


def name_of(function: Callable[..., object]) -> str:
    """What a function or class is called."""
    return str(getattr(function, "__name__", function))


def is_broken(law: Law[P], make: Callable[[], P]) -> bool:
    """Whether a part breaks a law."""
    try:
        law(make)
    except LawBrokenError:
        return True
    return False
