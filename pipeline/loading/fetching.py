"""Things by number, several at a time where that is offered, and which one is at hand where it is not."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from pipeline.loading.hands import reading, watched
from pipeline.loading.naming import named
from pipeline.sources.source import Source

V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)


class Numbered(Protocol[V_co]):
    """Things in order, each there for its number: a list, a `Source`, a `Dataset` of torch."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> V_co: ...


def fetched(things: Numbered[V], numbers: Sequence[int]) -> list[V]:
    """Several things, together if they offer that."""
    several: Callable[[Sequence[int]], list[V]] | None = getattr(things, "__getitems__", None)
    # A source that has nothing faster than one after the other is asked so here: then it is known which is at hand.
    if several is None or getattr(type(things), "__getitems__", None) is Source.__dict__["__getitems__"]:
        found = _one_by_one(things, numbers)
        reading(-1)
        return found
    return several(numbers)


def _one_by_one(things: Numbered[V], numbers: Sequence[int]) -> list[V]:
    if watched():
        return [fetched_one(things, number) for number in numbers]
    number, found = -1, list[V]()
    try:
        for number in numbers:
            found.append(things[number])
    except Exception as error:
        error.add_note(f"It is {named(things, number)}.")
        raise
    return found


def fetched_one(things: Numbered[V], number: int) -> V:
    """One thing; an error about it says which it is."""
    reading(number)
    try:
        return things[number]
    except Exception as error:
        error.add_note(f"It is {named(things, number)}.")
        raise
