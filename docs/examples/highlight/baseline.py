"""The simple rules that the model is compared with."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import final

from highlight.source import Line

_REACHES = (3, 2, 1, 0)
# The neighbour of a line's first and last character: no line contains it.
_OUTSIDE = "\n"


@final
class WindowRule:
    """Classify a character by the most frequent class in the same window of seven characters.

    A window that never occurred in training is shortened to five characters, three, the character alone, and at last
    to nothing, which gives the most frequent class of all.

    Args:
        lines: the training lines.

    Example:
        >>> rule = WindowRule([Line("x=1", ["name", "operator", "number"], "statement", False, "a.py", 1)])
        >>> rule.classify("y=1")
        ['name', 'operator', 'number']
    """

    def __init__(self, lines: Iterable[Line]) -> None:
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for line in lines:
            for window, name in zip(_list_windows(line.text), line.classes, strict=True):
                for shorter in _shorten(window):
                    counts[shorter][name] += 1
        self._most_frequent = {window: found.most_common(1)[0][0] for window, found in counts.items()}

    def classify(self, text: str) -> list[str]:
        """Return a class for every character of a line."""
        return [
            next(self._most_frequent[shorter] for shorter in _shorten(window) if shorter in self._most_frequent)
            for window in _list_windows(text)
        ]


def find_most_frequent(kinds: Iterable[str]) -> str:
    """Return the kind that occurs most often; of several, the one that occurs first."""
    return Counter(kinds).most_common(1)[0][0]


def _list_windows(text: str) -> Iterable[str]:
    """Yield each character with its neighbours."""
    reach = _REACHES[0]
    padded = _OUTSIDE * reach + text + _OUTSIDE * reach
    return (padded[start : start + 2 * reach + 1] for start in range(len(text)))


def _shorten(window: str) -> list[str]:
    """List a window, the shorter ones around its middle, and the empty one."""
    middle = len(window) // 2
    return [*(window[middle - reach : middle + reach + 1] for reach in _REACHES), ""]
