"""Candidates timed in one process, by turns."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

import attrs

from bench.timing.times import Times

T = TypeVar("T")

SLOW: Final = 20.0
"""Seconds of a first step past which a candidate runs once."""


@attrs.frozen
class Turns:
    """How often candidates are timed.

    Attributes:
        most: the turns that each gets,
        fewest: or, where all of them would take too long, these.
        seconds: what is too long.
    """

    most: int = 15
    fewest: int = 3
    seconds: float = 15.0

    def of(self, once: float) -> int:
        """How many turns there are, if all candidates together take so many seconds.

        Example:
            >>> [Turns(most=15, fewest=3, seconds=10.0).of(once) for once in (0.1, 1.0, 60.0)]
            [15, 10, 3]
        """
        return max(self.fewest, min(self.most, int(self.seconds / once)))


def timed(run: Callable[[], T]) -> tuple[T, float]:
    """What a run gives, and how many seconds it takes."""
    start = time.perf_counter()
    given = run()
    return given, time.perf_counter() - start


def by_turns(
    candidates: Mapping[str, Callable[[], object]], turns: Turns, first: Mapping[str, float], slow: float = SLOW
) -> dict[str, Times]:
    """The times of candidates that run one after the other, turn by turn, so that noise hits all alike.

    Every other turn goes backwards: none always runs behind the same one.

    Args:
        candidates: what to time, by name.
        turns: how often.
        first: how long each took the first time, which warmed it up.
        slow: seconds past which that first time is all there is of a candidate.
    """
    taken = {name: [first[name]] if first[name] > slow else list[float]() for name in candidates}
    again = [name for name in candidates if first[name] <= slow]
    for turn in range(turns.of(sum(first[name] for name in again)) if again else 0):
        for name in _alternating(again, turn):
            taken[name].append(timed(candidates[name])[1])
    return {name: Times(each) for name, each in taken.items()}


def first_times(candidates: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """How long each takes the first time."""
    return {name: timed(run)[1] for name, run in candidates.items()}


def _alternating(names: list[str], turn: int) -> Iterable[str]:
    return reversed(names) if turn % 2 else names
