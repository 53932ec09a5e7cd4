"""What anyone would try first, to be beaten: look up what stood in such a place most often."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import final

from pipeline.demo.source import Line

_REACHES = (3, 2, 1, 0)
_OUTSIDE = "\n"
"""What stands beside a line: nothing that a line can hold."""


@final
class Windows:
    """A character's commonest class among those with the same three neighbours on either side.

    Where these were never seen, two neighbours decide, then one, then the character alone, and at last the
    commonest class of all.

    Args:
        lines: what to count.

    Example:
        >>> windows = Windows([Line("x=1", ["name", "operator", "number"], "statement", False, "a.py", 1)])
        >>> windows.classes("y=1")
        ['name', 'operator', 'number']
    """

    def __init__(self, lines: Iterable[Line]) -> None:
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for line in lines:
            for window, name in zip(_windows(line.text), line.classes, strict=True):
                for found in _shorter(window):
                    counts[found][name] += 1
        self._commonest = {window: found.most_common(1)[0][0] for window, found in counts.items()}

    def classes(self, text: str) -> list[str]:
        """A class for every character of a line."""
        return [
            next(self._commonest[found] for found in _shorter(window) if found in self._commonest)
            for window in _windows(text)
        ]


def commonest(kinds: Iterable[str]) -> str:
    """The class that occurs most often, the first to occur if there are several."""
    return Counter(kinds).most_common(1)[0][0]


def _windows(text: str) -> Iterable[str]:
    """Each character amid its neighbours."""
    reach = _REACHES[0]
    padded = _OUTSIDE * reach + text + _OUTSIDE * reach
    return (padded[place : place + 2 * reach + 1] for place in range(len(text)))


def _shorter(window: str) -> list[str]:
    """A window, and what is left of it as it shrinks to its middle, and to nothing."""
    middle = len(window) // 2
    return [*(window[middle - reach : middle + reach + 1] for reach in _REACHES), ""]
