"""Examples as pairs that can be compared; spawned workers import this module."""

from collections.abc import Iterable
from typing import Any

from pipeline import Example


def to_pairs(examples: Iterable[Example[Any]]) -> list[tuple[object, object]]:
    """Return the inputs and targets of examples."""
    return [(example.input, example.target) for example in examples]
