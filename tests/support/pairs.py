"""Examples in a form that can be compared, in a module that workers that are spawned can import."""

from collections.abc import Iterable
from typing import Any

from pipeline import Example


def pairs(examples: Iterable[Example[Any]]) -> list[tuple[object, object]]:
    """Inputs and targets."""
    return [(example.input, example.target) for example in examples]
